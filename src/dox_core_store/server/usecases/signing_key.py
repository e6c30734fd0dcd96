"""The keys that sign tokens: which one signs, how one follows another, when one verifies no more.

One key signs. Replacing it is one transaction: the new one is stored and signs every token that is
entered after it. A key that is only *retired* verifies until the last token it signed has expired;
its private half is erased at once, for it never signs again. A *compromised* one verifies nothing
from the commit on: the ledger's commit is the lease of a read, so a read that was decided before
and recorded after is decided again, without it.

No row says which key signed a token. It follows from the times: a token was signed by the key that
was the newest when it was entered, and `Signing.moment` keeps these times in order even where two
processes disagree about the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from dox_core_store.errors import ConfigurationError, InvalidRequestError, NotFoundError
from dox_core_store.server.domain.access import Caller, Permission, TokenRecord, require
from dox_core_store.server.domain.key import KeyRecord, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.signing_key import SigningKeyRecord, verifies_until
from dox_core_store.server.domain.token import Claims
from dox_core_store.server.ports import Catalog, Clock, Found, Sealer, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.store_secret import (
    forget_secret,
    keep_secret,
    open_secret,
    signing_key_address,
)

__all__ = [
    "MadeKey",
    "MakeKey",
    "Rotated",
    "Signer",
    "Signing",
    "SigningKeyRing",
    "SigningKeyState",
    "current_key",
    "enter_signing_key",
    "is_compromise",
    "rotate_signing_key",
]

_COMPROMISED = "compromised"
"""How the ledger's reason begins where a key was compromised: see `is_compromise`."""

_INSTANT = timedelta(microseconds=1)
_MOST = 1_000
"""Signing keys of a store that are looked at: one a week, for twenty years."""


class MadeKey(NamedTuple):
    """A key pair just made: its name, the private half (to be sealed at once), the public half."""

    kid: str
    private_pem: bytes
    public_jwk: Mapping[str, str]


MakeKey = Callable[[], MadeKey]


class Signer(Protocol):
    """Signs claims with one key."""

    @property
    def kid(self) -> str: ...

    def sign(self, claims: Claims, store_id: str) -> str: ...


class Signing:
    """Finds the signer for a token that is being entered. Lives in the store's writer; what it
    remembers is one private key."""

    def __init__(
        self, *, store_id: str, sealer: Sealer, signer: Signer, make: Callable[[str, bytes], Signer]
    ) -> None:
        self.store_id = store_id
        self._sealer = sealer
        self._signer = signer
        self._make = make

    def signer(self, tx: Transaction) -> Signer:
        """The signer of what is entered in ``tx``, whichever process made its key.

        Raises `ConfigurationError` ``store_damaged`` where there is no usable one.
        """
        kid = current_key(tx.find(SigningKeyRecord)).kid
        if kid != self._signer.kid:
            address = signing_key_address(kid)
            pem = open_secret(self._sealer, self.store_id, address, _found(tx, kid))
            self._signer = self._make(kid, pem)
        return self._signer

    def moment(self, tx: Transaction) -> datetime:
        """When a token that is entered in ``tx`` was issued: never before its key was made."""
        return max(tx.now, current_key(tx.find(SigningKeyRecord)).created_at)


class Rotated(NamedTuple):
    """``kid`` signs now. ``retired`` or ``compromised`` is the key that something happened to."""

    kid: str
    retired: str | None
    compromised: str | None
    tokens_ended: int


class SigningKeyState(NamedTuple):
    """A key, how many tokens that were signed by it still live, and until when it verifies: None
    while it signs, and where it verifies nothing any more."""

    record: SigningKeyRecord
    live_tokens: int
    verifies_until: datetime | None


class SigningKeyRing:
    """Rotating and listing. Lives on the event loop."""

    def __init__(
        self,
        *,
        store_id: str,
        sealer: Sealer,
        catalog: Catalog,
        feed: Feed,
        clock: Clock,
        make_key: MakeKey,
    ) -> None:
        self._store_id = store_id
        self._sealer = sealer
        self._catalog = catalog
        self._feed = feed
        self._clock = clock
        self._make_key = make_key

    async def rotate(
        self, caller: Caller, *, compromised: bool, kid: str | None, reason: str | None
    ) -> Rotated:
        """Sign with a new key from here on; ``compromised``: what the old one (or ``kid``) signed
        is dead at once.

        Raises ``role_required``, ``invalid_field``, ``signing_key_not_found``.
        """
        require(caller.roles, Permission.ROTATE_SIGNING_KEYS)
        if kid is not None and not compromised:
            raise InvalidRequestError(
                "invalid_field", "Only what was compromised is named: the current key is retired."
            )
        made = await asyncio.to_thread(self._make_key)

        def work(tx: Transaction) -> Rotated:
            return rotate_signing_key(
                tx,
                caller,
                self._sealer,
                self._store_id,
                made,
                compromised=compromised,
                kid=kid,
                reason=reason,
            )

        # Also on a full disk where it takes something away: a leaked key must not wait for room.
        done = await self._catalog.write(work, urgent=compromised)
        await self._feed.catch_up()
        if done.compromised is None:
            return done
        states = await self._states()
        ended = next(each for each in states if each.record.kid == done.compromised)
        return done._replace(tokens_ended=ended.live_tokens)

    async def all(self, caller: Caller) -> list[SigningKeyState]:
        """Every key there was, the newest first. Raises ``role_required``."""
        require(caller.roles, Permission.LIST_KEYS)
        return await self._states()

    async def _states(self) -> list[SigningKeyState]:
        records = await self._catalog.records(SigningKeyRecord, None, _MOST)
        records.sort(key=_age, reverse=True)
        states = []
        for record in records:
            span = await self._catalog.token_span(
                record.created_at, record.retired_at, self._clock.now()
            )
            until = None
            if record.compromised_at is None:
                until = verifies_until(record, span.last_expiry)
            states.append(SigningKeyState(record, span.live, until))
        return states


def rotate_signing_key(
    tx: Transaction,
    caller: Caller,
    sealer: Sealer,
    store_id: str,
    made: MadeKey,
    *,
    compromised: bool,
    kid: str | None,
    reason: str | None,
) -> Rotated:
    """See `SigningKeyRing.rotate`; ``made`` signs from here on, unless ``kid`` is one that does not
    sign any more."""
    records = tx.find(SigningKeyRecord)
    current = current_key(records)
    named = current if kid is None else next((each for each in records if each.kid == kid), None)
    if named is None:
        raise NotFoundError(
            "signing_key_not_found", f"There is no signing key {(kid or '')[:80]!a}."
        )
    why = f": {reason}" if reason else ""
    if named is not current:
        if named.compromised_at is None:
            tx.put(replace(named, compromised_at=tx.now))
        _record(tx, caller, named.kid, f"{_COMPROMISED}{why}")
        return Rotated(current.kid, None, named.kid, 0)
    newest = tx.latest(TokenRecord, "issued_at", limit=1)
    at = max([tx.now, current.created_at + _INSTANT, *(t.issued_at + _INSTANT for t in newest)])
    tx.put(replace(current, retired_at=at, compromised_at=at if compromised else None))
    forget_secret(tx, signing_key_address(current.kid))
    enter_signing_key(tx, caller, sealer, store_id, made, at=at)
    _record(tx, caller, made.kid, f"in place of {current.kid}{why}")
    if not compromised:
        return Rotated(made.kid, current.kid, None, 0)
    _record(tx, caller, current.kid, f"{_COMPROMISED}{why}")
    return Rotated(made.kid, None, current.kid, 0)


def enter_signing_key(
    tx: Transaction, caller: Caller, sealer: Sealer, store_id: str, made: MadeKey, *, at: datetime
) -> None:
    """Store ``made``, which signs from ``at`` on; what is on record of it is the caller's."""
    tx.put(
        SigningKeyRecord(
            kid=made.kid,
            public_jwk=msgspec.json.encode(made.public_jwk).decode(),
            created_at=at,
            retired_at=None,
            compromised_at=None,
        )
    )
    keep_secret(tx, caller, sealer, store_id, signing_key_address(made.kid), made.private_pem)


def current_key(records: Sequence[SigningKeyRecord]) -> SigningKeyRecord:
    """The one that signs. Raises `ConfigurationError` ``store_damaged`` if there is none."""
    signing = [each for each in records if each.retired_at is None and each.compromised_at is None]
    if not signing:
        raise ConfigurationError("store_damaged", "The store has no usable signing key.")
    return max(signing, key=_age)


def is_compromise(reason: str | None) -> bool:
    """Whether an entry with this reason says that its key was compromised: read by `doctor`, and
    by a restore."""
    return (reason or "").partition(":")[0] == _COMPROMISED


def _found(tx: Transaction, kid: str) -> Found | None:
    path, environment = signing_key_address(kid)
    key = tx.get(KeyRecord, path=path, environment=environment)
    version = None if key is None else tx.get(VersionRecord, version_id=key.head)
    return None if key is None or version is None else Found(key, version)


def _age(record: SigningKeyRecord) -> datetime:
    return record.created_at


def _record(tx: Transaction, caller: Caller, kid: str, reason: str) -> None:
    tx.record(
        caller,
        {
            "action": Action.ROTATE_SIGNING_KEY,
            "key_path": subject("signing_keys", kid),
            "reason": reason,
        },
    )
