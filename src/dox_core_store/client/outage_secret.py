"""`SealingSource`: as whom outage files are sealed, and with what secret.

The secret is the service's own key, if it has one (``SERVICE_KEY_FILE``, ``SERVICE_KEY``), else its
token: then a process with another token opens nothing of what was sealed before. The process in
which the token file changed still does.

Who we are stands in the token. Where that is got by exchange there is none to begin with, and in an
outage none is to be had: so it is noted in the folder who we were last. The note is nothing to rely
on: a wrong one opens no file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from dox_core_store.client.credential import Credential, Token
from dox_core_store.client.exchanged import ExchangedCredential
from dox_core_store.client.outage_folder import OutageFolder
from dox_core_store.errors import ConfigurationError

__all__ = ["Principal", "Sealing", "SealingSource"]

_KEPT_SECRETS = 4
"""Of the tokens that a file held since the process began, the newest."""

_NOTE = "principal"
_MAX_NOTE_BYTES = 1024


class Principal(NamedTuple):
    """Whose files they are. Another ``environment`` is another principal, as everywhere in the
    client: a bare path means another key to it."""

    store_id: str
    service: str
    environment: str


class Sealing(NamedTuple):
    """``secrets``: the first one seals, all of them open."""

    token: Token | None
    principal: Principal
    secrets: tuple[bytes, ...]


class SealingSource:
    """See the module. Raises ``bad_setting`` where nothing secret would outlive the process, and
    for a key that cannot be used."""

    def __init__(
        self,
        *,
        credential: Credential | ExchangedCredential,
        service_name: str,
        environ: Mapping[str, str],
        folder: OutageFolder,
    ) -> None:
        self._credential = credential
        self._service_name = service_name
        self._environ = environ
        self._folder = folder
        self._sealing: Sealing | None = None
        if self._key_of(None) is None and isinstance(credential, ExchangedCredential):
            raise ConfigurationError(
                "bad_setting",
                "There is a folder for outages, but no lasting secret to seal it with, since the"
                " token is got by exchange: set SERVICE_KEY_FILE, or name no folder.",
            )

    def current(self) -> Sealing | None:
        """What holds now; None while it is not known who we are. Raises `ConfigurationError`."""
        token = (
            self._credential.current()
            if isinstance(self._credential, Credential)
            else self._credential.in_hand
        )
        was = self._sealing
        if was is not None and was.token is token:
            return was
        principal = self._noted() if token is None else self._named_by(token)
        if principal is None:
            return None
        secret = self._key_of(token)
        if secret is None:
            if token is None:
                return None
            secret = token.text.reveal().encode()
        before = () if was is None else was.secrets
        others = tuple(each for each in before if each != secret)
        self._sealing = Sealing(token, principal, (secret, *others)[:_KEPT_SECRETS])
        return self._sealing

    def _key_of(self, token: Token | None) -> bytes | None:
        if token is not None and token.key is not None:
            return token.key.secret()
        if not (self._environ.get("SERVICE_KEY") or self._environ.get("SERVICE_KEY_FILE")):
            return None
        # Imported only where there is such a key, as for bound tokens.
        from dox_core_store.client.proof import service_key_from  # noqa: PLC0415

        key = service_key_from(self._environ)
        return None if key is None else key.secret()

    def _named_by(self, token: Token) -> Principal:
        claims = token.claims
        principal = Principal(claims.iss or "", self._service_name, claims.env or "")
        if isinstance(self._credential, ExchangedCredential):
            with contextlib.suppress(OSError):
                self._folder.note(_NOTE, msgspec.json.encode(principal))
        return principal

    def _noted(self) -> Principal | None:
        content = self._folder.noted(_NOTE, most=_MAX_NOTE_BYTES)
        try:
            noted = None if content is None else msgspec.json.decode(content, type=Principal)
        except msgspec.MsgspecError:
            return None
        return noted if noted is not None and noted.service == self._service_name else None
