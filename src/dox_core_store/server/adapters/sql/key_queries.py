"""The reader's statements, each written once for each dialect.

A page of keys is at most three stretches of an index, each one range from where the page before
ended: by (path, environment), or by (environment, path) where one environment is asked for. Nothing
is sorted, and nothing is walked but what is returned; a test holds both engines' plans to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.driver import compiled
from dox_core_store.server.adapters.sql.records import once, shape_of
from dox_core_store.server.domain.access import TokenRecord
from dox_core_store.server.domain.key import KeyRecord, VersionRecord

__all__ = [
    "LAST_READ",
    "VERSION",
    "Stretch",
    "address",
    "changes",
    "head",
    "live_tokens",
    "numbered",
    "page",
    "stretches",
]

_KEY, _VERSION = shape_of(KeyRecord), shape_of(VersionRecord)

VERSION = len(_KEY.selected)
"""Where, in a row of these statements, the version begins that stands behind its key."""

LAST_READ = VERSION + len(_VERSION.selected)
"""Where, in a row of a page, the times of the last read stand: of the last call of any service,
and the one that the release before noted."""

_PATH, _ENVIRONMENT = (_KEY.names.index(each) for each in KeyAddress._fields)

_FIRST, _AFTER_DOT = "-", "/"
"""The smallest character of a path, and what follows its ``.``: a path itself is the range up to
the first behind it, what lies below it the range from the dot to what follows the dot."""


class Stretch(NamedTuple):
    """One range of keys: which bounds and index it has, and the parameters of its statement up to
    the limit."""

    shape: tuple[str, ...]
    parameters: tuple[str, ...]


def stretches(
    prefix: str | None, environment: str | None, after: KeyAddress | None
) -> Iterator[Stretch]:
    """The ranges that hold the keys under ``prefix``, or all but the store's own, in their order,
    without what does not come after ``after``."""
    for low, high in _ranges(prefix):
        if after is not None and high is not None and after.path >= high:
            continue
        shape, parameters = [], []
        if environment is not None:
            shape.append("environment")
            parameters.append(environment)
        if after is None or after.path < low:
            shape.append("from")
            parameters.append(low)
        elif environment is None:
            shape.append("after")
            parameters += after
        else:
            shape.append("from" if environment > after.environment else "behind")
            parameters.append(after.path)
        if high is not None:
            shape.append("below")
            parameters.append(high)
        yield Stretch(tuple(shape), tuple(parameters))


def address(row: Sequence[Any]) -> KeyAddress:
    """Whose row of a page it is, whether it counts or not."""
    return KeyAddress(row[_PATH], row[_ENVIRONMENT])


def _ranges(prefix: str | None) -> list[tuple[str, str | None]]:
    own = RESERVED_PREFIX
    if prefix is None:
        return [
            ("", own),
            (f"{own}{_FIRST}", f"{own}."),
            (f"{own}{_AFTER_DOT}", None),
        ]
    if prefix.partition(".")[0] == own:
        return []
    return [(prefix, f"{prefix}{_FIRST}"), (f"{prefix}.", f"{prefix}{_AFTER_DOT}")]


@once
def page(dialect: type[sa.Dialect], shape: tuple[str, ...]) -> str:
    """A stretch's keys with their heads and the time of the last read, up to a limit."""
    key, read, call = tables.key.c, tables.key_read.c, tables.service_call.c
    path = {"from": key.path >= _given(), "behind": key.path > _given()}
    conditions: dict[str, Any] = {
        **path,
        "environment": key.environment == _given(),
        "after": sa.tuple_(key.path, key.environment) > sa.tuple_(_given(), _given()),
        "below": key.path < _given(),
    }
    joined = _with_version(_VERSION.table.c.version_id == key.head).outerjoin(
        tables.key_read, (read.path == key.path) & (read.environment == key.environment)
    )
    called = (
        sa.select(sa.func.max(call.last_called_at))
        .where(call.path == key.path, call.environment == key.environment)
        .scalar_subquery()
    )
    query = (
        sa.select(*_KEY.selected, *_VERSION.selected, called, read.last_read_at)
        .select_from(joined)
        .where(*(conditions[each] for each in shape))
        .order_by(key.path, key.environment)
    )
    return f"{compiled(dialect, query)} LIMIT {compiled(dialect, _number())}"


@once
def head(dialect: type[sa.Dialect]) -> str:
    """A key by path and environment, with its head."""
    return _point(dialect, _VERSION.table.c.version_id == tables.key.c.head)


@once
def numbered(dialect: type[sa.Dialect]) -> str:
    """A key with the version of a number, by number, path and environment."""
    version = _VERSION.table.c
    return _point(dialect, (version.key_id == tables.key.c.key_id) & (version.number == _number()))


@once
def live_tokens(dialect: type[sa.Dialect]) -> str:
    """Tokens that were not revoked and expire after a moment."""
    token = tables.token.c
    query = sa.select(*shape_of(TokenRecord).selected)
    return compiled(dialect, query.where(token.revoked_at.is_(None), token.expires_at > _number()))


@once
def changes(dialect: type[sa.Dialect]) -> str:
    """Bodies of the blocks of a `changes` stream behind a place, up to a limit."""
    block = tables.ledger_block.c
    query = (
        sa.select(block.body)
        .where(tables.FEED, block.stream == _given(), block.last_seq > _number())
        .order_by(block.last_seq)
    )
    return f"{compiled(dialect, query)} LIMIT {compiled(dialect, _number())}"


def _point(dialect: type[sa.Dialect], version: sa.ColumnElement[bool]) -> str:
    key = tables.key.c
    query = sa.select(*_KEY.selected, *_VERSION.selected).select_from(_with_version(version))
    return compiled(dialect, query.where(key.path == _given(), key.environment == _given()))


def _with_version(version: sa.ColumnElement[bool]) -> sa.FromClause:
    """Keys, each with one version and its tombstone, if it has them."""
    return tables.key.outerjoin(_VERSION.table, version).outerjoin(
        tables.tombstone, tables.tombstone.c.version_id == _VERSION.table.c.version_id
    )


def _given() -> sa.BindParameter[Any]:
    return sa.bindparam(None, type_=sa.Text, unique=True)


def _number() -> sa.BindParameter[Any]:
    """A number, or a time as the driver has it."""
    return sa.bindparam(None, type_=sa.BigInteger(), unique=True)
