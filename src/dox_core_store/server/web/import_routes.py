"""Routes on imports: many keys that become visible together, or not at all."""

from __future__ import annotations

from dox_core_store import wire
from dox_core_store.server.domain.key import ImportRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.usecases.key_import import Imports, ToImport
from dox_core_store.server.web.desk import Call, Reply, Route

__all__ = ["import_routes"]


def import_routes(imports: Imports) -> list[Route]:
    """The rows for imports."""

    async def open_import(call: Call) -> Reply:
        return Reply(_import(await imports.open(call.caller)))

    async def add(call: Call) -> Reply:
        body: wire.ImportRequest = call.body
        entries = [ToImport(each.key_path, each.environment, each.value) for each in body.entries]
        return Reply(
            _import(await imports.add(call.caller, call.path["import_id"], body.sequence, entries))
        )

    async def commit(call: Call) -> Reply:
        done = await imports.commit(call.caller, call.path["import_id"], call.body.reason)
        return Reply(_import(done))

    async def abort(call: Call) -> Reply:
        done = await imports.abort(call.caller, call.path["import_id"], call.body.reason)
        return Reply(_import(done))

    one = "/v1/imports/{import_id:str}"
    return [
        Route("POST", "/v1/imports", Action.IMPORT, "Begin an import", open_import,
              answer=wire.ImportResult, statuses=(201,)),
        Route("POST", f"{one}/entries", Action.IMPORT, "Add a slice to an import", add,
              body=wire.ImportRequest, answer=wire.ImportResult),
        Route("POST", f"{one}/commit", Action.IMPORT, "Make an import visible at once",
              commit, body=wire.ReasonRequest, answer=wire.ImportResult),
        Route("POST", f"{one}/abort", Action.IMPORT, "Leave nothing of an import", abort,
              body=wire.ReasonRequest, answer=wire.ImportResult),
    ]  # fmt: skip


def _import(record: ImportRecord) -> wire.ImportResult:
    status = {"settled": "committed", "cleared": "aborted"}.get(record.status, record.status)
    return wire.ImportResult(
        import_id=record.import_id,
        status=status,
        created=record.created,
        replaced=record.replaced,
        unchanged=record.unchanged,
    )
