"""Routes on keys, beside the door: writing them, ending versions, and what is told of them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from typing import Any

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.key import EXTERNAL, State, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.limit import rate_of
from dox_core_store.server.ports import KeyRow
from dox_core_store.server.usecases.key import Keys
from dox_core_store.server.usecases.key_limit import KeyLimits
from dox_core_store.server.usecases.key_list import KeyList
from dox_core_store.server.usecases.key_upkeep import Description, KeyUpkeep
from dox_core_store.server.usecases.key_version import KeyVersions
from dox_core_store.server.usecases.stored_key import Written
from dox_core_store.server.web.desk import Call, Reply, Route

__all__ = ["key_routes", "page_limit"]

MAX_PAGE = 500
DEFAULT_PAGE = 100
_ONE = "/v1/keys/{key_path:str}"
_LIMIT = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)


def page_limit(call: Call) -> int:
    """The page size asked for: ``limit``, 1 to 500, by default 100."""
    text = call.query.get("limit", str(DEFAULT_PAGE))
    if _LIMIT.fullmatch(text) is None or int(text) > MAX_PAGE:
        raise InvalidRequestError("invalid_parameter", f"limit takes 1 to {MAX_PAGE}.")
    return int(text)


def key_routes(
    *,
    keys: Keys,
    versions: KeyVersions,
    upkeep: KeyUpkeep,
    limits: KeyLimits,
    lists: KeyList,
) -> list[Route]:
    """The rows for keys."""
    return [*_storing(keys), *_ending(versions), *_telling(lists, upkeep, limits)]


def _storing(keys: Keys) -> list[Route]:
    """What makes new versions."""

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

    async def propose(call: Call) -> Reply:
        body: wire.ProposeRequest = call.body
        return Reply(
            _written(
                await keys.propose(
                    call.caller,
                    call.path["key_path"],
                    body.value,
                    environment=body.environment,
                    expires_at=body.expires_at,
                    reason=body.reason,
                )
            )
        )

    async def promote(call: Call) -> Reply:
        body: wire.PromoteRequest = call.body
        return Reply(
            _written(
                await keys.promote(
                    call.caller,
                    call.path["key_path"],
                    version=body.version,
                    environment=body.environment,
                    if_version=body.if_version,
                    reason=body.reason,
                )
            )
        )

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

    return [
        Route("PUT", _ONE, Action.PUT, "Store a new current version", put,
              body=wire.PutKeyRequest, answer=wire.KeyWritten, statuses=(200, 201)),
        Route("POST", f"{_ONE}/propose", Action.PROPOSE, "Store a version that is not current yet",
              propose, body=wire.ProposeRequest, answer=wire.KeyWritten),
        Route("POST", f"{_ONE}/promote", Action.PROMOTE, "Make a pending version current",
              promote, body=wire.PromoteRequest, answer=wire.KeyWritten),
        Route("POST", f"{_ONE}/rollback", Action.ROLLBACK, "A new version with an earlier value",
              rollback, body=wire.RollbackRequest, answer=wire.KeyWritten),
    ]  # fmt: skip


def _ending(versions: KeyVersions) -> list[Route]:
    """What ends versions, and moves their end."""

    def one_version(act: Callable[..., Awaitable[Written]]) -> Callable[[Call], Awaitable[Reply]]:
        async def handle(call: Call) -> Reply:
            body: wire.VersionRequest = call.body
            return Reply(
                _written(
                    await act(
                        call.caller,
                        call.path["key_path"],
                        version=body.version,
                        environment=body.environment,
                        reason=body.reason,
                    )
                )
            )

        return handle

    async def expire(call: Call) -> Reply:
        body: wire.ExpireRequest = call.body
        return Reply(
            _written(
                await versions.expire(
                    call.caller,
                    call.path["key_path"],
                    environment=body.environment,
                    reason=body.reason,
                )
            )
        )

    async def extend(call: Call) -> Reply:
        body: wire.ExtendRequest = call.body
        return Reply(
            _written(
                await versions.extend(
                    call.caller,
                    call.path["key_path"],
                    body.expires_at,
                    environment=body.environment,
                    reason=body.reason,
                )
            )
        )

    return [
        Route("POST", f"{_ONE}/retire", Action.RETIRE, "End a previous version's overlap",
              one_version(versions.retire), body=wire.VersionRequest, answer=wire.KeyWritten),
        Route("POST", f"{_ONE}/revoke", Action.REVOKE, "Hand a version out nowhere from now on",
              one_version(versions.revoke), body=wire.VersionRequest, answer=wire.KeyWritten),
        Route("POST", f"{_ONE}/destroy", Action.DESTROY, "Erase a version's value",
              one_version(versions.destroy), body=wire.VersionRequest, answer=wire.KeyWritten),
        Route("POST", f"{_ONE}/expire", Action.EXPIRE, "End the current version's life now",
              expire, body=wire.ExpireRequest, answer=wire.KeyWritten),
        Route("POST", f"{_ONE}/extend", Action.EXTEND, "Let the current version live longer",
              extend, body=wire.ExtendRequest, answer=wire.KeyWritten),
    ]  # fmt: skip


def _telling(lists: KeyList, upkeep: KeyUpkeep, limits: KeyLimits) -> list[Route]:
    """What is told of keys, and what is said of them."""

    async def listing(call: Call) -> Reply:
        cursor = call.query.get("cursor")
        rows, more = await lists.page(
            call.caller,
            prefix=call.query.get("prefix"),
            environment=call.query.get("environment"),
            after=None if cursor is None else _from_cursor(cursor),
            limit=page_limit(call),
        )
        items = [wire.KeySummary(**_summary(row)) for row in rows]
        return Reply(wire.Page(items=items, next_cursor=None if more is None else _cursor(more)))

    async def listed_versions(call: Call) -> Reply:
        _row, found = await lists.one(
            call.caller, call.path["key_path"], call.query.get("environment")
        )
        return Reply(wire.Page(items=[_version(each) for each in found]))

    async def description(call: Call) -> Reply:
        return await _described(call, call.path["key_path"], call.query.get("environment"))

    async def describe(call: Call) -> Reply:
        body: wire.DescribeRequest = call.body
        said = Description(body.owner, body.usage, body.keep_versions, body.verified)
        address = await upkeep.describe(
            call.caller,
            call.path["key_path"],
            said,
            environment=body.environment,
            reason=body.reason,
        )
        return await _described(call, *address)

    async def limit(call: Call) -> Reply:
        body: wire.KeyLimitRequest = call.body
        address = await limits.set(
            call.caller,
            call.path["key_path"],
            body.limit,
            body.burst,
            environment=body.environment,
            reason=body.reason,
        )
        return await _described(call, *address)

    async def unlimit(call: Call) -> Reply:
        address = await limits.remove(
            call.caller,
            call.path["key_path"],
            environment=call.query.get("environment"),
            reason=call.query.get("reason"),
        )
        return await _described(call, *address)

    async def _described(call: Call, path: str, environment: str | None) -> Reply:
        row, found = await lists.one(call.caller, path, environment)
        versions = [_version(each) for each in found]
        return Reply(wire.KeyDescription(**_summary(row), versions=versions))

    return [
        Route("GET", "/v1/keys", Action.LIST, "List keys, without values", listing,
              answer=wire.Page[wire.KeySummary],
              parameters=("prefix", "environment", "cursor", "limit"), is_read=True),
        Route("GET", f"{_ONE}/versions", Action.LIST, "List a key's versions, without values",
              listed_versions, answer=wire.Page[wire.KeyVersion], parameters=("environment",),
              is_read=True),
        Route("GET", f"{_ONE}/description", Action.LIST, "All about a key but its values",
              description, answer=wire.KeyDescription, parameters=("environment",),
              is_read=True),
        Route("POST", f"{_ONE}/describe", Action.DESCRIBE, "Say whose a key is and what it keeps",
              describe, body=wire.DescribeRequest, answer=wire.KeyDescription),
        Route("PUT", f"{_ONE}/limit", Action.LIMIT, "Limit how fast all services may read a key",
              limit, body=wire.KeyLimitRequest, answer=wire.KeyDescription),
        Route("DELETE", f"{_ONE}/limit", Action.LIMIT, "Take a key's own limit away", unlimit,
              answer=wire.KeyDescription, parameters=("environment", "reason")),
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


def _version(version: VersionRecord) -> wire.KeyVersion:
    return wire.KeyVersion(
        version=version.number,
        version_id=version.version_id,
        state=version.state,
        created_at=version.created_at,
        created_by=version.created_by,
        expires_at=version.expires_at,
        rolled_back_from=version.rolled_back_from,
        origin=EXTERNAL if version.created_by == EXTERNAL else None,
    )


def _summary(row: KeyRow) -> dict[str, Any]:
    """The members of a `wire.KeySummary`."""
    key, head, upkeep = row.key, row.head, row.upkeep
    rate = None if row.limit is None else rate_of(row.limit)
    pending = State.PENDING if row.proposed else None
    return {
        "key_path": key.path,
        "environment": key.environment,
        "version": None if head is None else head.number,
        "state": pending if head is None else head.state,
        "owner": key.owner,
        "usage": key.usage,
        "created_at": key.created_at,
        "rotated_at": key.rotated_at,
        "last_read_at": row.last_read_at,
        "expires_at": None if head is None else head.expires_at,
        "keep_versions": None if upkeep is None else upkeep.keep_versions,
        "unverified_since": None if upkeep is None else upkeep.unverified_since,
        "limit": None if rate is None else str(rate),
        "burst": None if rate is None else rate.burst,
    }


def _cursor(after: KeyAddress) -> str:
    text = f"{after.path} {after.environment}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _from_cursor(text: str) -> KeyAddress:
    try:
        padded = text + "=" * (-len(text) % 4)
        path, environment = base64.b64decode(padded, b"-_", validate=True).decode().split(" ")
    except (binascii.Error, ValueError):
        raise InvalidRequestError("invalid_parameter", "cursor is not one of ours.") from None
    return KeyAddress(path, environment)
