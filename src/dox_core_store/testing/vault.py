"""A vault in memory that keeps the contract, and breaks, lags or is changed when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dox_core_store.errors import DoxStoreError, error_for
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About, Erasure, Held, Home, VaultEntry, VaultHead

__all__ = ["MemoryVault"]

_FIELD = "value"


class _Version(NamedTuple):
    """``version_id`` is None where somebody else wrote it; ``fields`` where its value is gone."""

    fields: Mapping[str, str] | None
    version_id: str | None


class _Entry:
    """What lies at a path: versions, counted from 1, and who its key is."""

    def __init__(self, serial: int, *, managed: bool) -> None:
        self.serial = serial
        self.managed = managed
        self.number = 0
        self.versions: list[_Version] = []


class MemoryVault:
    """See the `Vault` port, and `VaultTools` beside the conformance suite: it is both.

    ``fault`` is raised by every method of the port from now on; ``before`` is called at the start
    of each with its name, and may wait, change something or raise. ``calls`` are those names.
    """

    def __init__(self, name: str = "memory://vault") -> None:
        self.name = name
        self.fault: DoxStoreError | None = None
        self.before: Callable[[str], None] = lambda _: None
        self.calls: list[str] = []
        self._lock = threading.RLock()
        self._serial = 0
        self._pending: dict[str, str] = {}
        self._entries: dict[str, _Entry] = {}

    def check(self) -> None:
        self._asked("check")

    def store(self, binding: Binding, value: bytes, about: About) -> bytes:
        self._asked("store")
        with self._lock:
            self._check_free(binding, about)
        self._pending.setdefault(binding.version_id, value.decode())
        return _place(pending=binding.version_id)

    def find(self, binding: Binding) -> bytes | None:
        self._asked("find")
        waiting = binding.version_id in self._pending
        return _place(pending=binding.version_id) if waiting else None

    def open(self, binding: Binding, place: bytes) -> Held:
        self._asked("open")
        with self._lock:
            return self._opened(binding, place)

    def open_many(self, wanted: Sequence[tuple[Binding, bytes]]) -> list[Held | None]:
        return [self.open(binding, place) for binding, place in wanted]

    def superseded(self, binding: Binding, place: bytes) -> bool:
        self._asked("superseded")
        with self._lock:
            return self._opened(binding, place).superseded

    def promote(self, binding: Binding, place: bytes, about: About) -> bytes:
        self._asked("promote")
        home = about.home
        if home is not None and home.shared:
            return place
        path, field = (home.path, home.field or _FIELD) if home else (_path(binding), _FIELD)
        with self._lock:
            value = self._opened(binding, place).value.decode()
            self._check_free(binding, about)
            entry = self._entries.get(path)
            if entry is None:
                entry = self._made(path, managed=True)
            if entry.number > about.number and entry.number not in about.passed:
                return place
            newest = entry.versions[-1] if entry.versions else None
            fields = dict(newest.fields or {}) if newest else {}
            if newest is not None and fields.get(field) == value:
                entry.versions[-1] = newest._replace(version_id=binding.version_id)
            else:
                entry.versions.append(_Version({**fields, field: value}, binding.version_id))
            entry.managed = True
            entry.number = about.number
            self._pending.pop(binding.version_id, None)
            return _place(path=path, serial=entry.serial, version=len(entry.versions), field=field)

    def _check_free(self, binding: Binding, about: About) -> None:
        entry = self._entries.get(_path(binding))
        if about.home is None and entry is not None and not entry.managed:
            raise error_for("vault_conflict", f"What lies at {_path(binding)} is no store's.")

    def withdraw(self, binding: Binding, place: bytes) -> None:
        self._asked("withdraw")
        if "shared" not in _read(place):
            self._empty(binding, place)

    def erase(self, binding: Binding, place: bytes) -> Erasure:
        self._asked("erase")
        if "shared" in _read(place):
            return Erasure.UNLINKED
        self._empty(binding, place)
        return Erasure.ERASED

    def head(self, binding: Binding, home: Home | None) -> VaultHead | None:
        self._asked("head")
        path, field = (home.path, home.field or _FIELD) if home else (_path(binding), _FIELD)
        with self._lock:
            entry = self._entries.get(path)
            fields = entry.versions[-1].fields if entry and entry.versions else None
            if entry is None or fields is None or field not in fields:
                return None
            version = len(entry.versions)
            shared = {"shared": True} if home and home.shared else {}
            place = _place(path=path, serial=entry.serial, version=version, field=field, **shared)
            return VaultHead(place, fields[field].encode())

    def entries(self) -> Iterator[VaultEntry]:
        self._asked("entries")
        with self._lock:
            found = [
                VaultEntry(path, tuple(sorted(fields)), entry.managed)
                for path, entry in self._entries.items()
                if (fields := entry.versions[-1].fields if entry.versions else None) is not None
            ]
        return iter(found)

    def shows(self, binding: Binding) -> bytes | None:
        entry = self._entries.get(_path(binding))
        fields = entry.versions[-1].fields if entry and entry.versions else None
        return None if fields is None else fields[_FIELD].encode()

    def change(self, binding: Binding, value: bytes) -> None:
        self.put(_path(binding), {_FIELD: value.decode()})

    def delete(self, binding: Binding) -> None:
        with self._lock:
            versions = self._entries[_path(binding)].versions
            versions[-1] = versions[-1]._replace(fields=None)

    def recreate(self, binding: Binding, value: bytes) -> None:
        with self._lock:
            del self._entries[_path(binding)]
            self.change(binding, value)

    def put(self, path: str, fields: Mapping[str, str]) -> None:
        with self._lock:
            entry = self._entries.get(path) or self._made(path, managed=False)
            entry.versions.append(_Version(dict(fields), None))

    def fields(self, path: str) -> Mapping[str, str]:
        return self._entries[path].versions[-1].fields or {}

    def _asked(self, method: str) -> None:
        self.calls.append(method)
        self.before(method)
        if self.fault is not None:
            raise error_for(self.fault.code, self.fault.detail)

    def _made(self, path: str, *, managed: bool) -> _Entry:
        self._serial += 1
        return self._entries.setdefault(path, _Entry(self._serial, managed=managed))

    def _opened(self, binding: Binding, place: bytes) -> Held:
        where = _read(place)
        pending = where.get("pending")
        if pending in self._pending:
            return Held(self._pending[pending].encode(), superseded=False)
        entry, index = self._found(binding, where)
        if entry.serial != where.get("serial", entry.serial):
            raise error_for("value_damaged", "This entry was made anew since.")
        fields, field = entry.versions[index].fields, where.get("field", _FIELD)
        if fields is None or field not in fields:
            raise error_for("vault_value_missing", "This version was deleted in the vault.")
        newest = entry.versions[-1]
        theirs = newest.version_id is None and index + 1 < len(entry.versions)
        changed = theirs and (newest.fields or {}).get(field) != fields[field]
        return Held(fields[field].encode(), superseded=changed)

    def _found(self, binding: Binding, where: Mapping[str, Any]) -> tuple[_Entry, int]:
        """The entry of a place, and which of its versions. What was pending once is found by its
        version id."""
        if "path" in where:
            entry, index = self._entries.get(where["path"]), int(where["version"]) - 1
            if entry is not None and index < len(entry.versions):
                return entry, index
        for entry in self._entries.values():
            for index, version in enumerate(entry.versions):
                if version.version_id == binding.version_id:
                    return entry, index
        raise error_for("vault_value_missing", "The vault has no such version.")

    def _empty(self, binding: Binding, place: bytes) -> None:
        where = _read(place)
        with self._lock:
            self._pending.pop(binding.version_id, None)
            try:
                entry, index = self._found(binding, where)
            except DoxStoreError:
                return
            entry.versions[index] = entry.versions[index]._replace(fields=None)


def _path(binding: Binding) -> str:
    return f"{binding.environment}/{binding.key_path.replace('.', '/')}"


def _place(**where: Any) -> bytes:
    return json.dumps(where).encode()


def _read(place: bytes) -> dict[str, Any]:
    try:
        where = json.loads(place)
    except ValueError:
        where = None
    if not isinstance(where, dict) or where.keys() - {"shared"} not in (
        {"pending"},
        {"path", "serial", "version", "field"},
    ):
        raise error_for("value_damaged", "This is no place in the vault.")
    return where
