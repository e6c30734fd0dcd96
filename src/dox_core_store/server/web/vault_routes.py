"""Routes on vaults: which there are, what lies in them, adopting it, and moving values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from dox_core_store import wire
from dox_core_store.errors import DoxStoreError, InvalidRequestError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import VaultEntry
from dox_core_store.server.usecases.vault import REFUSALS
from dox_core_store.server.usecases.vault_adopt import Adopted, ToAdopt, VaultAdopt
from dox_core_store.server.usecases.vault_leave import VaultLeave
from dox_core_store.server.usecases.vault_move import VaultMove
from dox_core_store.server.usecases.vault_split import VaultSplit
from dox_core_store.server.usecases.vault_status import VaultState, VaultStatus
from dox_core_store.server.usecases.vault_walk import Moved, Walk
from dox_core_store.server.web.desk import Call, Reply, Route

__all__ = ["vault_routes"]

_MAX_SPLIT = 50


def vault_routes(
    *,
    status: VaultStatus,
    adopt: VaultAdopt,
    split: VaultSplit,
    move: VaultMove,
    leave: VaultLeave,
) -> list[Route]:
    """The rows for vaults."""

    async def listed(call: Call) -> Reply:
        return Reply(wire.Page(items=[_state(each) for each in await status.all(call.caller)]))

    async def entries(call: Call) -> Reply:
        if (vault := call.query.get("vault")) is None:
            raise InvalidRequestError("invalid_parameter", "vault is needed.")
        return Reply(_lines(await status.entries(call.caller, vault)))

    async def adopted(call: Call) -> Reply:
        body: wire.AdoptRequest = call.body
        wanted = [
            ToAdopt(each.path, each.field, each.shared, each.key_path, each.environment)
            for each in body.entries
        ]
        done = await adopt.adopt(
            call.caller, body.vault, wanted, dry_run=body.dry_run, reason=body.reason
        )
        return Reply(wire.Adopted(entries=[_adopted(each) for each in done]))

    async def splitted(call: Call) -> Reply:
        body: wire.SplitRequest = call.body
        if len(body.key_paths) > _MAX_SPLIT:
            raise InvalidRequestError("invalid_field", f"At most {_MAX_SPLIT} keys in one call.")

        async def one(path: str) -> wire.SplitKey:
            written = await split.split(call.caller, path, environment=None, reason=body.reason)
            if written is None:
                return wire.SplitKey(key_path=path, outcome="own")
            name, number = str(written.address), written.version.number
            return wire.SplitKey(key_path=name, outcome="split", version=number)

        return Reply(wire.Split(keys=await _each(body.key_paths, one)))

    async def moved(call: Call) -> Reply:
        body: wire.MoveRequest = call.body
        done = await move.move(
            call.caller, body.to, _walk(body), back=body.back, reason=body.reason
        )
        return Reply(_moved(done))

    async def erased(call: Call) -> Reply:
        body: wire.WalkRequest = call.body
        return Reply(_moved(await leave.erase(call.caller, body.to, _walk(body), body.reason)))

    return [
        Route("GET", "/v1/vaults", Action.LIST, "List the places where values lie", listed,
              answer=wire.Page[wire.VaultState], is_read=True),
        Route("GET", "/v1/vaults/entries", Action.LIST,
              "What lies in a vault, without values, as JSON Lines", entries,
              answer=wire.VaultEntry, parameters=("vault",), is_read=True,
              media_type="application/x-ndjson"),
        Route("POST", "/v1/vaults/adopt", Action.ADOPT,
              "Take over what lies in a vault as keys, where it lies", adopted,
              body=wire.AdoptRequest, answer=wire.Adopted),
        Route("POST", "/v1/vaults/split", Action.ADOPT,
              "Give keys of an entry that they share entries of their own", splitted,
              body=wire.SplitRequest, answer=wire.Split),
        Route("POST", "/v1/vaults/move", Action.MOVE,
              "Move the values of some keys to another place", moved,
              body=wire.MoveRequest, answer=wire.Moved),
        Route("POST", "/v1/vaults/erase-copies", Action.MOVE,
              "Erase the former copies of some keys that were moved", erased,
              body=wire.WalkRequest, answer=wire.Moved),
    ]  # fmt: skip


async def _each(
    paths: Sequence[str], work: Callable[[str], Awaitable[wire.SplitKey]]
) -> list[wire.SplitKey]:
    """One after the other; one that is refused holds up none, but a vault that does not answer."""
    done = []
    for path in paths:
        try:
            done.append(await work(path))
        except DoxStoreError as error:
            if error.code in REFUSALS or error.status in (401, 403):
                raise
            done.append(
                wire.SplitKey(
                    key_path=path, outcome="refused", code=error.code, detail=error.detail
                )
            )
    return done


async def _lines(pages: AsyncIterator[list[VaultEntry]]) -> AsyncIterator[bytes]:
    try:
        async for page in pages:
            yield b"".join(
                _line(
                    wire.VaultEntry(path=each.path, fields=list(each.fields), managed=each.managed)
                )
                for each in page
            )
    except DoxStoreError as error:  # the answer has begun: its last line says so
        yield _line(wire.VaultEntry(code=error.code, detail=error.detail))


def _line(entry: wire.VaultEntry) -> bytes:
    return wire.encode_line(entry) + b"\n"


def _walk(body: wire.WalkRequest) -> Walk:
    after = None
    if body.after is not None:
        path, _, environment = body.after.rpartition(".")
        after = KeyAddress(path, environment)
        if not path or not body.after.isprintable():
            raise InvalidRequestError("invalid_field", "after is what an answer called next.")
    return Walk(body.prefix, after, body.limit)


def _moved(done: Moved) -> wire.Moved:
    return wire.Moved(
        moved=done.moved,
        skipped=done.skipped,
        failed=[
            wire.MoveFailure(key_path=str(each.address), code=each.code, detail=each.detail)
            for each in done.failed
        ],
        next=None if done.next is None else str(done.next),
    )


def _state(state: VaultState) -> wire.VaultState:
    return wire.VaultState(
        vault=state.name,
        takes_new=state.takes_new,
        status="ok" if state.error is None else state.error.code,
        detail=None if state.error is None else state.error.detail,
        **state.lying._asdict(),
    )


def _adopted(done: Adopted) -> wire.AdoptedEntry:
    asked, address, error = done.asked, done.address, done.error
    return wire.AdoptedEntry(
        path=asked.path,
        field=asked.field,
        key_path=asked.key_path if address is None else address.path,
        environment=asked.environment if address is None else address.environment,
        outcome=done.outcome,
        code=None if error is None else error.code,
        detail=None if error is None else error.detail,
    )
