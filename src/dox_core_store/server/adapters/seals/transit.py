"""The Transit slot: a random key that OpenBao (or Vault) encrypts and gives back to who may ask.

What is stored names the engine's mount and key and holds the ciphertext. Where the server is and
the token for it come from this process's settings or environment, never from the database: whoever
writes that must not choose whom we believe. Store and slot are bound as associated data, so a
ciphertext moved to another store is refused by the server itself.

The token needs ``update`` on ``<mount>/encrypt/<key>`` to make the slot and on
``<mount>/decrypt/<key>`` to open it. No redirects are followed and no proxy is used; an answer has
to come within five seconds.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dox_core_store.errors import ConfigurationError, error_for
from dox_core_store.server.adapters.seals.parameters import parameters_of, read_parameters
from dox_core_store.server.domain.envelope import KEY_BYTES, associated_data
from dox_core_store.server.domain.seal import Slot, SlotKind

if TYPE_CHECKING:
    import hvac

__all__ = ["TransitHolder"]

_TIMEOUT_SECONDS = 5.0
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z"
_MOUNT = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){0,3}\Z"
_MAX_TOKEN_BYTES = 8192


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mount: Annotated[str, msgspec.Meta(pattern=_MOUNT)]
    key: Annotated[str, msgspec.Meta(pattern=_NAME)]
    ciphertext: Annotated[str, msgspec.Meta(pattern=r"^vault:v[0-9]{1,9}:[A-Za-z0-9+/=]{1,512}\Z")]


class TransitHolder:
    """The `SlotHolder` port over one server. ``mount`` and ``key`` are those of a slot to make;
    without ``address`` and ``token_file``, those of the environment are used."""

    kind = SlotKind.TRANSIT

    def __init__(
        self,
        *,
        address: str = "",
        token_file: str = "",
        namespace: str = "",
        ca_file: str = "",
        mount: str = "transit",
        key: str = "doxstore",
    ) -> None:
        self._address = address or _environment("ADDR")
        self._token_file = token_file
        self._namespace = namespace or _environment("NAMESPACE")
        self._ca_file = ca_file or _environment("CACERT")
        self._mount = mount
        self._key = key

    def make(self, store_id: str, slot_id: str) -> tuple[bytes, dict[str, Any]]:
        key = os.urandom(KEY_BYTES)
        wanted = {"mount": self._mount, "key": self._key, "ciphertext": "vault:v1:0"}
        try:
            target = msgspec.convert(wanted, _Parameters)
        except msgspec.ValidationError as error:
            raise ConfigurationError(
                "bad_setting", f"This is not the name of a Transit mount and key: {error}."
            ) from error
        with self._asking(target, "encrypt") as client:
            answer = client.secrets.transit.encrypt_data(
                name=self._key,
                plaintext=base64.b64encode(key).decode(),
                mount_point=self._mount,
                **_binding(store_id, slot_id),
            )
            ciphertext = answer["data"]["ciphertext"]
        made = parameters_of(_Parameters(self._mount, self._key, ciphertext))
        # Who may encrypt may not be who may decrypt, and the slot is for opening the store.
        if self._decrypted(msgspec.convert(made, _Parameters), store_id, slot_id) != key:
            raise error_for("slot_refused", "Transit does not give back what it was given.")
        return key, made

    def open(self, store_id: str, slot: Slot) -> bytes:
        return self._decrypted(read_parameters(slot, _Parameters), store_id, slot.slot_id)

    def _decrypted(self, parameters: _Parameters, store_id: str, slot_id: str) -> bytes:
        with self._asking(parameters, "decrypt") as client:
            answer = client.secrets.transit.decrypt_data(
                name=parameters.key,
                ciphertext=parameters.ciphertext,
                mount_point=parameters.mount,
                **_binding(store_id, slot_id),
            )
            return base64.b64decode(answer["data"]["plaintext"], validate=True)

    @contextmanager
    def _asking(self, parameters: _Parameters, act: str) -> Iterator[hvac.Client]:
        """A client for one request, around which every error of its library becomes ours."""
        try:
            import hvac.exceptions  # noqa: PLC0415 - only who has such a slot needs the library
            import requests  # noqa: PLC0415 - what hvac speaks HTTP with
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "bad_setting",
                f"A Transit slot needs {error.name}, which is not installed:"
                " pip install 'dox-core-store[openbao]'.",
            ) from None
        where = f"Transit at {self._address}"
        path = f"{parameters.mount}/{act}/{parameters.key}"
        try:
            with requests.Session() as session:
                yield self._client(hvac.Client, session)
        except hvac.exceptions.Forbidden:
            raise error_for(
                "slot_refused",
                f"{where} refuses this token: it needs a policy with update on {path}.",
            ) from None
        except (
            hvac.exceptions.RateLimitExceeded,
            hvac.exceptions.InternalServerError,
            hvac.exceptions.VaultNotInitialized,
            hvac.exceptions.BadGateway,
            hvac.exceptions.VaultDown,
        ) as error:
            raise error_for("slot_unreachable", f"{where} cannot answer now: {error}.") from None
        except hvac.exceptions.VaultError as error:
            raise error_for("slot_refused", f"{where} refuses: {error}.") from None
        except requests.exceptions.RequestException as error:
            raise error_for(
                "slot_unreachable", f"{where} does not answer: {type(error).__name__}."
            ) from None
        except (KeyError, TypeError, binascii.Error) as error:
            raise error_for(
                "slot_refused", f"{where} answers in an unknown way: {type(error).__name__}."
            ) from None

    def _client(self, make: Callable[..., hvac.Client], session: Any) -> hvac.Client:
        if not self._address:
            raise ConfigurationError(
                "slot_needed",
                "A Transit slot needs an address: set transit_address, or BAO_ADDR.",
            )
        if self._ca_file and not Path(self._ca_file).is_file():
            raise ConfigurationError("bad_setting", f"There is no CA file {self._ca_file}.")
        session.trust_env = False  # neither a proxy nor another CA because of a variable
        session.verify = self._ca_file or True  # a session's own wins over what hvac is given
        return make(
            url=self._address,
            token=self._token(),
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
            session=session,
            namespace=self._namespace or None,
        )

    def _token(self) -> str:
        if not self._token_file:
            token = _environment("TOKEN")
        else:
            try:
                with Path(self._token_file).open(encoding="ascii") as file:
                    token = file.read(_MAX_TOKEN_BYTES).strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(
                    "bad_setting",
                    f"The file {self._token_file} of transit_token_file cannot be read"
                    f" ({type(error).__name__}).",
                ) from None
        if not token:
            raise ConfigurationError(
                "slot_needed",
                "A Transit slot needs a token: set transit_token_file, or BAO_TOKEN.",
            )
        return token


def _binding(store_id: str, slot_id: str) -> dict[str, str]:
    """As associated data for keys of the AEAD kinds, and as context for derived ones."""
    bound = base64.b64encode(associated_data("transit", store_id, slot_id)).decode()
    return {"associated_data": bound, "context": bound}


def _environment(name: str) -> str:
    return os.environ.get(f"BAO_{name}") or os.environ.get(f"VAULT_{name}") or ""
