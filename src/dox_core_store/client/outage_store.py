"""`SealedOutageFiles`: keys that outlive their process, one sealed file for each.

What may be found is judged here, by the time of day. The format is in `outage_seal`, the handling
of files in `outage_folder`, whose files they are in `outage_secret`.

A bare path means its key in the environment of the token, which is known without the store. So a
file needs no list of spellings, and its name is found without opening any other.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dox_core_store.client.credential import Credential
from dox_core_store.client.exchanged import ExchangedCredential
from dox_core_store.client.outage import OutageFiles
from dox_core_store.client.outage_folder import OutageFolder
from dox_core_store.client.outage_secret import Sealing, SealingSource
from dox_core_store.errors import ConfigurationError
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import KeyValue

if TYPE_CHECKING:
    from dox_core_store.client.outage_seal import Namer, OutageRecord

__all__ = ["SealedOutageFiles", "outage_store_from"]

_log = logging.getLogger("dox_core_store.client")


def outage_store_from(
    environ: Mapping[str, str],
    folder: str | Path | None,
    *,
    credential: Credential | ExchangedCredential,
    service_name: str,
    wall: Callable[[], float] = time.time,
) -> OutageFiles | None:
    """The store in ``folder``, else in the one that ``KEY_SERVICE_OUTAGE_DIR`` names, if any.

    Raises ``bad_setting`` for a folder that cannot be used or is not for us alone, and where
    nothing secret would outlive the process.
    """
    named = folder or environ.get("KEY_SERVICE_OUTAGE_DIR")
    if not named:
        return None
    opened = OutageFolder.opened(Path(named), now=wall())
    source = SealingSource(
        credential=credential, service_name=service_name, environ=environ, folder=opened
    )
    return SealedOutageFiles(opened, source=source, wall=wall)


class SealedOutageFiles:
    """See the module, and `OutageFiles` for the contract. Called from any thread. ``wall`` is the
    time of day in seconds since 1970."""

    def __init__(
        self,
        folder: OutageFolder,
        *,
        source: SealingSource,
        wall: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._source = source
        self._wall = wall
        self._told: set[str] = set()
        self._void_before = -math.inf
        """Something that was written before could not be erased; nobody can tell which file."""

    def keep(self, spelling: str, answer: KeyValue, true_at: float) -> None:  # noqa: ARG002 - see the module
        from dox_core_store.client.outage_seal import OutageRecord, seal_record  # noqa: PLC0415

        with self._untroubled("written"):
            sealing = self._source.current()
            if sealing is None:
                return
            name = self._namer(sealing).name(KeyAddress(answer.key_path, answer.environment))
            record = OutageRecord(key=answer, true_at=true_at, written_at=self._wall())
            if record.ends_at <= record.written_at:
                self._folder.remove(name)
                return
            with contextlib.suppress(OSError):
                there = self._opened(sealing, name)
                if there is not None and self._holds(there) and there.true_at > true_at:
                    return  # another process has asked later than we did
            content = seal_record(sealing.secrets[0], sealing.principal, name, record)
            if content is not None:
                self._folder.replace(name, content, ends_at=record.ends_at)

    def find(self, spelling: str) -> tuple[KeyValue, float] | None:
        with self._untroubled("read"):
            sealing = self._source.current()
            if sealing is None:
                return None
            namer = self._namer(sealing)
            for address in _addresses(spelling, sealing.principal.environment):
                name = namer.name(address)
                record = self._opened(sealing, name)
                if record is None:
                    continue
                if self._holds(record):
                    return record.key, record.true_at
                self._folder.remove(name)
        return None

    def erase(self, spelling: str) -> None:
        with self._untroubled("erased"):
            sealing = self._source.current()
            if sealing is None:
                self._void_before = self._wall()
                return
            namer = self._namer(sealing)
            bare = namer.prefix(spelling)
            path, _, environment = spelling.rpartition(".")
            full = namer.name(KeyAddress(path, environment))
            for name in self._folder.names():
                if name == full or name.startswith(bare):
                    self._folder.remove(name)

    def erase_all(self) -> None:
        with self._untroubled("erased"):
            for name in self._folder.names():
                self._folder.remove(name)

    def _holds(self, record: OutageRecord) -> bool:
        now = self._wall()
        # A clock that is behind the record was set back since, and tells nothing about its age.
        is_past = max(record.true_at, record.written_at) <= now
        return is_past and record.written_at > self._void_before and now < record.ends_at

    def _opened(self, sealing: Sealing, name: str) -> OutageRecord | None:
        from dox_core_store.client.outage_seal import LARGEST_BYTES, open_record  # noqa: PLC0415

        content = self._folder.read(name, most=LARGEST_BYTES)
        if content is None:
            return None
        opened = (open_record(each, sealing.principal, name, content) for each in sealing.secrets)
        return next((record for record in opened if record is not None), None)

    def _namer(self, sealing: Sealing) -> Namer:
        from dox_core_store.client.outage_seal import Namer  # noqa: PLC0415

        # The salt is read each time: whoever shares the folder has the same one.
        return Namer(self._folder.salt(), sealing.principal)

    @contextlib.contextmanager
    def _untroubled(self, done: str) -> Iterator[None]:
        """Whatever is wrong is told once of its kind, and no key's name with it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - total on purpose: see the contract
            if done == "erased":
                self._void_before = self._wall()
            if done in self._told:
                return
            self._told.add(done)
            why = type(error).__name__
            if isinstance(error, OSError):
                why = error.strerror or why
            elif isinstance(error, ConfigurationError):
                why = error.detail
            _log.warning(
                "A key in the folder for outages %s cannot be %s: %s", self._folder.path, done, why
            )


def _addresses(spelling: str, environment: str) -> list[KeyAddress]:
    """What ``spelling`` may stand for: which last segments are environments only the store
    knows, but no two of its keys answer to one spelling."""
    path, _, last = spelling.rpartition(".")
    return [KeyAddress(path, last), KeyAddress(spelling, environment)]
