"""How much of its room the store's database uses, and what follows where that is limited.

Used are the pages that hold something: what retention freed is used again and does not count,
though the file stays as long as it was. On PostgreSQL the whole database counts, indexes and all,
without what lies free in the ledger's own table: how much that is, some of its pages show, so it is
an estimate, and a fifth of the table is never taken for free. Of other tables and of the indexes it
is not known what is free; they count as large as they are.

From 80 % on there is a warning; a full store refuses reads, which each add an entry, and drops
nothing. Whatever takes away still works.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["Room", "used_bytes"]

_GIB = 1024**3
_WARN_PERCENT = 80
_FULL_PERCENT = 100


_SIZES = (
    "SELECT pg_database_size(current_database()), pg_table_size('ledger_block'),"
    " pg_relation_size('ledger_block') / current_setting('block_size')::bigint"
)
_SAMPLED_PAGES = 500
_ROW_BYTES = 150
"""Of a block, beside its body, with what PostgreSQL keeps of each row."""

_SAMPLE = (
    f"SELECT coalesce(sum(pg_column_size(body) + {_ROW_BYTES}), 0)"  # noqa: S608 - ours
    " FROM ledger_block TABLESAMPLE SYSTEM (%s) REPEATABLE (1)"
)
_NEVER_FREE = 0.2


def used_bytes(engine: sa.Engine) -> int:
    """What the database uses: see the module."""
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        if connection.dialect.name != "sqlite":
            size, ledger, pages = run(_SIZES).one()
            percent = min(100.0, 100.0 * _SAMPLED_PAGES / max(pages, 1))
            held = float(run(_SAMPLE, (percent,)).scalar_one()) * 100 / percent
            return int(size - max(0.0, ledger * (1 - _NEVER_FREE) - held))
        pages, free, size = (
            int(run(f"PRAGMA {name}").scalar() or 0)
            for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


class Room:
    """As it was when `look` was called last. ``max_gib`` 0: there is no limit."""

    def __init__(self, max_gib: float) -> None:
        self.limit_bytes = int(max_gib * _GIB)
        self.bytes = 0

    def look(self, used: int) -> None:
        self.bytes = used

    @property
    def percent(self) -> int:
        """Of the limit; 0 where there is none."""
        return self.bytes * 100 // self.limit_bytes if self.limit_bytes else 0

    @property
    def state(self) -> str:
        """``ok``, ``nearly full`` or ``full``."""
        if self.percent >= _FULL_PERCENT:
            return "full"
        return "nearly full" if self.percent >= _WARN_PERCENT else "ok"

    def __str__(self) -> str:
        if not self.limit_bytes:
            return f"{self.bytes / _GIB:.3g} GiB, without a limit"
        return f"{self.percent} % of {self.limit_bytes / _GIB:.3g} GiB"
