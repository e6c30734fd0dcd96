"""How much of its room the store's database uses, and what follows where that is limited.

Used are the pages that hold something: what retention freed is used again and does not count,
though the file stays as long as it was. From 80 % on there is a warning; a full store refuses
reads, which each add an entry, and drops nothing. Whatever takes away still works.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["Room", "used_bytes"]

_GIB = 1024**3
_WARN_PERCENT = 80
_FULL_PERCENT = 100


def used_bytes(engine: sa.Engine) -> int:
    """The pages of the database that are in use."""
    with engine.connect() as connection:
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
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
