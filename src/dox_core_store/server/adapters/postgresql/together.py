"""Many small questions to the database in few statements.

One statement is under way at a time, on a connection and a thread of its own; whoever asks
meanwhile goes with the next one. So a database that takes a millisecond to commit answers thousands
of callers a second. Whoever is not answered in time is told so, and what nobody waits for any more
is not asked.

A connection that was cut is made anew, once for each statement: a database that was restarted is
met by the first who ask after it. What it did of the statement before is not known then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.postgresql.session import Session
from dox_core_store.server.adapters.sql.driver import Driver
from dox_core_store.server.adapters.sql.faults import unavailable

__all__ = ["Answers", "Together"]

Asked = TypeVar("Asked", contravariant=True)  # noqa: PLC0105 - one name for both uses
Told = TypeVar("Told", covariant=True)  # noqa: PLC0105 - the same
Question = TypeVar("Question")
Answer = TypeVar("Answer")

_MOST = 500
"""Questions in one statement: what takes some milliseconds."""


class Answers(Protocol[Asked, Told]):
    """Answers questions by one statement, in their order. ``again``: the one before broke off, and
    may have been carried out. Raises `sqlalchemy.exc.DBAPIError`."""

    def __call__(
        self, driver: Driver, asked: Sequence[Asked], /, *, again: bool
    ) -> Sequence[Told]: ...


class _Waiting(NamedTuple, Generic[Question, Answer]):
    asked: Question
    told: asyncio.Future[Answer]


class Together(Generic[Question, Answer]):
    """See the module. Lives on the event loop, but for ``answers`` and ``tidy``, which run in its
    thread; the latter after each statement, once those who asked have their answers."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        answers: Answers[Question, Answer],
        tidy: Callable[[Driver], None],
        seconds: float,
        name: str,
    ) -> None:
        self._session = Session(engine, retry_seconds=0.0)  # one statement waits for all who ask
        self._answers = answers
        self._tidy = tidy
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[_Waiting[Question, Answer]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, asked: Question) -> Answer:
        """The answer to ``asked``. Raises `StoreUnavailableError` ``ledger_unavailable``."""
        told = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(asked, told))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        try:
            async with asyncio.timeout(self._seconds):
                return await told  # type: ignore[no-any-return]
        except TimeoutError:
            raise StoreUnavailableError(
                "ledger_unavailable", "The database does not answer. Nothing was revealed."
            ) from None

    def close(self) -> None:
        """Let go of the connection, once the statement under way has ended: nobody waits for that.
        Whoever still waits for an answer is refused when their time is over."""
        self._waiting.clear()
        self._thread.submit(self._session.close)
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                taken = [each for each in taken if not each.told.done()]
                if taken:
                    await loop.run_in_executor(self._thread, self._answer, loop, taken)
        finally:
            self._task = None

    def _answer(
        self, loop: asyncio.AbstractEventLoop, taken: Sequence[_Waiting[Question, Answer]]
    ) -> None:
        """In the thread: one statement, its answers, and then what is to be tidied up."""
        asked, was_open = [each.asked for each in taken], self._session.is_open
        try:
            try:
                answers = self._answers(self._driver(), asked, again=False)
            except sa.exc.OperationalError:
                if not was_open:
                    raise
                self._session.close()
                answers = self._answers(self._driver(), asked, again=True)
        except (sa.exc.SQLAlchemyError, DoxStoreError) as error:
            self._session.close()  # it may be in any state
            loop.call_soon_threadsafe(_refuse, taken, unavailable(error))
            return
        loop.call_soon_threadsafe(_tell, taken, answers)
        try:
            self._tidy(self._driver())
        except (sa.exc.SQLAlchemyError, DoxStoreError):  # is tried again after the next statement
            self._session.close()

    def _driver(self) -> Driver:
        return Driver(self._session.connection())


def _tell(taken: Sequence[_Waiting[Question, Answer]], answers: Sequence[Answer]) -> None:
    for each, answer in zip(taken, answers, strict=True):
        if not each.told.done():
            each.told.set_result(answer)


def _refuse(taken: Sequence[_Waiting[Question, Answer]], error: StoreUnavailableError) -> None:
    for each in taken:
        if not each.told.done():
            each.told.set_exception(StoreUnavailableError(error.code, error.detail))
