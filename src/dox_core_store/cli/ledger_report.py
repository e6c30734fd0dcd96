"""What `doxstore ledger verify` prints: a whole ledger, a lost history, or the first bad entry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dox_core_store.cli.output import counted, note, show_facts, show_json

if TYPE_CHECKING:
    from dox_core_store.cli.ledger_shipped import ShippedFiles
    from dox_core_store.server.domain.checkpoint import Lost, Verified
    from dox_core_store.server.domain.ledger import BrokenChainError

__all__ = ["show_broken", "show_verified"]


def show_broken(error: BrokenChainError, *, as_json: bool) -> None:
    """The first bad entry."""
    if as_json:
        where = {"stream": error.stream, "seq": error.seq, "first": error.first}
        show_json({"status": "broken", **where, "why": error.why})
        return
    show_facts([("broken", f"{error.stream} #{error.seq} {error.why}.")])
    note(
        "Entries before it are as they were written. Keep the files as they are, and compare them"
        " with an earlier export."
    )


def show_verified(verified: Verified, shipped: ShippedFiles | None, *, as_json: bool) -> bool:
    """What a ledger is without a bad entry; whether nothing is lost that nobody signed off."""
    is_known = all(each.reviewed for each in verified.lost)
    if as_json:
        lost = [each._asdict() for each in verified.lost]
        show_json({"status": "ok" if is_known else "lost", **verified._asdict(), "lost": lost})
        return is_known
    facts = [
        ("ledger", "whole" if not verified.lost else "whole, but for a history that was lost"),
        ("entries", f"{verified.entries} in {_streams(verified.streams)}"),
        ("checkpoints", f"{verified.checkpoints}, every signature holds{_age(verified)}"),
        ("no checkpoint covers", _entries(verified.unsigned)),
    ]
    if shipped is not None:
        checkpoints = counted(shipped.checkpoints, "checkpoint")
        told = f"{checkpoints}; as they say: {_entries(verified.shipped)}"
        facts.append(("shipped", told))
    if verified.pruned:
        facts.append(("dropped by retention", f"the beginning of {_streams(verified.pruned)}"))
    facts += [("begins in the middle", stream) for stream in verified.cut]
    facts += [("lost", _told(each)) for each in verified.lost]
    show_facts(facts)
    return is_known


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def _streams(number: int) -> str:
    return counted(number, "stream")


def _age(verified: Verified) -> str:
    if verified.last_checkpoint is None:
        return ""
    age = datetime.now(UTC) - datetime.fromisoformat(verified.last_checkpoint)
    return f", the last one {int(age.total_seconds())} s old"


def _told(lost: Lost) -> str:
    signed_off = "signed off" if lost.reviewed else "which nobody has signed off"
    return (
        f"{lost.stream} #{lost.first} to #{lost.last} or later, between {lost.since} and"
        f" {lost.until}, when epoch {lost.epoch} began, {signed_off}"
    )
