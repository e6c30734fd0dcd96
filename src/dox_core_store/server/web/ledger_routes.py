"""Routes on the ledger. Reading it is itself on record, before it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.domain.access import Permission, require
from dox_core_store.server.domain.ledger import FORMAT, Action
from dox_core_store.server.ports import Clock, LedgerFilter, LedgerReader, StoredEntry
from dox_core_store.server.usecases.ledger import HandedOut, check_filter
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.web.desk import Call, Reply, Route
from dox_core_store.server.web.key_routes import page_limit

__all__ = ["ledger_record", "ledger_routes"]

_NAMES = ("service_name", "key_path", "prefix", "environment", "action", "status", "token_id",
          "ip_address", "request_id")  # fmt: skip


def ledger_routes(
    reader: LedgerReader, registry: Registry, clock: Clock, handed_out: HandedOut
) -> list[Route]:
    """The rows for the ledger."""

    async def search(call: Call) -> Reply:
        require(call.caller.roles, Permission.READ_LEDGER)
        size = page_limit(call)
        wanted = LedgerFilter(
            **{name: call.query[name] for name in _NAMES if name in call.query},
            since=_time(call, "since"),
            until=_time(call, "until"),
        )
        wanted = check_filter(wanted, registry.environments, clock.now())
        found, more = await reader.search(wanted, call.query.get("cursor"), size)
        return Reply(wire.Page(items=[ledger_record(each) for each in found], next_cursor=more))

    async def since(call: Call) -> Reply:
        key_path, moment = call.query.get("key_path"), _time(call, "since")
        if key_path is None or moment is None:
            raise InvalidRequestError("invalid_parameter", "key_path and since are needed.")
        environment, cursor = call.query.get("environment"), call.query.get("cursor")
        return Reply(await handed_out.since(call.caller, key_path, environment, moment, cursor))

    async def export(call: Call) -> Reply:
        require(call.caller.roles, Permission.READ_LEDGER)
        return Reply(_lines(reader))

    return [
        Route("GET", "/v1/ledger", Action.READ_LEDGER, "Search the ledger, newest first", search,
              answer=wire.Page[wire.LedgerRecord],
              parameters=(*_NAMES, "since", "until", "cursor", "limit"), is_read=True),
        Route("GET", "/v1/ledger/since", Action.READ_LEDGER,
              "Who was handed a key since a time, and until when they could serve it", since,
              answer=wire.HandedPage, parameters=("key_path", "environment", "since", "cursor"),
              is_read=True),
        Route("GET", "/v1/ledger/export", Action.READ_LEDGER,
              "Every entry in stored order, as JSON Lines", export, answer=wire.LedgerRecord,
              is_read=True, media_type="application/x-ndjson"),
    ]  # fmt: skip


def ledger_record(stored: StoredEntry) -> wire.LedgerRecord:
    """An entry as the API tells it."""
    return wire.LedgerRecord(
        **stored.entry._asdict(),
        seq=stored.seq,
        stream=stored.stream,
        prev=stored.prev.hex(),
        hash=stored.hash.hex(),
        format=FORMAT,
    )


async def _lines(reader: LedgerReader) -> AsyncIterator[bytes]:
    async for entries in reader.export():
        yield b"".join(wire.encode_line(ledger_record(each)) + b"\n" for each in entries)


def _time(call: Call, name: str) -> datetime | None:
    text = call.query.get(name)
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):  # an offset may lead out of the years 1 to 9999
        raise InvalidRequestError(
            "invalid_parameter", f"{name} takes a time such as 2025-11-04T13:30:00Z."
        ) from None
