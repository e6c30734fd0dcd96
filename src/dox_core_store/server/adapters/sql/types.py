"""Column types that every engine has alike.

Texts compare by their bytes everywhere: on PostgreSQL they would else be in the order of the
database's locale, and a range of paths would mean something else on each installation.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

__all__ = ["BIG_KEY", "TEXT", "Instant", "Json"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite's rowid wants INTEGER."""


class Instant(sa.TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:  # noqa: ARG002
        return None if value is None else self.microseconds(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return None if value is None else _EPOCH + timedelta(microseconds=value)

    @staticmethod
    def microseconds(value: datetime) -> int:
        """``value`` as it is stored."""
        return (value - _EPOCH) // timedelta(microseconds=1)


class Json(sa.TypeDecorator[Any]):
    """A value as JSON text: what a MAC covers must come back as it was written, so no engine may
    keep it in a form of its own."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(TEXT if dialect.name == "postgresql" else sa.JSON())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return msgspec.json.encode(value).decode() if dialect.name == "postgresql" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return msgspec.json.decode(value) if dialect.name == "postgresql" else value
