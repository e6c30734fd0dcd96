"""How a version becomes what `bao kv get` shows: claimed, written, and no longer pending.

Each step may be the last before a crash, and all of it may be done again by any node. Done is what
is claimed for the version id and has its value. A number below one that was claimed already, and
has not passed since, is not written: it came late, and stays where it waits. What somebody else
wrote to a key of the store is written over (the engine keeps it as an older version); what is no
key of the store's is a conflict.
"""

from __future__ import annotations

from dox_core_store.errors import error_for
from dox_core_store.server.adapters.vaults.openbao_connection import vault_unavailable
from dox_core_store.server.adapters.vaults.openbao_engine import KvEngine
from dox_core_store.server.adapters.vaults.openbao_entry import (
    Claims,
    Version,
    claim_of,
    description_of,
)
from dox_core_store.server.adapters.vaults.openbao_place import Place, Target, pending_path
from dox_core_store.server.adapters.vaults.openbao_reading import claimed_place, value_at
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About

__all__ = ["Promotion", "check_free", "seen_at"]

_ATTEMPTS = 5
_MAX_VERSIONS = 100
"""How many the engine keeps of a key: its own default of 10 would drop versions that the store may
still go back to. Its claims name 40, so that what else was written there has room too."""


def seen_at(engine: KvEngine, target: Target) -> Version:
    """What the engine has at ``target`` now, be it a description alone."""
    seen = engine.read(target.path)
    return seen if seen.number else engine.described(target.path)


def check_free(seen: Version, target: Target, binding: Binding) -> None:
    """Raises ``vault_conflict`` where ``seen`` is somebody else's."""
    claims = Claims(seen.custom)
    theirs = claims.managed if target.adopted else seen.number > 0
    if theirs and not claims.belong_to(binding):
        raise error_for(
            "vault_conflict", f"What lies at {target.path} in the vault is not this key's."
        )


class Promotion:
    """Of one version of ``binding``, to ``target``."""

    def __init__(self, engine: KvEngine, binding: Binding, target: Target, about: About) -> None:
        self._engine = engine
        self._binding = binding
        self._target = target
        self._about = about

    def run(self, place: Place) -> Place:
        """Where the version lies from now on. Raises ``vault_conflict``, ``vault_value_missing``,
        ``value_damaged``."""
        for _ in range(_ATTEMPTS):
            seen = seen_at(self._engine, self._target)
            claims = Claims(seen.custom)
            check_free(seen, self._target, self._binding)
            if place.path == self._target.path and place.home is None:
                return self._taken_over(claims, place)
            done = claimed_place(self._engine, self._binding, self._target, place.digest, seen)
            if done is not None:
                return self._settled(done)
            if claims.highest(self._about) > self._about.number:
                self._unclaim(claims)
                return place
            if (written := self._written(seen, claims, place)) is not None:
                return self._settled(written)
        raise vault_unavailable(f"{self._target.path} is changed in the vault all the time.")

    def _taken_over(self, claims: Claims, place: Place) -> Place:
        """What lies there already, be it from somebody else, becomes the store's as it lies."""
        if not claims.has(place.version) and claims.highest(self._about) <= self._about.number:
            value_at(self._engine, place)
            self._claim(claims, place.version)
        return self._settled(place)

    def _written(self, seen: Version, claims: Claims, place: Place) -> Place | None:
        """Where it was written now; None if somebody else was faster."""
        value = value_at(self._engine, place)
        if not seen.created:
            self._engine.make(self._target.path, {"max_versions": _MAX_VERSIONS})
        self._claim(claims, seen.number + 1)
        fields = {**(seen.fields or {}), self._target.field: value.decode()}
        made = self._engine.write(self._target.path, fields, seen.number)
        return None if made is None else made.place(self._target)

    def _claim(self, claims: Claims, version: int) -> None:
        forgotten: dict[str, str | None] = dict.fromkeys(claims.surplus())
        self._engine.describe(
            self._target.path,
            {
                **forgotten,
                **description_of(self._binding, self._about),
                **claim_of(self._binding, self._about, version),
            },
        )

    def _unclaim(self, claims: Claims) -> None:
        """What it claimed, a later number has."""
        if claims.mentions(self._binding.version_id):
            self._engine.describe(self._target.path, claim_of(self._binding, self._about, None))

    def _settled(self, place: Place) -> Place:
        self._engine.forget(pending_path(self._binding))
        return place
