"""`KeyImport`: an import that is open on the store, filled slice by slice."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self, TypeVar

from dox_core_store import wire
from dox_core_store.client.protocol import url_segment

__all__ = ["KeyImport"]

T = TypeVar("T")


class _Calls(Protocol):
    async def __call__(
        self, method: str, path: str, body: wire.Request | None, answer_type: type[T], /
    ) -> T: ...


class KeyImport:
    """All or nothing: leaving the ``async with`` block without `commit` aborts it.

    After an `add` that failed, the same entries may be added again: they go under the same
    number, by which the store knows a slice that it has already.
    """

    def __init__(self, import_id: str, *, call: _Calls) -> None:
        self.import_id = import_id
        self._call = call
        self._path = f"/v1/imports/{url_segment(import_id)}"
        self._sequence = 0
        self._is_open = True

    async def add(self, entries: Iterable[wire.ImportEntry]) -> wire.ImportResult:
        """Send a slice. Nothing of it is visible yet."""
        body = wire.ImportRequest(sequence=self._sequence, entries=list(entries))
        result = await self._call("POST", f"{self._path}/entries", body, wire.ImportResult)
        self._sequence += 1
        return result

    async def commit(self, reason: str | None = None) -> wire.ImportResult:
        """Make everything visible at once."""
        body = wire.ReasonRequest(reason=reason)
        result = await self._call("POST", f"{self._path}/commit", body, wire.ImportResult)
        self._is_open = False
        return result

    async def abort(self, reason: str | None = None) -> wire.ImportResult:
        """Discard everything."""
        body = wire.ReasonRequest(reason=reason)
        result = await self._call("POST", f"{self._path}/abort", body, wire.ImportResult)
        self._is_open = False
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_open:
            await self.abort()
