"""One destination and its place in the ledger: look, send, remember, again.

At least once and in order: the place moves only after the destination took everything before it,
and a batch that failed is sent again as it was. Belongs to one thread of its own, so that a
destination that hangs holds up nobody else; what others ask of it (`behind`, `state`) is read from
plain attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.domain.shipping import (
    BEGINNING,
    Batch,
    Place,
    ShippingError,
    backoff_seconds,
)
from dox_core_store.server.ports import Clock

__all__ = ["LOOK_SECONDS", "Follower", "FollowerState", "ShippingSource", "Sink"]

LOOK_SECONDS = 1.0
"""As often as checkpoints are made."""

_HANGS_SECONDS = 30.0
_STALLED_SECONDS = 10.0
"""A look that is further back than this did not take place: then nobody knows what is missing."""

_KEEP_SECONDS = 1.0
"""How often a place is kept while there is much to ship: each is a commit of the store's."""


class Sink(Protocol):
    """A destination to which checkpoints and changes are shipped.

    ``send`` returns once all of the batch is where a restart of this machine does not undo it, as
    far as the destination can tell; it may be told the same batch again. It blocks, runs in a
    thread of its own, and has time limits of its own. Raises `ShippingError` and nothing else.
    """

    @property
    def kind(self) -> str:
        """``file``, ``syslog``, ``webhook`` or ``bucket``."""

    @property
    def shown(self) -> str:
        """Its address as logs and answers may have it."""

    def send(self, batch: Batch) -> None: ...


class ShippingSource(Protocol):
    """The part of the ledger that is shipped. Blocks: runs in a thread.

    Raises `ShippingError` where the ledger cannot be read, `DoxStoreError` where a place cannot be
    kept.
    """

    def resume(self, name: str) -> tuple[Place | None, str | None]:
        """Where the follower ``name`` goes on. None: from the ledger's beginning, with the reason
        if it had been further on once."""

    def after(self, place: Place) -> Batch:
        """What comes next; perhaps nothing, but a place further on."""

    def keep(self, name: str, place: Place) -> None:
        """Keep that ``name`` has everything up to ``place``."""


class FollowerState(NamedTuple):
    """For the metrics. ``number`` counts from 1 in the order of the settings."""

    kind: str
    number: int
    required: bool
    behind_seconds: float
    shipped: int
    failures: int


class Follower:
    """See the module. ``notice`` hears ``ship_failed`` (at the first failure of several in a row),
    ``ship_recovered`` and ``ship_restarted``, each with what there is to say."""

    def __init__(
        self,
        *,
        name: str,
        number: int,
        required: bool,
        sink: Sink,
        source: ShippingSource,
        clock: Clock,
        notice: Callable[[str, Follower, str], None],
    ) -> None:
        self.name = name
        self.number = number
        self.required = required
        self.sink = sink
        self._source = source
        self._clock = clock
        self._notice = notice
        self._place: Place | None = None
        self._pending: Batch | None = None
        self._in_a_row = 0
        self._failing = False
        self._kept = BEGINNING
        self._kept_at = -_KEEP_SECONDS
        self._started_at = self._clear_at = self._read_at = clock.seconds()
        self._counted_from = 0.0
        self._oldest: float | None = None
        self._sending_since: float | None = None
        self._shipped = self._failures = 0

    def step(self) -> float:
        """Ship what there is, at most one batch of it; seconds until the next step."""
        try:
            return self._go_on()
        except (ShippingError, DoxStoreError) as error:
            self._in_a_row += 1
            self._failures += 1
            reason = error.reason if isinstance(error, ShippingError) else error.code
            self._fails(reason)
            return backoff_seconds(self._in_a_row)

    def begin_anew(self) -> None:
        """Another may have shipped meanwhile: go on from what is kept."""
        self._place = self._pending = None

    def stand_by(self) -> float:
        """Another node ships: see how far it is behind; seconds until the next look."""
        self.begin_anew()
        now = self._clock.seconds()
        try:
            found, _ = self._source.resume(self.name)
            batch = self._source.after(found or BEGINNING)
        except (ShippingError, DoxStoreError):
            return LOOK_SECONDS  # then nobody knows what is missing: see `behind`
        self._oldest = batch.oldest if batch.entries else None
        if not batch.entries:
            self._clear_at = now
        return LOOK_SECONDS

    def behind(self, now: float) -> float:
        """Age of the oldest entry that was not shipped, in seconds; ``now`` is the node's time.

        A destination that is new here has until then what was written before it was named."""
        if self._oldest is not None:
            return max(0.0, now - max(self._oldest, self._counted_from))
        unseen = now - self._clear_at
        return unseen if unseen > _STALLED_SECONDS else 0.0

    def watch(self) -> None:
        """Notice a destination that does not answer at all: no exception tells of that."""
        since = self._sending_since
        if since is not None and self._clock.monotonic() - since > _HANGS_SECONDS:
            self._fails(f"no answer for {_HANGS_SECONDS:.0f} s")

    def state(self) -> FollowerState:
        """As of now."""
        return FollowerState(
            self.sink.kind,
            self.number,
            self.required,
            self.behind(self._clock.seconds()),
            self._shipped,
            self._failures,
        )

    def _go_on(self) -> float:
        if self._place is None:
            self._place = self._resumed()
        batch, is_fresh = self._pending, self._pending is None
        if batch is None:
            self._read_at = self._clock.seconds()
            batch = self._source.after(self._place)
            if batch.entries:
                self._pending, self._oldest = batch, batch.oldest
        if batch.entries:
            self._send(batch)
        self._pending, self._place, self._in_a_row = None, batch.place, 0
        if batch.is_last:
            self._oldest, self._clear_at = None, self._read_at
        self._keep(self._place, at_once=batch.is_last and bool(batch.entries))
        return LOOK_SECONDS if batch.is_last and is_fresh else 0.0

    def _resumed(self) -> Place:
        found, why_not = self._source.resume(self.name)
        if found is None:
            self._counted_from = self._started_at
            if why_not is not None:
                self._notice("ship_restarted", self, why_not)
            return BEGINNING
        self._kept = found
        return found

    def _send(self, batch: Batch) -> None:
        self._sending_since = self._clock.monotonic()
        try:
            self.sink.send(batch)
        finally:
            self._sending_since = None
        self._shipped += len(batch.entries)
        if self._failing:
            self._failing = False
            self._notice("ship_recovered", self, "")

    def _keep(self, place: Place, *, at_once: bool) -> None:
        """Where this cannot be written (a full disk) shipping goes on: it is kept later."""
        now = self._clock.monotonic()
        if place == self._kept or not (at_once or now - self._kept_at >= _KEEP_SECONDS):
            return
        self._kept_at = now
        try:
            self._source.keep(self.name, place)
        except DoxStoreError:
            return
        self._kept = place

    def _fails(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            self._notice("ship_failed", self, reason)
