"""How a store is kept: slots, sealing keys, epochs, backups, clock. For `doxstore doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dox_core_store.cli.finding import FAILURE, OK, WARNING, Finding

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.local import Custody

__all__ = ["custody_findings"]

_CLOCK_SLACK = timedelta(seconds=60)
_BACKUP_AGE = timedelta(days=2)
_DRILL_AGE = timedelta(days=100)
"""A quarter of a year, and some days to get to it."""


def custody_findings(custody: Custody) -> Iterator[Finding]:
    """What there is to say of how the store is kept."""
    now = datetime.now(UTC)
    yield _slots(custody)
    yield _ring(custody)
    yield _history(custody)
    yield _epoch(custody)
    yield _last("backup", custody.backup_at, now, _BACKUP_AGE, "doxstore backup create FILE")
    yield _last("drill", custody.drill_at, now, _DRILL_AGE, "doxstore backup drill FILE")
    yield _clock(custody, now)


def _slots(custody: Custody) -> Finding:
    kinds = ", ".join(custody.slots)
    if len(custody.slots) > 1:
        return Finding("slots", OK, f"{len(custody.slots)}, each opens the store: {kinds}")
    return Finding(
        "slots",
        WARNING,
        f"only one opens the store ({kinds}), and without it nothing does:"
        " `doxstore seal slots add`",
    )


def _ring(custody: Custody) -> Finding:
    if custody.waiting is not None:
        return Finding(
            "sealing keys",
            WARNING,
            f"a new root key waits for {custody.waiting} of the slots:"
            " `doxstore seal rotate-root` again",
        )
    if custody.ring_keys > 1:
        return Finding(
            "sealing keys",
            WARNING,
            f"{custody.ring_keys} at once, a rotation was not finished: `doxstore seal rekey`",
        )
    return Finding("sealing keys", OK, "one, and everything is under it")


def _history(custody: Custody) -> Finding:
    if custody.lost is not None:
        return Finding(
            "history", FAILURE, f"the database is behind what was seen of it. {custody.lost}"
        )
    return Finding("history", OK, "the database is not behind what was seen of it")


def _epoch(custody: Custody) -> Finding:
    if custody.unreviewed:
        why = {
            "restore": "begun by a restore",
            "history_lost": "begun because history was lost",
        }.get(custody.cause, "begun for a reason that is not on record")
        return Finding(
            "epoch",
            FAILURE,
            f"{custody.epoch}, {why}: nothing is handed out until `doxstore backup sign-off`",
        )
    return Finding("epoch", OK, f"{custody.epoch}")


def _last(check: str, at: datetime | None, now: datetime, most: timedelta, remedy: str) -> Finding:
    if at is None:
        return Finding(check, WARNING, f"never: `{remedy}`")
    age = max(now - at, timedelta(0))
    told = f"{age.days} days ago" if age.days else "less than a day ago"
    if age > most:
        return Finding(check, WARNING, f"the last one was {told}: `{remedy}`")
    return Finding(check, OK, f"the last one was {told}")


def _clock(custody: Custody, now: datetime) -> Finding:
    if custody.newest is not None and custody.newest > now + _CLOCK_SLACK:
        return Finding("clock", FAILURE, f"is behind the newest entry, of {custody.newest:%FT%TZ}")
    return Finding("clock", OK, "is not behind the newest entry")
