"""Statements on who used what: when tokens were last used, and services last called for keys.

What `postings` derives from the ledger. A service's calls are walked by the key's path, a bounded
stretch at a time: the database passes over the rows of other services, which takes a moment for
each ten thousand, and no reader holds a view of the database for longer than one stretch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.driver import Driver, compiled
from dox_core_store.server.adapters.sql.records import instant, once

__all__ = ["CallsPage", "callers", "calls", "last_calls", "token_uses"]

_STRETCH_ROWS = 20_000

_FIRST, _AFTER_DOT = "-", "/"
"""The smallest character of a path, and what follows its ``.``: see `key_queries`."""

_LAST = "\x7f"


class CallsPage(NamedTuple):
    """Paths, in order, and where the next stretch begins; None after the last one."""

    paths: list[str]
    next_path: str | None


def token_uses(driver: Driver, token_ids: Sequence[str]) -> dict[str, datetime]:
    """See `Catalog.token_uses`."""
    rows = driver.among(tables.token_use, "token_id", token_ids) if token_ids else ()
    return {token_id: instant(used_at) for token_id, used_at in rows}


def calls(
    driver: Driver,
    service: str,
    prefix: str | None,
    environment: str,
    since: datetime,
    first: str,
) -> CallsPage:
    """The paths that ``service`` called for, from ``first`` on, in one stretch."""
    found: list[str] = []
    for low, high in _ranges(prefix, first):
        rows = driver.rows(_end(driver.dialect), (low, high, _STRETCH_ROWS))
        # A path is never cut in two: the stretch ends before the path on which it would.
        end = rows[0][0] if rows and rows[0][0] > low else None
        given = (low, end or high, environment, service, tables.Instant.microseconds(since))
        found += [path for (path,) in driver.rows(_calls(driver.dialect), given)]
        if end is not None:
            return CallsPage(found, end)
    return CallsPage(found, None)


def callers(
    driver: Driver, environment: str, since: datetime, first: str
) -> tuple[set[str], str | None]:
    """The services that called for anything from ``first`` on, in one stretch, and where the next
    one begins; None after the last one."""
    rows = driver.rows(_end(driver.dialect), (first, _LAST, _STRETCH_ROWS))
    end = rows[0][0] if rows and rows[0][0] > first else None
    given = (first, end or _LAST, environment, tables.Instant.microseconds(since))
    return {service for (service,) in driver.rows(_callers(driver.dialect), given)}, end


def last_calls(driver: Driver, address: KeyAddress) -> dict[str, datetime]:
    """See `Catalog.last_calls`."""
    rows = driver.rows(_last_calls(driver.dialect), address)
    return {service: instant(called_at) for service, called_at in rows}


def _ranges(prefix: str | None, first: str) -> Iterator[tuple[str, str]]:
    ranges = (
        [("", _LAST)]
        if prefix is None
        else [(prefix, f"{prefix}{_FIRST}"), (f"{prefix}.", f"{prefix}{_AFTER_DOT}")]
    )
    return ((max(low, first), high) for low, high in ranges if first < high)


@once
def _end(dialect: type[sa.Dialect]) -> str:
    """The path of the row that stands a number of rows behind a path, below another."""
    call = tables.service_call.c
    query = (
        sa.select(call.path)
        .where(call.path >= _given(), call.path < _given())
        .order_by(call.path, call.environment, call.service)
    )
    return f"{compiled(dialect, query)} LIMIT 1 OFFSET {compiled(dialect, _number())}"


@once
def _calls(dialect: type[sa.Dialect]) -> str:
    call = tables.service_call.c
    query = (
        sa.select(call.path)
        .where(
            call.path >= _given(),
            call.path < _given(),
            call.environment == _given(),
            call.service == _given(),
            call.last_called_at >= _number(),
        )
        .order_by(call.path)
    )
    return compiled(dialect, query)


@once
def _callers(dialect: type[sa.Dialect]) -> str:
    call = tables.service_call.c
    query = sa.select(call.service).distinct()
    return compiled(
        dialect,
        query.where(
            call.path >= _given(),
            call.path < _given(),
            call.environment == _given(),
            call.last_called_at >= _number(),
        ),
    )


@once
def _last_calls(dialect: type[sa.Dialect]) -> str:
    call = tables.service_call.c
    query = sa.select(call.service, call.last_called_at)
    return compiled(dialect, query.where(call.path == _given(), call.environment == _given()))


def _given() -> sa.BindParameter[Any]:
    return sa.bindparam(None, type_=sa.Text, unique=True)


def _number() -> sa.BindParameter[Any]:
    """A number, or a time as the driver has it."""
    return sa.bindparam(None, type_=sa.BigInteger(), unique=True)
