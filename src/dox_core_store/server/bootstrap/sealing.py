"""A node whose store is still sealed: what could open it, and every attempt to.

Whether a start may be sealed at all: only where the store is sound as far as anybody can see who
cannot open it, and people could (a passphrase, shares), or a key service that is down now. A key
service is asked again and again, by itself; people come through a ceremony. Whoever is first opens
the store. One attempt runs at a time, none once the node was told to stop, and nothing is written
by one that fails.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Never

from dox_core_store import wire
from dox_core_store.errors import (
    DoxStoreError,
    InvalidRequestError,
    NotFoundError,
    StoreUnavailableError,
)
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.seals.passphrase import PassphraseHolder
from dox_core_store.server.adapters.seals.shares import ShareSet
from dox_core_store.server.adapters.sql.custody import Unlock
from dox_core_store.server.bootstrap.unlock import unlock_of
from dox_core_store.server.domain.seal import AUTOMATIC, Slot, SlotKind
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.unseal import (
    BY_PEOPLE,
    Offer,
    Progress,
    Submission,
    Unseal,
    retry_seconds,
)

__all__ = ["Attempt", "Sealing", "open_status", "refuse_entry"]

_TICK_SECONDS = 5.0
_MOST_CHARACTERS = 1_000
_SERVICES = AUTOMATIC - {SlotKind.KEY_FILE}


class Attempt:
    """An `Unlock` that remembers which slots there were, and whether it was the one to refuse.

    ``make`` gives the `Unlock` itself, or raises why there is none."""

    def __init__(self, make: Callable[[], Unlock]) -> None:
        self._make = make
        self.store_id = ""
        self.slots: Sequence[Slot] = ()
        self.refused: DoxStoreError | None = None
        self.opened_by: Slot | None = None

    @classmethod
    def automatic(cls, settings: Settings) -> Attempt:
        """With what ``settings`` say, asking nobody."""
        return cls(lambda: unlock_of(settings, None))

    def __call__(self, store_id: str, slots: Sequence[Slot]) -> Iterator[tuple[Slot, bytes]]:
        self.store_id, self.slots = store_id, slots
        try:
            for slot, key in self._make()(store_id, slots):
                self.opened_by = slot  # so far: the last one that was offered did it
                yield slot, key
        except DoxStoreError as error:
            self.refused = error
            raise


class Sealing:
    """The time from a sealed start to an open store. ``open_store`` is given an attempt and how it
    came about, and returns once the node serves; ``fail`` ends the node."""

    def __init__(
        self,
        attempt: Attempt,
        refused: DoxStoreError,
        *,
        settings: Settings,
        clock: SystemClock,
        log: Any,
        open_store: Callable[[Attempt, str], Awaitable[None]],
        announce: Callable[[str | None, str], None],
        fail: Callable[[DoxStoreError], None],
    ) -> None:
        """Raises ``refused``, what ``attempt`` met, where neither people nor time would help."""
        self.store_id = attempt.store_id
        self._refused = refused
        self._settings = settings
        self._log = log
        self._open_store = open_store
        self._announce = announce
        self._fail = fail
        self._one_at_a_time = asyncio.Lock()
        self._is_open = False
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._services = sorted({slot.kind for slot in attempt.slots if slot.kind in _SERVICES})
        self._is_down = isinstance(self._refused, StoreUnavailableError)
        self._slots = [slot for slot in attempt.slots if self._is_for_people(slot)]
        if not (self._slots or self._is_down):
            raise self._refused
        self._unseal = Unseal(
            slots=self._slots,
            share_set=lambda slot: ShareSet(self.store_id, slot),
            passphrase_key=self._passphrase_key,
            open_store=self._by_people,
            announce=announce,
            clock=clock,
        )

    def begin(self) -> None:
        """Announce the first ceremony (None where there is nothing for people to enter), and start
        what goes on by itself."""
        if self._slots:
            self._unseal.begin()
            self._tasks.add(asyncio.create_task(self._tick()))
        else:
            self._announce(None, "start")
        if self._is_down:
            self._tasks.add(asyncio.create_task(self._keep_trying()))

    async def stop(self) -> None:
        """No attempt begins after this, and one that runs has ended."""
        self._is_stopping = True
        async with self._one_at_a_time:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def awaits(self) -> str:
        """What would open the store."""
        parts = [_awaited(each) for each in self._unseal.progress()]
        if self._is_down:
            again = f"{self._refused.code}, trying again"
            parts += [f"{kind}: {again}" for kind in self._services]
        return " or ".join(parts)

    def status(self) -> wire.SealStatus:
        """For anybody: never the ceremony's id."""
        return wire.SealStatus(
            store_id=self.store_id,
            sealed=True,
            awaits=self.awaits,
            wrong_entries=self._unseal.wrong_entries,
            slots=[_told(each) for each in self._unseal.progress()],
        )

    async def enter(self, request: wire.UnsealRequest, address: str) -> wire.Unsealing:
        """One entry of a ceremony. Raises as `Unseal.enter`, and ``invalid_field``."""
        secret = request.passphrase if request.share is None else request.share
        if secret is None or (request.share is not None and request.passphrase is not None):
            raise InvalidRequestError("invalid_field", "Send a share or a passphrase, one of them.")
        if len(secret.reveal()) > _MOST_CHARACTERS:
            raise InvalidRequestError(
                "invalid_field", f"An entry has at most {_MOST_CHARACTERS} characters."
            )
        submission = Submission(
            ceremony=request.ceremony,
            secret=secret,
            is_passphrase=request.share is None,
            slot_id=request.slot_id,
            address=address,
        )
        try:
            progress = await self._unseal.enter(submission)
        except DoxStoreError as error:
            if error.code != "ceremony_not_found":  # a flood of those must not fill the log
                self._log.warning("unseal_refused", code=error.code, address=address)
            raise
        return wire.Unsealing(
            store_id=self.store_id,
            sealed=not progress.opened,
            slot_id=progress.slot.slot_id,
            entered=progress.entered,
            needed=progress.needed,
            detail="The store is open." if progress.opened else f"{_awaited(progress)}.",
        )

    async def _by_people(self, offer: Offer) -> None:
        await self._attempt(Attempt(lambda: _Entered(offer)), offer.how)

    async def _keep_trying(self) -> None:
        attempts = 0
        while self._is_down:
            spread = secrets.randbelow(1001) / 1000
            await asyncio.sleep(retry_seconds(attempts, spread))
            attempts += 1
            try:
                await self._attempt(Attempt.automatic(self._settings), "by itself")
            except DoxStoreError as error:
                self._log.warning("unseal_failed", code=error.code, attempts=attempts)
                self._refused = error
                self._is_down = isinstance(error, StoreUnavailableError)
            else:
                return
        if not self._slots:
            self._fail(self._refused)

    async def _attempt(self, attempt: Attempt, how: str) -> None:
        """Raises what ``attempt`` was refused with; all else that goes wrong ends the node."""
        # To its end, also if whoever asked has gone: half open is no state.
        task = asyncio.create_task(self._attempt_alone(attempt, how))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _attempt_alone(self, attempt: Attempt, how: str) -> None:
        async with self._one_at_a_time:
            if self._is_stopping:
                raise StoreUnavailableError("shutting_down", "The node is shutting down.")
            if not self._is_open:
                await self._open_store(attempt, how)
                self._is_open = True
                self._unseal.end()

    async def _passphrase_key(self, slot: Slot, passphrase: Sensitive) -> bytes:
        holder = PassphraseHolder(ask=lambda: passphrase)
        return await asyncio.to_thread(holder.open, self.store_id, slot)

    async def _tick(self) -> None:
        while not self._is_open:
            await asyncio.sleep(_TICK_SECONDS)
            self._unseal.tick()

    def _is_for_people(self, slot: Slot) -> bool:
        if slot.kind not in BY_PEOPLE or self._settings.unseal_with not in ("", slot.kind):
            return False
        if slot.kind is SlotKind.SHARES:
            try:
                ShareSet(self.store_id, slot)
            except DoxStoreError as error:  # damaged; others may be whole
                self._log.error("slot_unusable", slot=slot.slot_id, code=error.code)
                return False
        return True


class _Entered:
    """The `Unlock` of what people entered."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    def __call__(
        self,
        store_id: str,  # noqa: ARG002 - as every `Unlock`
        slots: Sequence[Slot],
    ) -> Iterator[tuple[Slot, bytes]]:
        """The keys, each for its slot as it is now: a slot's own key outlives another root key."""
        now = {slot.slot_id: slot for slot in slots}
        yield from (
            (now[slot.slot_id], key) for slot, key in self._offer.keys if slot.slot_id in now
        )
        raise self._offer.otherwise


def open_status(store_id: str) -> wire.SealStatus:
    """What an open store says of its seal."""
    return wire.SealStatus(store_id=store_id, sealed=False)


async def refuse_entry(_request: wire.UnsealRequest, _address: str) -> Never:
    """An entry that comes when the store is open."""
    raise NotFoundError("ceremony_not_found", "The store is open; there is nothing to enter.")


def _awaited(progress: Progress) -> str:
    slot = progress.slot
    if slot.kind is SlotKind.PASSPHRASE:
        return f"the passphrase of slot {slot.slot_id}"
    return f"{progress.entered} of {progress.needed} shares of slot {slot.slot_id} entered"


def _told(progress: Progress) -> wire.SealSlot:
    slot = progress.slot
    shared = slot.kind is SlotKind.SHARES
    return wire.SealSlot(
        slot_id=slot.slot_id,
        kind=slot.kind,
        label=slot.label,
        entered=progress.entered if shared else None,
        needed=progress.needed if shared else None,
    )
