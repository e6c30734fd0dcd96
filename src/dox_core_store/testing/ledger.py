"""A ledger that keeps its entries in a list, and refuses or lags behind when told to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.domain.ledger import Entry, Status
from dox_core_store.server.ports import Committed

__all__ = ["RecordingLedger"]


class RecordingLedger:
    """See the `Ledger` port.

    ``entries`` is everything in order of arrival, ``commits`` what was awaited together. ``head``
    and ``until`` are what a commit returns. ``fault`` is raised from now on; ``during_commit`` is
    called inside the next commit, once: it stands for whatever the rest of the world does
    meanwhile.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.commits: list[tuple[Entry, ...]] = []
        self.head = 0
        self.until = math.inf
        self.fault: StoreUnavailableError | None = None
        self.during_commit: Callable[[], None] | None = None

    def record(self, entry: Entry) -> None:
        self.entries.append(entry)

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self.check()
        meanwhile, self.during_commit = self.during_commit, None
        if meanwhile is not None:
            meanwhile()
        self.check()
        self.commits.append(tuple(entries))
        self.entries.extend(entries)
        return Committed(self.head, self.until)

    def abort(self, entries: Sequence[Entry]) -> None:
        self.entries += [entry._replace(status=Status.ABORTED) for entry in entries]

    def check(self) -> None:
        if self.fault is not None:
            raise StoreUnavailableError(self.fault.code, self.fault.detail)
