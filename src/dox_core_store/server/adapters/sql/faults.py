"""Faults of the database as ours."""

from __future__ import annotations

from dox_core_store.errors import StoreUnavailableError

__all__ = ["unavailable"]


def unavailable(error: Exception) -> StoreUnavailableError:
    """A database fault as ours; the database's message names no value. Where a server is, callers
    need not know."""
    cause = getattr(error, "orig", error)
    said = " ".join(str(cause).split())  # PostgreSQL's are of several lines
    if "connect" in said:
        said = "the database does not answer"
    return StoreUnavailableError(
        "ledger_unavailable", f"The store cannot be written: {said}. Nothing was revealed."
    )
