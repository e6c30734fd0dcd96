"""What a node watches beside its requests: disk and files, the wall clock, the store's history.

It logs what happens to them, tells readiness and the metrics how they are now, and decides nothing:
the disk is the writer's to refuse by, and no step of the wall clock moves the node's time.
"""

from __future__ import annotations

from typing import Any

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.sql.room import Room
from dox_core_store.server.adapters.sqlite.ballast import Disk
from dox_core_store.server.adapters.sqlite.files import OpenFiles
from dox_core_store.server.adapters.telemetry import Condition

__all__ = ["Watch"]

_STEP_SECONDS = 60.0
"""A wall clock that is further away than this from the node's time was set, and not corrected."""


class Watch:
    """See the module. ``disk``, ``files`` and ``epoch`` are given once there are any."""

    def __init__(self, *, log: Any, clock: SystemClock, room: Room) -> None:
        self._log = log
        self._clock = clock
        self._step = 0
        self.room = room
        self._lost = 0
        self.disk: Disk | None = None
        self.files: OpenFiles | None = None
        self.epoch = 1

    def notice(self, event: str, detail: str) -> None:
        """Something happened; called on whichever thread it happened on."""
        if event == "disk_full":
            self._log.error("disk_full")
        elif event == "disk_has_room":
            self._log.info("disk_has_room")
        elif event == "ballast_given":
            self._log.warning("ballast_given")
        elif event == "files_replaced":
            self._log.critical("files_replaced", files=detail)
        elif event == "files_back":
            self._log.info("files_back", files=detail)
        elif event == "witness_damaged":
            self._log.warning("witness_damaged", kind=detail)
        elif event == "history_lost":
            self._lost += 1
            self._log.critical("history_lost", detail=detail)

    def look(self) -> None:
        """Compare the wall clock with the node's time, every second or so."""
        step = self._clock.step_seconds()
        if abs(step - self._step) > _STEP_SECONDS:
            self._step = round(step)
            self._log.error("clock_stepped", seconds=self._step)

    def checks(self) -> dict[str, str]:
        """For readiness. What is wrong here takes no node out of service by itself."""
        full = self.disk is not None and self.disk.is_full
        lost = "" if self.files is None else self.files.lost
        return {
            "disk": "full" if full else "ok",
            "files": f"deleted or replaced: {lost}" if lost else "ok",
            "room": "ok" if self.room.state == "ok" else f"{self.room.state}: {self.room}",
            "clock": f"wall clock stepped by {self._step} s" if self._is_stepped else "ok",
        }

    def condition(self) -> Condition:
        """For the metrics."""
        disk = self.disk
        return Condition(
            ballast_bytes=0 if disk is None else disk.ballast_bytes,
            disk_full=disk is not None and disk.is_full,
            clock_step_seconds=self._clock.step_seconds(),
            epoch=self.epoch,
            history_lost=self._lost,
            store_bytes=self.room.bytes,
            store_limit_bytes=self.room.limit_bytes,
        )

    @property
    def _is_stepped(self) -> bool:
        return abs(self._step) > _STEP_SECONDS
