"""Backups: what stands in one, which are kept, and which restored values may be out of date.

The first line of a backup says what it is, the last one closes it with a digest over everything
before it and a MAC over that digest. Byte by byte: ``docs/spec/backup.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

__all__ = [
    "FORMAT",
    "MAC_TABLE",
    "VERSION",
    "BackupHeader",
    "Ending",
    "backup_name",
    "names_database",
    "older_backups",
]

FORMAT = "doxstore-backup"
VERSION = 1
MAC_TABLE = "backup"
"""The name under which the ring's MAC over a digest is made; no table is called so."""

_STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(
    r"doxstore-(store_[0-9a-f]{32})-([0-9]{8}T[0-9]{6}Z)\.backup(?:\.age)?(\.partial)?", re.ASCII
)
_DATABASE = re.compile(
    r"(?:postgres|postgresql|cockroachdb|mysql|mariadb|mongodb|redis|rediss|valkey|mssql|sqlserver"
    r"|oracle|cassandra|clickhouse|snowflake|amqp|amqps)(?:\+[a-z0-9_]+)*://",
    re.ASCII | re.IGNORECASE,
)
_DATABASES = "database_connections"


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True):
    """A backup's first line. ``counts`` are the records of each table, in their order."""

    format: str
    version: int
    store_id: str
    epoch: int
    schema: str
    created_at: str
    counts: dict[str, int]


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """A backup's last line: how many records, SHA-256 (hex) of all lines before, MAC (base64)."""

    records: int
    sha256: str
    mac: str


def backup_name(store_id: str, now: datetime, *, encrypted: bool) -> str:
    """What a backup on a schedule is called."""
    stamp = now.astimezone(UTC).strftime(_STAMP)
    return f"doxstore-{store_id}-{stamp}.backup{'.age' if encrypted else ''}"


def older_backups(names: Iterable[str], store_id: str, keep: int) -> list[str]:
    """Which of ``names`` may go: this store's own, but for the ``keep`` newest and always for the
    newest. What an interrupted backup left behind goes as well; nothing else is ever named."""
    whole: list[tuple[str, str]] = []
    partial: list[tuple[str, str]] = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None and match[1] == store_id:
            (partial if match[3] else whole).append((match[2], name))
    whole.sort(reverse=True)
    return sorted(name for _, name in [*whole[max(keep, 1) :], *partial])


def names_database(path: str, value: str) -> bool:
    """Whether ``value`` opens a database: its password may have been changed since the backup."""
    return path.partition(".")[0] == _DATABASES or _DATABASE.match(value.lstrip()) is not None
