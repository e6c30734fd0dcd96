"""Statements on issued tokens: lists with their filters, and counts over a stretch of time.

A list walks the primary key from where the page before ended and passes over what is not asked for:
a table of tokens is small beside a ledger, and lists are for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.driver import Driver, compiled
from dox_core_store.server.adapters.sql.records import instant, once, shape_of
from dox_core_store.server.domain.access import TokenRecord
from dox_core_store.server.ports import TokenFilter, TokenSpan

__all__ = ["page", "span"]

_FIRST_ID = ""


def span(driver: Driver, since: datetime, until: datetime | None, now: datetime) -> TokenSpan:
    """See `Catalog.token_span`."""
    moment = tables.Instant.microseconds
    end = None if until is None else moment(until)
    given = [moment(now), moment(since), *([] if end is None else [end])]
    ((live, last),) = driver.rows(_span(driver.dialect, end is not None), given)
    return TokenSpan(live, None if last is None else instant(last))


def page(
    driver: Driver, wanted: TokenFilter, after: str | None, limit: int
) -> list[tuple[Sequence[Any], datetime | None]]:
    """Rows of tokens, in the order of their ids, and when each was last used."""
    given = {
        name: tables.Instant.microseconds(value) if isinstance(value, datetime) else value
        for name, value in wanted._asdict().items()
        if value is not None
    }
    text = _page(driver.dialect, tuple(given))
    rows = driver.rows(text, [*given.values(), after or _FIRST_ID, limit])
    return [(row[:-1], None if row[-1] is None else instant(row[-1])) for row in rows]


@once
def _span(dialect: type[sa.Dialect], is_bounded: bool) -> str:  # noqa: FBT001 - a cache's key
    token = tables.token.c
    live = sa.func.count().filter(token.expires_at > _instant("now"))
    query = sa.select(live, sa.func.max(token.expires_at)).where(
        token.revoked_at.is_(None), token.issued_at >= _instant("since")
    )
    if is_bounded:
        query = query.where(token.issued_at < _instant("until"))
    return compiled(dialect, query)


@once
def _page(dialect: type[sa.Dialect], names: tuple[str, ...]) -> str:
    token, use = tables.token.c, tables.token_use.c
    is_live = token.revoked_at.is_(None)
    last_used = sa.func.coalesce(use.last_used_at, token.issued_at)
    conditions: dict[str, list[Any]] = {
        "token_id": [token.token_id == sa.bindparam("token_id")],
        "kind": [token.kind == sa.bindparam("kind")],
        "name": [token.name == sa.bindparam("name")],
        "expires_after": [token.expires_at > _instant("expires_after")],
        "expires_before": [is_live, token.expires_at <= _instant("expires_before")],
        "unused_since": [is_live, last_used <= _instant("unused_since")],
    }
    query = (
        sa.select(*shape_of(TokenRecord).selected, use.last_used_at)
        .select_from(tables.token.outerjoin(tables.token_use, use.token_id == token.token_id))
        .where(*(condition for name in names for condition in conditions[name]))
        .where(token.token_id > sa.bindparam("after"))
        .order_by(token.token_id)
    )
    return f"{compiled(dialect, query)} LIMIT {compiled(dialect, sa.bindparam('most'))}"


def _instant(name: str) -> sa.BindParameter[Any]:
    """A time as the driver has it, which is not to be converted again."""
    return sa.bindparam(name, type_=sa.BigInteger())
