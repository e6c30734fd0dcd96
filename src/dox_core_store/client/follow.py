"""`Follow`: keeps what is held current, in the background.

It follows the store's stream of changes: a version that was revoked is let go at once, one that was
replaced is asked for again within 300 ms, and everything is where the stream cannot say what
happened. As long as the stream beats, what is held is known to be true.

Where there is no stream (a proxy that cuts it, buffers it or does not know it), what is held is
asked for again in turn, by its versions' ids. Either way a key that is in use is asked for again
before it grows too old for its callers, and what was served without asking is reported.

Runs on the worker's loop. Never raises; what goes wrong is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Generic, TypeVar

from dox_core_store.client.breaker import Breaker
from dox_core_store.client.cache import Held, KeyCache
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.event_stream import Event, EventReader, Kind, to_events
from dox_core_store.client.fetch import Fetch
from dox_core_store.client.health import check_health
from dox_core_store.client.key import HeldKey
from dox_core_store.client.outage import Outage, is_borne
from dox_core_store.client.protocol import MAX_BATCH, read_answer, to_report
from dox_core_store.client.tally import MOST_IN_REPORT, Tally
from dox_core_store.errors import AuthenticationError, DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import ReportTaken

__all__ = ["Follow"]

K = TypeVar("K", bound=HeldKey)

_log = logging.getLogger("dox_core_store.client")

_SILENCE_SECONDS = 3.0
"""How long the stream may say nothing; its heart beats every second."""

_START_SECONDS = 0.5
"""A process that ends sooner needs no stream."""

_JITTER_SECONDS = 0.3
_TICK_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
_LONGEST_REST_SECONDS = 5.0
"""Between questions to a store that answers that it cannot serve now."""

_POLL_SECONDS = 3.0
_POLL_SECONDS_EACH = 0.2
"""Of each key: so polling never takes more than half of the default limit of 600 a minute."""

_NO_ANSWER = ("connection_failed", "not_the_store", "internal_error")
_REPORT_SECONDS = 60.0
_LAST_REPORT_SECONDS = 1.0
_LEAST_REFRESHED_SECONDS = 10.0


class Follow(Generic[K]):
    """See the module. ``changed`` is called whenever something held may be another by now."""

    def __init__(
        self,
        *,
        connection: StoreConnection,
        cache: KeyCache[K],
        fetch: Fetch[K],
        outage: Outage[K],
        breaker: Breaker,
        tally: Tally,
        elapsed: Callable[[], float],
        wall: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._fetch = fetch
        self._outage = outage
        self._breaker = breaker
        self._tally = tally
        self._elapsed = elapsed
        self._wall = wall
        self._changed = changed
        self._events = EventReader()
        self._doubted: set[str] = set()
        self._is_behind = True
        self._is_warned = False
        self._asking: set[asyncio.Task[None]] = set()
        self._polled_at = self._reported_at = elapsed()
        self._rest_seconds, self._rests_until = 0.0, float("-inf")
        self._report_rest_seconds = _RETRY_SECONDS
        self.mode = "off"
        """``stream``, ``polling`` (there is no stream), ``connecting``, or ``off``."""
        self.why = ""
        """Why there is no stream."""

    async def run(self) -> None:
        """Until it is cancelled; then what was counted is reported."""
        self._events, self._doubted, self._is_behind = EventReader(), set(), True
        self._asking.clear()  # a parent's, in a process that was forked
        self._polled_at = self._reported_at = self._elapsed()
        self.mode = "connecting"
        streaming = asyncio.create_task(self._stream())
        try:
            await asyncio.sleep(_START_SECONDS)
            while True:
                await self._tick()
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            self.mode = "off"
            self._cache.trusted_until = float("-inf")
            streaming.cancel()
            if not self._breaker.is_open:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(_LAST_REPORT_SECONDS):
                        await self._report()

    # --- the stream --------------------------------------------------------------------------

    async def _stream(self) -> None:
        await asyncio.sleep(_START_SECONDS)
        wait = _RETRY_SECONDS
        while True:
            began_at = self._elapsed()
            try:
                await self._listen()
                self.why = "it ended"
            except TimeoutError:
                self.why = f"it said nothing for {_SILENCE_SECONDS:g} s"
            except DoxStoreError as error:
                self.why = error.detail
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the following
                _log.exception("The stream of changes cannot be followed.")
                self.why = type(error).__name__
            if self._elapsed() - began_at > _LONGEST_RETRY_SECONDS or self._breaker.is_open:
                wait = _RETRY_SECONDS
            self.mode = "connecting" if self._breaker.is_open else "polling"
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            wait = min(wait * 2, _LONGEST_RETRY_SECONDS)

    async def _listen(self) -> None:
        """Follow one stream until it ends."""
        # Without what is left over of an event that was cut off.
        self._events = EventReader(self._events.last_id)
        call = to_events(self._events.last_id)
        self._is_behind = True
        lines = self._connection.lines(call, silence_seconds=2 * _SILENCE_SECONDS)
        async with aclosing(lines):
            while True:
                waits_since = self._elapsed()
                async with asyncio.timeout(_SILENCE_SECONDS):
                    line = await anext(lines, None)
                if self._elapsed() > waits_since + _SILENCE_SECONDS:
                    raise TimeoutError  # the machine slept: what lay there meanwhile is old
                if line is None:
                    return
                event = self._events.feed(line)
                if event is not None:
                    self._hear(event)

    def _hear(self, event: Event) -> None:
        self._breaker.worked()
        self.mode = "stream"
        if event.kind is Kind.BEAT:
            if not self._is_behind or not self._doubted:
                self._is_behind = False
                self._cache.heard_at = now = self._elapsed()
                self._cache.trusted_until = now + _SILENCE_SECONDS
        elif event.change is not None:
            name = str(KeyAddress(event.change.key_path, event.change.environment))
            if event.kind is Kind.REVOKED:
                self._revoked(name, event.change.version_id)
            elif event.change.version_id is None or not self._has(name, event.change.version_id):
                held = self._cache.superseded(name)
                if held is not None:
                    self._ask_soon([held.spelling])
            self._changed()
        else:
            self._doubt(self._cache.all_held())
            self._changed()

    def _revoked(self, name: str, version_id: str | None) -> None:
        held = self._cache.held(name)
        was_held = self._cache.revoked(name, version_id)
        self._connection.detach_flights()
        if was_held and held is not None:
            self._ask_soon([held.spelling])
        if self._cache.held(name) is None:  # what lies in a file may be that version
            self._outage.erase(name)

    def _has(self, name: str, version_id: str) -> bool:
        held = self._cache.held(name)
        return held is not None and held.answer.version_id == version_id

    def _doubt(self, everything: Iterable[Held[K]]) -> None:
        """What happened is not known: nothing is trusted before it was asked for again."""
        self._cache.doubt()
        self._connection.detach_flights()
        self._is_behind = True
        self._ask_soon([held.spelling for held in everything])

    def _ask_soon(self, spellings: list[str]) -> None:
        """Ask for them again, not all clients at once."""

        async def ask() -> None:
            await asyncio.sleep(random.uniform(0.0, _JITTER_SECONDS))  # noqa: S311 - jitter
            await self._ask(spellings)

        if not spellings:
            return
        self._doubted.update(spellings)
        task = asyncio.get_running_loop().create_task(ask())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, spellings: list[str]) -> None:
        """Ask for them now; what is confirmed, or not held any more, is in doubt no more."""
        for start in range(0, len(spellings), MAX_BATCH):
            some, asked_at = spellings[start : start + MAX_BATCH], self._elapsed()
            found = await self._fetch.batch(some, why="refresh")
            borne = {spelling for spelling, outcome in found.items() if _is_borne(outcome)}
            for spelling in found.keys() - borne:
                held = self._cache.held(spelling)
                if held is None or held.fetched_at >= asked_at:
                    self._doubted.discard(spelling)
            if self._breaker.is_open:
                break
            self._rest(is_needed=bool(borne) or not self._doubted.isdisjoint(found))
        self._changed()

    def _rest(self, *, is_needed: bool) -> None:
        """Leave the store alone for a while, longer each time, if it could not serve."""
        if not is_needed:
            self._rest_seconds = 0.0
            return
        self._rest_seconds = min(max(self._rest_seconds * 2, _RETRY_SECONDS), _LONGEST_REST_SECONDS)
        rest = self._rest_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._rests_until = max(self._elapsed() + rest, self._fetch.asked_not_before)

    # --- from time to time -------------------------------------------------------------------

    async def _tick(self) -> None:
        try:
            await self._keep_fresh()
            now = self._elapsed()
            self._cache.drop_outlived()
            if now < self._cache.trusted_until and self._outage.is_restamp_due:
                await asyncio.to_thread(self._outage.restamp)
            wait = self._report_rest_seconds if self._tally.is_pressing else _REPORT_SECONDS
            if not self._breaker.is_open and now >= self._reported_at + wait:
                await self._report()
        except Exception:  # noqa: BLE001 - as above
            _log.exception("What runs in the background failed, and is tried again.")

    async def _keep_fresh(self) -> None:
        now, held = self._elapsed(), self._cache.all_held()
        is_followed = now < self._cache.trusted_until
        used = [each.spelling for each in held if self._is_used(each, now)]
        period = max(_POLL_SECONDS, _POLL_SECONDS_EACH * len(used))
        self._cache.window_seconds = period * 1.7
        if self._breaker.is_open:
            if now >= self._polled_at + _RETRY_SECONDS:
                self._polled_at = now
                await self._probe([each.spelling for each in held])
        elif now < self._rests_until:
            pass
        elif not (is_followed or self._asking or self._is_new(now)) and (
            now >= self._polled_at + period
        ):
            self._polled_at = now
            await self._ask(used)
        else:
            due = [each.spelling for each in held if self._is_due(each, now)]
            due += [each for each in self._doubted if each not in due and not self._asking]
            if due:
                await self._ask(due)

    def _is_new(self, now: float) -> bool:
        """Whether the stream may be there in a moment."""
        return self.mode == "connecting" and now < self._polled_at + 2 * _POLL_SECONDS

    def _is_due(self, held: Held[K], now: float) -> bool:
        """Whether a key that is in use is, or will soon be, too old for its callers."""
        if held.superseded_at <= now and held.spelling not in self._doubted:
            return self._is_used(held, now)  # it was under way when something happened
        lives = min(held.ttl_seconds, held.answer.cache_ttl_ceiling_seconds)
        if lives < _LEAST_REFRESHED_SECONDS or now < held.fetched_at + held.refresh_at * lives:
            return False
        return self._is_used(held, now) and held.used_at > held.fetched_at

    def _is_used(self, held: Held[K], now: float) -> bool:
        """Whether somebody will ask for it again, as far as one can tell."""
        if self._tally.settle(held, self._wall()):
            held.used_at = now
        lives = min(held.ttl_seconds, held.answer.cache_ttl_ceiling_seconds)
        return now < held.used_at + max(lives, _POLL_SECONDS * 2)

    async def _probe(self, spellings: list[str]) -> None:
        """Whether the store answers again."""
        if spellings:
            await self._ask(spellings[:MAX_BATCH])
            return
        report = await check_health(self._connection, timeout_seconds=None)
        if report.is_healthy or report.status not in _NO_ANSWER:
            self._breaker.worked()

    async def _report(self) -> None:
        self._reported_at = self._elapsed()
        for held in self._cache.all_held():
            self._tally.settle(held, self._wall())
        reads = self._tally.take()
        while reads:
            some, reads = reads[:MOST_IN_REPORT], reads[MOST_IN_REPORT:]
            try:
                await self._connection.ask(to_report(some), partial(read_answer, ReportTaken))
                self._report_rest_seconds = _RETRY_SECONDS
            except asyncio.CancelledError:
                self._tally.put_back(reads)  # and not what the store may have taken
                raise
            except DoxStoreError as error:
                if is_borne(error) or isinstance(error, AuthenticationError):
                    self._tally.put_back(some + reads)
                    self._report_rest_seconds = min(
                        self._report_rest_seconds * 2, _LONGEST_RETRY_SECONDS
                    )
                    return
                if not self._is_warned:
                    self._is_warned = True
                    _log.warning("The store takes no report of what was served (%s).", error.code)


def _is_borne(outcome: HeldKey | DoxStoreError) -> bool:
    """Whether the store did not say anything of a key."""
    if isinstance(outcome, DoxStoreError):
        return is_borne(outcome)
    return outcome.source == "outage"
