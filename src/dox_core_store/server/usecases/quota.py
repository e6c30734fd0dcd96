"""The limits of one node among many: what is not at hand is fetched from the database.

`SharedBucket` is a `Bucket` to whoever takes from it, but for one answer more, `NOT_AT_HAND`: then
`fetch` waits for the database. One request of a limit is under way at a time; whoever comes
meanwhile goes with the next one, in the order of coming. The arithmetic, and why no limit is ever
exceeded, is in `domain.quota`. A database that does not answer within a second refuses: a limit
that cannot be counted lets nobody through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.domain.limit import Bucket, Rate, Verdict
from dox_core_store.server.domain.quota import Share
from dox_core_store.server.ports import Quotas, Take

__all__ = ["SharedBucket", "SharedBuckets"]

_ANSWER_SECONDS = 1.0
_ROUNDS = 4
"""How often the rest is asked for where others were quicker; after that it is refused."""


class _Waiter:
    __slots__ = ("cost", "verdict")

    def __init__(self, cost: int, verdict: asyncio.Future[Verdict]) -> None:
        self.cost = cost
        self.verdict = verdict


class SharedBuckets:
    """Makes the limiters of a node among many."""

    def __init__(self, *, quotas: Quotas, monotonic: Callable[[], float]) -> None:
        self._quotas = quotas
        self._monotonic = monotonic

    def __call__(self, rate: Rate, name: str, row: str) -> Bucket:
        """The limiter of ``rate``, which callers are told as ``name``, in all nodes' ``row``.

        Other numbers are another row: a limit that is set anew begins with a whole burst.
        """
        numbered = f"{row}:{rate.count}/{rate.period_seconds}/{rate.burst}"
        return SharedBucket(
            rate, name, row=numbered, quotas=self._quotas, monotonic=self._monotonic
        )


class SharedBucket(Bucket):
    """See the module. Lives on the event loop."""

    __slots__ = ("_monotonic", "_quotas", "_row", "_share", "_task", "_waiting")

    def __init__(
        self,
        rate: Rate,
        name: str,
        *,
        row: str,
        quotas: Quotas,
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(rate, name)
        self._share = Share(rate, self.policy)
        self._row = row
        self._quotas = quotas
        self._monotonic = monotonic
        self._waiting: list[_Waiter] = []
        self._task: asyncio.Task[None] | None = None

    def take(self, now: float, cost: int = 1) -> Verdict:
        """Take ``cost`` requests at ``now`` (seconds, monotonic), if as many are at hand.

        `NOT_AT_HAND` is no verdict: `fetch` has one.
        """
        share = self._share
        verdict = share.take(now, cost)
        if share.left < share.low and self._task is None:
            self._start()
        return verdict

    async def fetch(self, cost: int = 1) -> Verdict:
        """The verdict on ``cost`` requests that were not at hand.

        Raises `StoreUnavailableError` ``ledger_unavailable``.
        """
        waiter = _Waiter(cost, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        if self._task is None:
            self._start()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await waiter.verdict
        except TimeoutError:
            raise StoreUnavailableError(
                "ledger_unavailable", "The database does not answer: limits cannot be counted."
            ) from None

    def wait(self, now: float) -> float:
        """Seconds until one request can be taken, as far as this node knows."""
        return self._share.wait(now)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        share = self._share
        try:
            while self._waiting or share.left < share.low:
                share.low = 0  # until there is a chunk again
                waiting, self._waiting = self._waiting, []
                await self._serve(waiting)
        finally:
            self._task = None

    async def _serve(self, waiting: list[_Waiter]) -> None:
        try:
            for attempt in range(_ROUNDS):
                waiting = self._sort_out(waiting)
                if await self._ask(waiting, with_spare=attempt == 0):
                    return
        except StoreUnavailableError as error:
            for each in waiting:
                if not each.verdict.done():
                    each.verdict.set_exception(StoreUnavailableError(error.code, error.detail))
            return
        now = self._monotonic()
        for each in waiting:
            if not each.verdict.done():
                each.verdict.set_result(self._share.refused(now, each.cost))

    def _sort_out(self, waiting: Sequence[_Waiter]) -> list[_Waiter]:
        """Refuse whom the row is known to have nothing for; the others. Who gave up is gone."""
        waiting = [each for each in waiting if not each.verdict.done()]
        refused = self._share.sort_out(self._monotonic(), [each.cost for each in waiting])
        for each, verdict in zip(waiting, refused, strict=True):
            if verdict is not None:
                each.verdict.set_result(verdict)
        return [each for each in waiting if not each.verdict.done()]

    async def _ask(self, waiting: Sequence[_Waiter], *, with_spare: bool) -> bool:
        """Ask the row for what ``waiting`` need together; whether that is done with."""
        share, sent = self._share, self._monotonic()
        need = sum(each.cost for each in waiting)
        spare = share.spare(sent, need) if with_spare else 0
        if not need + spare:
            return True
        taken = await self._quotas.take(Take(self._row, share.cost(need + spare), share.tolerance))
        share.heard(sent, taken.ahead_seconds)
        if not taken.granted:
            return not need
        heard = [each for each in waiting if not each.verdict.done()]
        waited = sum(each.cost for each in heard)
        share.keep(sent, need + spare - waited, waited)
        verdict = share.allowed(self._monotonic())
        for each in heard:
            each.verdict.set_result(verdict)
        return True
