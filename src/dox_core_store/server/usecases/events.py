"""Telling those who follow the store what changed, in the order of the change feed.

The feed tells each change once it was applied (`note`); what it was about is looked up once for
everybody, and then told to the streams of services that may read the key now. One worker does that
in order, so a place in the feed that a stream was told is one up to which it was told everything.
Who comes back with such a place gets what is missing from memory, or ``reset``.

A beat says that nothing is missing. It is made once for many streams, and is not made while this
node cannot know: its database does not answer, or nothing may be handed out.

A stream ends when its token does: looked at whenever a token may have ended, before anything is
told, and with each beat. One that is read too slowly is cut off, so that it costs no other; it will
come back and resume. HTTP is in ``web.event_stream``.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from dox_core_store.errors import (
    AuthenticationError,
    RateLimitError,
    StoreUnavailableError,
)
from dox_core_store.server.domain.event import EventKind, Place
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.token import Claims
from dox_core_store.server.ports import Catalog, Change, Clock
from dox_core_store.server.usecases.event_lookup import Event, EventLookup, kind_of_change
from dox_core_store.server.usecases.event_queue import Stream
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registry import Registry, subject
from dox_core_store.wire import ChangeEvent

__all__ = ["BEAT_SECONDS", "TURNS", "Events"]

BEAT_SECONDS = 1.0
TURNS = 10
"""Beats are not sent to all streams at one moment: each has its turn, ten to a second."""

MOST_STREAMS = 10_000
MOST_OF_SERVICE = 2_000
REMEMBERED = 1_000
"""Changes that somebody may have missed and is still told one by one."""

_MOST_WAITING = 2_000
"""Changes that wait to be told; beyond that nobody is told which."""

_AT_ONCE = 50
_CONFIRMED_SECONDS = 1.5
"""How long ago this node may have found out that it knows everything (it looks twice a second), and
may have applied what was not told yet."""

_BLOCKS = 100
_RETRY_SECONDS = 10
_SERVICES, _SIGNING_KEYS = subject("services", ""), subject("signing_keys", "")

Render = Callable[[EventKind, Place, ChangeEvent | None], bytes]


class Events:
    """See the module. One per node, on the event loop."""

    def __init__(
        self,
        *,
        epoch: int,
        catalog: Catalog,
        registry: Registry,
        feed: Feed,
        clock: Clock,
        render: Render,
        report: Callable[[BaseException, str], None],
    ) -> None:
        self._epoch = epoch
        self._catalog = catalog
        self._lookup = EventLookup(catalog=catalog, registry=registry)
        self._registry = registry
        self._feed = feed
        self._clock = clock
        self._render = render
        self._report = report
        self._streams: dict[str, set[Stream]] = {}
        self._turns: list[set[Stream]] = [set() for _ in range(TURNS)]
        self._turn = self._admitted = self.count = 0
        self._recent: deque[Change] = deque(maxlen=REMEMBERED)
        self._waiting: deque[tuple[Change, float]] = deque()
        self._telling: asyncio.Task[None] | None = None
        self._told_until = math.inf
        self._told = self._noted = 0
        self._is_closed = False

    async def start(self) -> None:
        """Remember the last changes before the feed's place: clients of the process that was here
        before come back with places in them."""
        self._told = self._noted = seq = self._feed.applied
        after = max(0, seq - REMEMBERED)
        while after < seq:
            changes = await self._catalog.changes(after, _BLOCKS)
            self._recent.extend(each for each in changes if each.seq <= seq)
            after = changes[-1].seq if changes else seq

    # --- streams ------------------------------------------------------------------------------

    def admit(self, claims: Claims) -> Stream:
        """Room for one more stream of the service; `leave` gives it back.

        Raises `StoreUnavailableError`, `RateLimitError` ``rate_limited``.
        """
        for code, detail in self._registry.held.items():
            raise StoreUnavailableError(code, detail)
        if self._is_closed or self.count >= MOST_STREAMS:
            why = "ends" if self._is_closed else "has as many streams as it can take"
            raise StoreUnavailableError("overloaded", f"This node {why}: try another one.")
        streams = self._streams.setdefault(claims.name, set())
        if len(streams) >= MOST_OF_SERVICE:
            raise RateLimitError(
                "rate_limited",
                f"A service has at most {MOST_OF_SERVICE} streams on a node.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        stream = Stream(claims, turn=self._admitted % TURNS)
        self._admitted += 1
        self.count += 1
        streams.add(stream)
        return stream

    def leave(self, stream: Stream) -> None:
        """The stream is over."""
        self.count -= 1
        self._turns[stream.turn].discard(stream)
        streams = self._streams[stream.claims.name]
        streams.discard(stream)
        if not streams:
            del self._streams[stream.claims.name]

    async def begin(self, stream: Stream, last: bytes | None) -> bytes:
        """From here on ``stream`` is told what happens; what it missed since it was told ``last``,
        to be sent before that. Raises `AuthenticationError`, `StoreUnavailableError`."""
        self._registry.check_again(stream.claims, self._clock.seconds())
        place = Place.parse(last)
        if place is not None and place.epoch != self._epoch:
            place = None
        stream.after = start = self._told
        if place is not None and place.seq > start:
            # It was told more elsewhere than is known here: true, if this node finds it too.
            stream.after = start = place.seq
            await self._feed.catch_up()
            if place.seq > self._feed.applied:
                place, stream.after = None, self._told
                start = self._told
        missed = None if place is None else await self._missed(stream, place.seq, start)
        if missed is None:
            missed = [Event(EventKind.RESET, start)]
        self._turns[stream.turn].add(stream)
        self._beat([stream])
        return b"".join(map(self._frame, missed))

    def close(self) -> None:
        """End all streams, and take no more."""
        self._is_closed = True
        for stream in self._all():
            stream.close()

    def beat(self) -> None:
        """To be called `TURNS` times in `BEAT_SECONDS`."""
        self._turn = (self._turn + 1) % TURNS
        self._beat(self._turns[self._turn])

    def _beat(self, streams: Iterable[Stream]) -> None:
        is_current = self._is_current()
        frame = self._frame(Event(EventKind.BEAT, self._told))
        for stream in streams:
            if self._still_holds(stream) and is_current:
                stream.beat(frame)

    def _is_current(self) -> bool:
        """Whether all that was committed until a moment ago was told."""
        known_at = min(self._feed.confirmed_at, self._told_until)
        return self._clock.monotonic() - known_at <= _CONFIRMED_SECONDS and not self._registry.held

    def _still_holds(self, stream: Stream) -> bool:
        try:
            self._registry.check_again(stream.claims, self._clock.seconds())
        except AuthenticationError:
            stream.close()
            return False
        return True

    def _all(self) -> Iterator[Stream]:
        for streams in self._streams.values():
            yield from streams

    # --- what happens -------------------------------------------------------------------------

    def note(self, change: Change) -> None:
        """The feed has applied ``change``; it may say so again after a fault."""
        if change.seq <= self._noted:
            return
        self._recent.append(change)
        self._noted = change.seq
        for stream in self._suspects(change):
            self._still_holds(stream)
        if self._telling is None:
            if not self._streams or kind_of_change(change) is None:
                self._told = change.seq
                return
            self._telling = asyncio.get_running_loop().create_task(self._tell_all())
            self._told_until = self._clock.monotonic()
        self._waiting.append((change, self._clock.monotonic()))

    def _suspects(self, change: Change) -> Iterable[Stream]:
        """Whose token may hold no longer."""
        if change.key_path.startswith(_SIGNING_KEYS):
            return self._all()
        if change.key_path.startswith(_SERVICES):
            return self._streams.get(change.key_path.removeprefix(_SERVICES), ())
        if change.action == Action.REVOKE_TOKEN:
            return (each for each in self._all() if change.key_path == each.subject)
        return ()

    async def _tell_all(self) -> None:
        """Tell what waits, in order. What nobody can say any more is told as ``reset``."""
        try:
            while self._waiting:
                if len(self._waiting) > _MOST_WAITING:
                    self._waiting.clear()
                    self._tell(Event(EventKind.RESET, self._noted))
                    return
                _, self._told_until = self._waiting[0]
                some = [
                    self._waiting.popleft()[0] for _ in range(min(_AT_ONCE, len(self._waiting)))
                ]
                for event in await asyncio.gather(*map(self._lookup.event, some)):
                    if event is not None:
                        self._tell(event)
        except Exception as error:  # noqa: BLE001 - reported; who follows must not miss it unknown
            self._report(error, "events")
            self._waiting.clear()
            self._tell(Event(EventKind.RESET, self._noted))
        finally:
            self._told, self._telling, self._told_until = self._noted, None, math.inf

    def _tell(self, event: Event) -> None:
        frame = self._frame(event)
        for name in list(self._streams) if event.name is None else [event.name]:
            if self._lookup.concerns(event, name):
                for stream in self._streams.get(name, ()):
                    stream.put(event.seq, frame)
        self._told = event.seq

    async def _missed(self, stream: Stream, last: int, start: int) -> list[Event] | None:
        """What was to be told after ``last`` and up to ``start``; None where that is not known, or
        too much."""
        if last == start:
            return []
        recent = [each for each in self._recent if last < each.seq <= start]
        if not recent or (recent[0].seq, recent[-1].seq) != (last + 1, start):
            return None
        return await self._lookup.since(recent, stream.claims.name, stream.MOST_WAITING)

    def _frame(self, event: Event) -> bytes:
        return self._render(event.kind, Place(self._epoch, event.seq), event.change)
