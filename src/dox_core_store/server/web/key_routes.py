"""Routes on keys, beside the door: writing, listing, versions, imports."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.key import ImportRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import KeyRow
from dox_core_store.server.usecases.key import Keys, Written
from dox_core_store.server.usecases.key_import import Imports, ToImport
from dox_core_store.server.usecases.key_list import KeyList
from dox_core_store.server.web.desk import Call, Reply, Route

__all__ = ["key_routes", "page_limit"]

MAX_PAGE = 500
DEFAULT_PAGE = 100
_LIMIT = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)


def page_limit(call: Call) -> int:
    """The page size asked for: ``limit``, 1 to 500, by default 100."""
    text = call.query.get("limit", str(DEFAULT_PAGE))
    if _LIMIT.fullmatch(text) is None or int(text) > MAX_PAGE:
        raise InvalidRequestError("invalid_parameter", f"limit takes 1 to {MAX_PAGE}.")
    return int(text)


def key_routes(
    keys: Keys, lists: KeyList, imports: Imports, sweep_soon: Callable[[], None]
) -> list[Route]:
    """The rows for keys and imports; ``sweep_soon`` is told when an import has ended."""

    async def put(call: Call) -> Reply:
        body: wire.PutKeyRequest = call.body
        written = await keys.put(
            call.caller,
            call.path["key_path"],
            body.value,
            environment=body.environment,
            if_version=body.if_version,
            owner=body.owner,
            usage=body.usage,
            expires_at=body.expires_at,
            reason=body.reason,
        )
        return Reply(_written(written), 201 if written.created else 200)

    async def rollback(call: Call) -> Reply:
        body: wire.RollbackRequest = call.body
        return Reply(
            _written(
                await keys.rollback(
                    call.caller,
                    call.path["key_path"],
                    to_version=body.to_version,
                    environment=body.environment,
                    if_version=body.if_version,
                    reason=body.reason,
                )
            )
        )

    async def revoke(call: Call) -> Reply:
        body: wire.VersionRequest = call.body
        return Reply(
            _written(
                await keys.revoke(
                    call.caller,
                    call.path["key_path"],
                    version=body.version,
                    environment=body.environment,
                    reason=body.reason,
                )
            )
        )

    async def destroy(call: Call) -> Reply:
        body: wire.VersionRequest = call.body
        return Reply(
            _written(
                await keys.destroy(
                    call.caller,
                    call.path["key_path"],
                    version=body.version,
                    environment=body.environment,
                    reason=body.reason,
                )
            )
        )

    async def extend(call: Call) -> Reply:
        body: wire.ExtendRequest = call.body
        return Reply(
            _written(
                await keys.extend(
                    call.caller,
                    call.path["key_path"],
                    body.expires_at,
                    environment=body.environment,
                    reason=body.reason,
                )
            )
        )

    async def versions(call: Call) -> Reply:
        _address, found = await lists.versions(
            call.caller, call.path["key_path"], call.query.get("environment")
        )
        return Reply(
            wire.Page(
                items=[
                    wire.KeyVersion(
                        version=version.number,
                        version_id=version.version_id,
                        state=version.state,
                        created_at=version.created_at,
                        created_by=version.created_by,
                        expires_at=version.expires_at,
                        rolled_back_from=version.rolled_back_from,
                    )
                    for version in found
                ]
            )
        )

    async def listing(call: Call) -> Reply:
        limit = page_limit(call)
        cursor = call.query.get("cursor")
        rows = await lists.page(
            call.caller,
            prefix=call.query.get("prefix"),
            environment=call.query.get("environment"),
            after=None if cursor is None else _from_cursor(cursor),
            limit=limit,
        )
        more = _to_cursor(rows[-1]) if len(rows) == limit else None
        items = [_summary(row) for row in rows if row.head is not None]
        return Reply(wire.Page(items=items, next_cursor=more))

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
        sweep_soon()
        return Reply(_import(done))

    async def abort(call: Call) -> Reply:
        done = await imports.abort(call.caller, call.path["import_id"])
        sweep_soon()
        return Reply(_import(done))

    one, key, version = "/v1/keys/{key_path:str}", wire.KeyWritten, wire.VersionRequest
    an_import = "/v1/imports/{import_id:str}"
    return [
        Route("GET", "/v1/keys", Action.LIST, "List keys, without values", listing,
              answer=wire.Page[wire.KeySummary],
              parameters=("prefix", "environment", "cursor", "limit"), is_read=True),
        Route("PUT", one, Action.PUT, "Store a new current version", put,
              body=wire.PutKeyRequest, answer=key, statuses=(200, 201)),
        Route("GET", f"{one}/versions", Action.LIST, "List a key's versions, without values",
              versions, answer=wire.Page[wire.KeyVersion], parameters=("environment",),
              is_read=True),
        Route("POST", f"{one}/rollback", Action.ROLLBACK, "A new version with an earlier value",
              rollback, body=wire.RollbackRequest, answer=key),
        Route("POST", f"{one}/revoke", Action.REVOKE, "Hand a version out nowhere from now on",
              revoke, body=version, answer=key),
        Route("POST", f"{one}/destroy", Action.DESTROY, "Erase a version's value", destroy,
              body=version, answer=key),
        Route("POST", f"{one}/extend", Action.EXTEND, "Let the current version live longer",
              extend, body=wire.ExtendRequest, answer=key),
        Route("POST", "/v1/imports", Action.IMPORT, "Begin an import", open_import,
              answer=wire.ImportResult, statuses=(201,)),
        Route("POST", f"{an_import}/entries", Action.IMPORT, "Add a slice to an import", add,
              body=wire.ImportRequest, answer=wire.ImportResult),
        Route("POST", f"{an_import}/commit", Action.IMPORT, "Make an import visible at once",
              commit, body=wire.ReasonRequest, answer=wire.ImportResult),
        Route("POST", f"{an_import}/abort", Action.IMPORT, "Leave nothing of an import", abort,
              body=wire.ReasonRequest, answer=wire.ImportResult),
    ]  # fmt: skip


def _written(written: Written) -> wire.KeyWritten:
    version = written.version
    return wire.KeyWritten(
        key_path=written.address.path,
        environment=written.address.environment,
        version=version.number,
        version_id=version.version_id,
        state=version.state,
        expires_at=version.expires_at,
        rolled_back_from=version.rolled_back_from,
    )


def _summary(row: KeyRow) -> wire.KeySummary:
    return wire.KeySummary(
        key_path=row.key.path,
        environment=row.key.environment,
        version=None if row.head is None else row.head.number,
        state=None if row.head is None else row.head.state,
        owner=row.key.owner,
        usage=row.key.usage,
        created_at=row.key.created_at,
        rotated_at=row.key.rotated_at,
        last_read_at=row.last_read_at,
        expires_at=None if row.head is None else row.head.expires_at,
    )


def _import(record: ImportRecord) -> wire.ImportResult:
    status = {"settled": "committed", "cleared": "aborted"}.get(record.status, record.status)
    return wire.ImportResult(
        import_id=record.import_id,
        status=status,
        created=record.created,
        replaced=record.replaced,
        unchanged=record.unchanged,
    )


def _to_cursor(row: KeyRow) -> str:
    text = f"{row.key.path} {row.key.environment}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _from_cursor(text: str) -> KeyAddress:
    try:
        padded = text + "=" * (-len(text) % 4)
        path, environment = base64.b64decode(padded, b"-_", validate=True).decode().split(" ")
    except (binascii.Error, ValueError):
        raise InvalidRequestError("invalid_parameter", "cursor is not one of ours.") from None
    return KeyAddress(path, environment)
