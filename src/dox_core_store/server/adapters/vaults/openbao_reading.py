"""Where a version lies by now, and what is read there.

What waited when its place was noted may have been promoted since: it is found by its claim. A value
counts if it has the digest that its place has; a version that was deleted cannot show its value and
counts if the engine says the time at which it was written.
"""

from __future__ import annotations

from collections.abc import Iterator

from dox_core_store.errors import InternalError
from dox_core_store.server.adapters.vaults.openbao_engine import KvEngine
from dox_core_store.server.adapters.vaults.openbao_entry import Claims, Version
from dox_core_store.server.adapters.vaults.openbao_place import Place, Target
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import Held

__all__ = ["claimed_place", "missing", "opened", "value_at", "versions_of"]


def opened(engine: KvEngine, binding: Binding, place: Place) -> Held:
    """The value of a version, and whether somebody changed it in the vault since. Raises
    `InternalError` ``vault_value_missing`` and ``value_damaged``."""
    newest = engine.read(place.path)
    if place.home is not None:
        if newest.fields is not None:
            return Held(_checked(newest, place), superseded=False)
        newest = engine.read(place.home.path)
        place = _promoted(engine, binding, place, place.home, newest)
    if place.version > newest.number:
        raise missing(place.path)
    if place.version == newest.number:
        return Held(_checked(newest, place), superseded=False)
    return Held(value_at(engine, place), superseded=_overtaken(newest, place))


def claimed_place(
    engine: KvEngine, binding: Binding, target: Target, digest: str, newest: Version
) -> Place | None:
    """Where in ``target`` a value of that digest was written for this version id, if it was."""
    claimed = Claims(newest.custom).of(binding.version_id)
    if claimed is None:
        return None
    there = newest if claimed == newest.number else engine.read(target.path, claimed)
    found = there.place(target)
    return found if found is not None and found.digest == digest else None


def versions_of(engine: KvEngine, binding: Binding, place: Place) -> Iterator[tuple[str, int]]:
    """Paths and versions in the engine that hold, or held until they were deleted, what is at
    ``place``: of one key no more than two."""
    there = engine.read(place.path, place.version)
    value = there.value(place.field)
    if place.holds(value) if value is not None else there.created == place.created:
        yield place.path, place.version
    if (home := place.home) is not None:
        claimed = Claims(engine.read(home.path).custom).of(binding.version_id)
        if claimed is not None:
            value = engine.read(home.path, claimed).value(home.field)
            if value is None or place.holds(value):
                yield home.path, claimed


def value_at(engine: KvEngine, place: Place) -> bytes:
    """The value at ``place``, if it lies there still. Raises as `opened` does."""
    return _checked(engine.read(place.path, place.version), place)


def missing(path: str) -> InternalError:
    return InternalError(
        "vault_value_missing", f"The version at {path} was deleted or destroyed in the vault."
    )


def _promoted(
    engine: KvEngine, binding: Binding, place: Place, home: Target, newest: Version
) -> Place:
    found = claimed_place(engine, binding, home, place.digest, newest)
    if found is None:
        raise missing(place.path)
    return found


def _overtaken(newest: Version, place: Place) -> bool:
    """Whether what is current is neither the store's nor the same value (of an entry with several
    fields, another one was changed)."""
    value = newest.value(place.field)
    if value is None or place.holds(value):
        return False
    return not Claims(newest.custom).has(newest.number)


def _checked(there: Version, place: Place) -> bytes:
    if there.fields is None:
        raise missing(place.path)
    value = there.value(place.field)
    if value is None or not place.holds(value):
        raise InternalError(
            "value_damaged", f"What lies at {place.path} in the vault is not what was stored there."
        )
    return value
