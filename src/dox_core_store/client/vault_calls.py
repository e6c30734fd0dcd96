"""`VaultCalls`: vaults that values lie in; adopting what is there, and moving values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from dox_core_store import wire
from dox_core_store.client.operator_calls import OperatorCalls
from dox_core_store.errors import error_for

__all__ = ["VaultCalls"]


class VaultCalls(OperatorCalls):
    """Calls about vaults. What is done key by key may be done again: what is done stays so."""

    def list_vaults(self) -> AsyncIterator[wire.VaultState]:
        """Every place where values lie, the one for new values first."""
        return self._pages("/v1/vaults", wire.Page[wire.VaultState], {})

    async def vault_entries(self, vault: str) -> AsyncIterator[wire.VaultEntry]:
        """What lies in a vault, without values. Raises what broke off the list, if anything."""
        async for line in self._lines("/v1/vaults/entries", {"vault": vault}):
            entry = wire.decode(wire.VaultEntry, line)
            if entry.code is not None:
                raise error_for(entry.code, entry.detail or "")
            yield entry

    async def adopt(
        self,
        vault: str,
        entries: Iterable[wire.AdoptEntry],
        *,
        dry_run: bool = False,
        reason: str | None = None,
    ) -> wire.Adopted:
        """Take over up to 100 entries as keys, where they lie; or say what would happen."""
        body = wire.AdoptRequest(vault=vault, entries=list(entries), dry_run=dry_run, reason=reason)
        return await self._call("POST", "/v1/vaults/adopt", body, wire.Adopted)

    async def split(self, key_paths: Iterable[str], reason: str | None = None) -> wire.Split:
        """Give up to 50 keys entries of their own, where they share one with others."""
        body = wire.SplitRequest(key_paths=list(key_paths), reason=reason)
        return await self._call("POST", "/v1/vaults/split", body, wire.Split)

    async def move(
        self,
        to: str,
        *,
        prefix: str | None = None,
        after: str | None = None,
        limit: int = 20,
        back: bool = False,
        reason: str | None = None,
    ) -> wire.Moved:
        """Have the next keys lie in ``to``: a vault that the server knows, or ``here``."""
        body = wire.MoveRequest(
            to=to, prefix=prefix, after=after, limit=limit, back=back, reason=reason
        )
        return await self._call("POST", "/v1/vaults/move", body, wire.Moved)

    async def erase_copies(
        self,
        to: str,
        *,
        prefix: str | None = None,
        after: str | None = None,
        limit: int = 20,
        reason: str | None = None,
    ) -> wire.Moved:
        """Erase the former copies of the next keys that lie in ``to``."""
        body = wire.WalkRequest(to=to, prefix=prefix, after=after, limit=limit, reason=reason)
        return await self._call("POST", "/v1/vaults/erase-copies", body, wire.Moved)
