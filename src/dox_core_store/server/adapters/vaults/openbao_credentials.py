"""How to log in to OpenBao: from which files or variables, read anew each time.

Nothing read here is kept: whoever renews a secret writes the file again, and the next login has it.
A source that cannot be read is ``vault_refused`` and not a wrong setting: files that an agent or a
kubelet writes come and go while a server runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.vaults.address import Login, VaultAddress
from dox_core_store.server.adapters.vaults.openbao_connection import vault_refused

__all__ = ["Credentials", "credentials_of"]

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_MAX_BYTES = 16_384  # a JWT with many claims


class Credentials(NamedTuple):
    """``path`` is where to log in; without one, ``read`` gives a ``token`` as it is."""

    path: str
    read: Callable[[], Mapping[str, str]]


def credentials_of(address: VaultAddress) -> Credentials:
    """How ``address`` says to log in. Raises `ConfigurationError` ``bad_setting``."""
    login = Login(address.option("login", Login.TOKEN))
    mount = address.option("auth_mount", login).strip("/")
    path = f"auth/{mount}/login"
    if login is Login.TOKEN:
        token_file = address.option("token_file")
        return Credentials("", lambda: {"token": _token(token_file)})
    if login is Login.APPROLE:
        role_file = _needed(address, "role_id_file", login)
        secret_file = address.option("secret_id_file")  # a role may be bound by networks alone
        return Credentials(path, lambda: _approle(role_file, secret_file))
    role = _needed(address, "role", login)
    if login is Login.KUBERNETES:
        jwt_file = address.option("jwt_file", _SERVICE_ACCOUNT)
    else:
        jwt_file = _needed(address, "jwt_file", login)
    return Credentials(path, lambda: {"role": role, "jwt": _read(jwt_file)})


def _approle(role_file: str, secret_file: str) -> dict[str, str]:
    given = {"role_id": _read(role_file)}
    return {**given, "secret_id": _read(secret_file)} if secret_file else given


def _token(token_file: str) -> str:
    if token_file:
        return _read(token_file)
    token = os.environ.get("BAO_TOKEN") or os.environ.get("VAULT_TOKEN")
    if not token:
        raise vault_refused(
            "There is no token for the vault: name a token_file, another login, or set BAO_TOKEN."
        )
    return token


def _read(file: str) -> str:
    try:
        with Path(file).open(encoding="ascii") as source:
            text = source.read(_MAX_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise vault_refused(
            f"The file {file} for the login to the vault cannot be read ({type(error).__name__})."
        ) from None
    if not text or not text.isprintable():
        raise vault_refused(f"The file {file} for the login to the vault holds no credential.")
    return text


def _needed(address: VaultAddress, name: str, login: Login) -> str:
    if not (given := address.option(name)):
        raise ConfigurationError("bad_setting", f"A vault with login={login} needs {name}.")
    return given
