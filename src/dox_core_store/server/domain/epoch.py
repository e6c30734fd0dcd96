"""Epochs: the histories of one store.

A store begins in epoch 1. A restore, and a database that is found behind what was seen of it, begin
a new one: the ledger goes on in new streams, and clients revalidate what they hold. What was
revoked in the lost part of the history is not known then, so until somebody signs the epoch off
nothing is handed out.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

__all__ = ["Cause", "EpochRecord", "needs_review"]


class Cause(StrEnum):
    """Why an epoch began."""

    RESTORE = "restore"
    HISTORY_LOST = "history_lost"


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch after the first. ``reviewed_by`` signed off what may be handed out in it."""

    epoch: int
    cause: Cause
    began_at: datetime
    reviewed_at: datetime | None = None
    reviewed_by: str | None = None


def needs_review(epoch: int, record: EpochRecord | None) -> bool:
    """Whether nothing may be handed out yet. A record that is missing, or whose MAC does not hold,
    signs nothing off."""
    return epoch > 1 and (record is None or record.reviewed_at is None)
