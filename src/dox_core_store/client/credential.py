"""`Credential`: the token to send, where it comes from, and what it says about itself.

The token's payload is read here without verifying it: that is the store's work. It serves to
refuse early what cannot succeed (another service's token), to warn before it expires, and to know
which store issued it.

A token from a file is read again whenever the file has changed, and after a 401. A file that is
missing or half written at that moment changes nothing: the token in hand stays in use.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from dox_core_store.errors import ConfigurationError
from dox_core_store.sensitive import Sensitive

if TYPE_CHECKING:
    from dox_core_store.client.proof import ServiceKey

__all__ = ["Claims", "Credential", "Token", "claims_of", "source_from"]

_log = logging.getLogger("dox_core_store.client")

MAX_TOKEN_CHARACTERS = 8192
WARN_DAYS = (7, 30)
"""Days before expiry at which a person should hear of it (product page, DESIGN section 10)."""

_DAY_SECONDS = 86_400
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class Claims(msgspec.Struct, frozen=True):
    """What a token says: ``sub`` (the service), ``iss`` (the store's id), ``env``, times, and
    ``jkt`` if it is bound to a key: that key's thumbprint."""

    sub: str
    iss: str | None = None
    env: str | None = None
    iat: float | None = None
    exp: float | None = None
    jkt: str | None = None


class Token(NamedTuple):
    """A token to send, what it says, and the key to send it with, if it is bound to one."""

    text: Sensitive
    claims: Claims
    key: ServiceKey | None = None


Source = Sensitive | Path
"""A token that does not change, or the file that holds it."""


def source_from(
    environ: Mapping[str, str], token: str | None, *, variable: str, file_variable: str | None
) -> Source:
    """The argument, else ``variable``, else the file that ``file_variable`` names.

    Raises ``bad_setting`` if there is none, or the variable holds something else.
    """
    if token:
        return Sensitive(token)
    if text := environ.get(variable):
        if claims_of(Sensitive(text)) is None:
            raise ConfigurationError(
                "bad_setting", f"{variable} is not a token that a store issued."
            )
        return Sensitive(text)
    path = environ.get(file_variable) if file_variable else None
    if path:
        return Path(path)
    raise ConfigurationError(
        "bad_setting",
        f"There is no token: set {variable}" + (f" or {file_variable}." if file_variable else "."),
    )


class Credential:
    """The current token. ``wall`` is the time of day in seconds since 1970.

    ``service_name``, if given, must be the token's ``sub``, now and after every change.
    ``on_new_principal`` is called when a changed file's token stands for somebody else: another
    environment or another store, so whatever was learnt with the old one no longer holds.
    ``environ`` says where the key of a bound token is.
    """

    def __init__(
        self,
        source: Source,
        *,
        wall: Callable[[], float],
        service_name: str | None = None,
        on_new_principal: Callable[[], None] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._path = source if isinstance(source, Path) else None
        self._wall = wall
        self._service_name = service_name
        self._on_new_principal = on_new_principal
        self._environ = environ or {}
        self._warned_days: int | None = None
        self._seen = self._stamp()
        self._token = self._parsed(source if isinstance(source, Sensitive) else self._read())
        self._warn_when_due()

    @property
    def store_id(self) -> str | None:
        """The store that issued the token."""
        return self.current().claims.iss

    def current(self) -> Token:
        """The token to send now."""
        if self._path is not None and self._stamp() != self._seen:
            self._reload()
        self._warn_when_due()
        return self._token

    def after_refusal(self, refused: Token) -> Token | None:
        """Another token than ``refused``, if the file holds one by now."""
        if self._path is not None and self._token is refused:
            self._reload()
        return None if self._token is refused else self._token

    def _reload(self) -> None:
        self._seen = self._stamp()
        try:
            text = self._read()
            fresh = self._parsed(text)
        except ConfigurationError as error:
            if error.code == "service_mismatch":
                raise
            _log.warning("The token file is unusable now; the token in hand stays in use.")
            return
        old = self._token
        if fresh.text == old.text:
            return
        self._token, self._warned_days = fresh, None
        changed = (fresh.claims.sub, fresh.claims.iss, fresh.claims.env) != (
            old.claims.sub,
            old.claims.iss,
            old.claims.env,
        )
        if changed and self._on_new_principal is not None:
            self._on_new_principal()

    def _stamp(self) -> tuple[int, ...] | None:
        # Inode, size and time: orchestrators replace the file, people write into it.
        try:
            found = None if self._path is None else self._path.stat()
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)

    def _read(self) -> Sensitive:
        text = None
        if self._path is not None:
            try:
                text = self._path.read_bytes()[: MAX_TOKEN_CHARACTERS + 2].decode("ascii").strip()
            except (OSError, UnicodeDecodeError):
                text = None  # raised below: the decoding error would carry the bytes along
        if text is None:
            raise ConfigurationError("bad_setting", f"The token file {self._path} is unreadable.")
        return Sensitive(text)

    def _parsed(self, text: Sensitive) -> Token:
        claims = claims_of(text)
        if claims is None:
            which = "The token" if self._path is None else f"The token in {self._path}"
            raise ConfigurationError("bad_setting", f"{which} is not one that a store issued.")
        if self._service_name is not None and claims.sub != self._service_name:
            raise ConfigurationError(
                "service_mismatch",
                f"The token was issued for {ascii(claims.sub)[:80]}, "
                f"but service_name is {ascii(self._service_name)[:80]}.",
            )
        return Token(text, claims, None if claims.jkt is None else self._key(claims.jkt))

    def _key(self, thumbprint: str) -> ServiceKey:
        # Imported only for bound tokens: the others' services do not wait for it.
        from dox_core_store.client.proof import service_key_from  # noqa: PLC0415

        key = service_key_from(self._environ)
        if key is None or key.thumbprint != thumbprint:
            which = "a key: set SERVICE_KEY_FILE or SERVICE_KEY" if key is None else "another key"
            raise ConfigurationError("bad_setting", f"The token is bound to {which}.")
        return key

    def _warn_when_due(self) -> None:
        claims = self._token.claims
        if claims.exp is None:
            return
        left_days = (claims.exp - self._wall()) / _DAY_SECONDS
        # A token made for a day is not news when it has less than seven left.
        made_for_days = (
            float("inf") if claims.iat is None else (claims.exp - claims.iat) / _DAY_SECONDS
        )
        due = next((days for days in WARN_DAYS if left_days <= days < made_for_days), None)
        if due is not None and (self._warned_days is None or due < self._warned_days):
            self._warned_days = due
            _log.warning(
                "The token of %s expires in %d days: issue a new one with `doxstore token issue`.",
                ascii(claims.sub),
                max(0, int(left_days)),
            )


def claims_of(token: Sensitive) -> Claims | None:
    """What a token says, unverified; None if it is none."""
    text = token.reveal()
    if len(text) > MAX_TOKEN_CHARACTERS or _TOKEN.fullmatch(text) is None:
        return None
    payload = text.split(".")[1]
    try:
        padded = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        return msgspec.json.decode(padded, type=Claims)
    except (binascii.Error, msgspec.MsgspecError, RecursionError):
        return None
