"""Verifying the ledger in a database: an opened store's, or a copy's that nobody can open.

A copy needs no key of the store: hashes and signatures are checked with what is public. It is read
and never written. No server may be at work on a copy of files (beside one, open the store).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dox_core_store.server.adapters.sql.ledger_inspection import LedgerInspection
from dox_core_store.server.adapters.sql.place import Place
from dox_core_store.server.adapters.sql.store import ledger_only
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.place import place_of
from dox_core_store.server.domain.checkpoint import LedgerVerifier, Verified
from dox_core_store.server.settings import Settings
from dox_core_store.server.web.ledger_routes import ledger_record

__all__ = ["LedgerCopy", "check_ledger", "copy_of"]


def copy_of(settings: Settings) -> LedgerCopy:
    """The ledger where ``settings`` say; of ``data`` the folder, or the file alone."""
    path, place = Path(settings.data), place_of(settings)
    if not settings.database and not path.is_dir():
        place = SqlitePlace(path.parent, path.name)
    return LedgerCopy(place)


class LedgerCopy:
    """The ledger of the store in ``place``. Raises `ConfigurationError` ``store_missing``,
    ``store_newer``, ``store_damaged``, ``database_unreachable``."""

    def __init__(self, place: Place) -> None:
        self.store_id, engine = ledger_only(place)
        self.inspection = LedgerInspection(engine)


def check_ledger(
    inspection: LedgerInspection, verifier: LedgerVerifier, step: Callable[[int], None]
) -> Verified:
    """Give all of it to ``verifier``; ``step`` hears of every block. Raises
    `BrokenChainError`."""
    ends = inspection.heads()  # before the entries: a running server adds more of them
    for filed in inspection.blocks():
        stream, first = filed.block.stream, filed.first_seq
        try:
            entries = filed.entries()
        except ValueError:
            verifier.refuse(stream, first, "is unreadable")
        else:
            for each in entries[:-1]:
                verifier.check(ledger_record(each))
            # A block keeps the hash of its last entry alone.
            verifier.check(ledger_record(entries[-1]), unsure_from=entries[0].seq)
            if not filed.is_filed_right(entries):
                verifier.refuse(stream, first, "is filed under another place than its own")
        step(1)
    for stream, (seq, head) in ends.items():
        verifier.check_end(stream, seq, head)
    return verifier.finish()
