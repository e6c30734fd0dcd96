"""Keys, versions and their states.

Decides which change of a version is legal and who is handed which state. Both are tables, and
everything else derives from them. Numbers only grow; a revoked or destroyed version never comes
back; a revoked current version is never replaced by the previous one, so the key then has no value
until a new version is stored or promoted.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from datetime import datetime
from enum import StrEnum

import msgspec

from dox_core_store.errors import (
    ConflictError,
    GoneError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress, parse_address
from dox_core_store.sensitive import Sensitive

__all__ = [
    "BATCH",
    "EXTERNAL",
    "MAX_VALUE_BYTES",
    "OUT_OF_USE",
    "READABLE",
    "TRANSITIONS",
    "Act",
    "ImportRecord",
    "KeyLimitRecord",
    "KeyRecord",
    "State",
    "TombstoneRecord",
    "UpkeepRecord",
    "VersionRecord",
    "check_promotion",
    "check_value",
    "fresh_key",
    "next_state",
    "refusal",
    "writable_address",
]

MAX_VALUE_BYTES = 64 * 1024
BATCH = "batch-get"
"""Where the door takes batches: ``/v1/keys/batch-get`` is no key."""

EXTERNAL = "external"
"""Who made a version that came to be in a vault, past the store; no caller is called so."""


class State(StrEnum):
    """What a version is. Expired is not a state: it is ``expires_at`` at or before now."""

    PENDING = "pending"
    CURRENT = "current"
    PREVIOUS = "previous"
    RETIRED = "retired"
    REVOKED = "revoked"
    DESTROYED = "destroyed"


class Act(StrEnum):
    """What can happen to one version."""

    PROMOTE = "promote"
    """It becomes the key's current version."""
    SUPERSEDE = "supersede"
    """Another version became current."""
    RETIRE = "retire"
    """Its overlap is over."""
    ROLL_BACK = "roll back"
    """Its value becomes a new version's."""
    EXPIRE = "expire"
    """Its life ends now."""
    EXTEND = "extend"
    """Its life ends at another time."""
    REVOKE = "revoke"
    """It is compromised."""
    DESTROY = "destroy"
    """Its value is to be erased."""


TRANSITIONS: dict[tuple[State, Act], State] = {
    (State.PENDING, Act.PROMOTE): State.CURRENT,
    (State.CURRENT, Act.SUPERSEDE): State.PREVIOUS,
    (State.PREVIOUS, Act.SUPERSEDE): State.RETIRED,
    (State.PREVIOUS, Act.RETIRE): State.RETIRED,
    (State.PREVIOUS, Act.ROLL_BACK): State.PREVIOUS,
    (State.RETIRED, Act.ROLL_BACK): State.RETIRED,
    (State.CURRENT, Act.EXPIRE): State.CURRENT,
    (State.CURRENT, Act.EXTEND): State.CURRENT,
    (State.PENDING, Act.REVOKE): State.REVOKED,
    (State.CURRENT, Act.REVOKE): State.REVOKED,
    (State.PREVIOUS, Act.REVOKE): State.REVOKED,
    (State.RETIRED, Act.REVOKE): State.REVOKED,
    (State.PENDING, Act.DESTROY): State.DESTROYED,
    (State.PREVIOUS, Act.DESTROY): State.DESTROYED,
    (State.RETIRED, Act.DESTROY): State.DESTROYED,
    (State.REVOKED, Act.DESTROY): State.DESTROYED,
}
"""Every legal change. What is not here is refused; destroying the current version is not here on
purpose: revoke it first, so that readers are told why it is gone. An act that leads to the same
state changes something else: a time, or another version."""

OUT_OF_USE = (State.RETIRED, State.REVOKED)
"""States of a version that nobody reads any more although its value is still there: what a key's
retention is about. Pending, current and previous versions are in use and are kept in any case."""

READABLE: dict[State, frozenset[str]] = {
    State.PENDING: frozenset(),
    State.CURRENT: frozenset({"service", "maintainer"}),
    State.PREVIOUS: frozenset({"service", "maintainer"}),
    State.RETIRED: frozenset({"maintainer"}),
    State.REVOKED: frozenset(),
    State.DESTROYED: frozenset(),
}
"""Who is handed a version in each state. Without a number, only the current one is asked for."""


def next_state(state: State, act: Act) -> State:
    """The state after ``act``; raises `ConflictError` ``illegal_transition``."""
    try:
        return TRANSITIONS[state, act]
    except KeyError:
        hint = " Revoke it first." if (state, act) == (State.CURRENT, Act.DESTROY) else ""
        raise ConflictError(
            "illegal_transition", f"A {state} version cannot {_PASSIVE[act]}.{hint}"
        ) from None


def check_promotion(pending: VersionRecord, head: VersionRecord | None, now: datetime) -> None:
    """Whether ``pending`` may become the current version of a key whose head is ``head``.

    Raises `ConflictError`: ``illegal_transition`` where its state or its end says no,
    ``version_conflict`` where a newer version is current. After that one was revoked, an older
    pending version may be promoted: it is what its key has left.
    """
    next_state(pending.state, Act.PROMOTE)
    if head is not None and head.state is State.CURRENT and head.number > pending.number:
        raise ConflictError(
            "version_conflict",
            f"Version {head.number} became current after version {pending.number} was proposed.",
            actual_version=head.number,
        )
    if pending.expires_at is not None and pending.expires_at <= now:
        raise ConflictError(
            "illegal_transition",
            f"Version {pending.number} expired at {pending.expires_at:%Y-%m-%dT%H:%M:%SZ}, before"
            " it was promoted.",
        )


def refusal(
    state: State,
    expires_at: datetime | None,
    now: datetime,
    reader: str,
    address: KeyAddress | None = None,
) -> GoneError | None:
    """Why a version (of ``address``) is not handed to ``reader`` (``service`` or ``maintainer``),
    if so."""
    if state is State.REVOKED:
        return GoneError(
            "version_revoked", f"This version{_of(address)} was revoked and is handed out nowhere."
        )
    if state is State.DESTROYED:
        return GoneError("version_destroyed", f"This version{_of(address)} was destroyed.")
    if reader not in READABLE[state]:
        return GoneError(
            "version_unavailable", f"A {state} version{_of(address)} is not handed out."
        )
    if expires_at is not None and expires_at <= now:
        ended = f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"
        return GoneError("key_expired", f"This version{_of(address)} expired at {ended}.")
    return None


def _of(address: KeyAddress | None) -> str:
    return "" if address is None else f" of {address}"


def check_value(value: Sensitive) -> bytes:
    """The bytes of ``value``. Raises `PayloadTooLargeError` ``value_too_large``."""
    raw = value.reveal().encode()
    if len(raw) > MAX_VALUE_BYTES:
        raise PayloadTooLargeError("value_too_large", "A value is at most 64 KiB of UTF-8.")
    return raw


def writable_address(
    text: str, environments: Collection[str], *, default: str, explicit: str | None
) -> KeyAddress:
    """The address that ``text`` names. Raises also ``reserved_path``."""
    address = parse_address(text, environments, default=default, explicit=explicit)
    if address.path.partition(".")[0].lower() == RESERVED_PREFIX:
        raise InvalidRequestError("reserved_path", "What begins with _store is the store's own.")
    if address.path == BATCH:
        raise InvalidRequestError("reserved_path", f"{BATCH} is an address of the door.")
    return address


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key in one environment. ``head`` names the version that a read without number means:
    the current one, or the last one that was current if it was revoked since. A key without one
    has nothing but pending versions, and reads as if it were not there."""

    key_id: int
    path: str
    environment: str
    owner: str | None
    usage: str | None
    created_at: datetime
    rotated_at: datetime | None
    last_number: int
    head: str | None
    staged_head: str | None = None
    staged_import: str | None = None

    def settled_head(self, committed: Container[str]) -> str | None:
        """The head, where ``committed`` names the imports that took effect: an import of any size
        becomes visible in one short transaction, and its keys are tidied up afterwards."""
        return self.staged_head if self.staged_import in committed else self.head

    @property
    def is_only_staged(self) -> bool:
        """Whether there is nothing but what an import brings: without it the key never was."""
        return self.head is None and self.last_number == int(self.staged_head is not None)


def fresh_key(key_id: int, address: KeyAddress, now: datetime) -> KeyRecord:
    """A key that has no version yet."""
    return KeyRecord(
        key_id=key_id,
        path=address.path,
        environment=address.environment,
        owner=None,
        usage=None,
        created_at=now,
        rotated_at=None,
        last_number=0,
        head=None,
    )


class ImportRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A running or ended import. ``conflict`` names a key that someone else changed meanwhile."""

    import_id: str
    status: str
    created_by: str
    created_at: datetime
    touched_at: datetime
    next_sequence: int
    created: int
    replaced: int
    unchanged: int
    conflict: str | None


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable value of a key. ``sealed`` is None once destroyed; where the value lies in a
    ``vault``, it is its place there."""

    version_id: str
    key_id: int
    number: int
    state: State
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    rolled_back_from: int | None
    sealed: bytes | None
    vault: str | None = None


class TombstoneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """That a version was revoked or destroyed, apart from its row: putting an older copy of the row
    back into the database does not bring the version back."""

    version_id: str
    state: State
    buried_at: datetime


class KeyLimitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a key may be read, by all services together."""

    key_id: int
    limit_count: int
    limit_period_seconds: int
    limit_burst: int


class UpkeepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a key beside its versions. ``keep_versions``: how many versions that are out
    of use are kept, None for the store's setting. ``unverified_since``: restored from a backup, and
    what it opens may have another password since."""

    key_id: int
    keep_versions: int | None = None
    unverified_since: datetime | None = None


_PASSIVE = {
    Act.PROMOTE: "be promoted",
    Act.SUPERSEDE: "be superseded",
    Act.RETIRE: "be retired",
    Act.ROLL_BACK: "come back",
    Act.EXPIRE: "be expired",
    Act.EXTEND: "be extended",
    Act.REVOKE: "be revoked",
    Act.DESTROY: "be destroyed",
}
