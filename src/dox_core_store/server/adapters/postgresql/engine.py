"""Connections to PostgreSQL: how they are made, and what is refused.

An address is libpq's URI without a password: that comes from a file, read at each connection, or
from libpq's own sources (``PGPASSWORD``, ``~/.pgpass``). Beyond loopback and Unix sockets the
server has to prove who it is (``sslmode=verify-full``), wherever libpq was told to connect: by the
address, or by what it takes from the environment where the address is silent. Durability is
PostgreSQL's: a commit returns after its log is synced. It is read back, not assumed.

Nothing waits for ever. A lock is waited for some seconds; a transaction whose process does not go
on is ended by the server, so a node that was stopped in the middle of one holds up nobody for long;
a connection that was cut silently is found out by the kernel, and one that the server closed while
nobody used it before it is lent out.
"""

from __future__ import annotations

import ipaddress
import select
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.postgresql.patience import PatientConnection
from dox_core_store.server.adapters.sql.place import Soundness

__all__ = ["DatabaseAddress", "check_writable", "open_engine", "soundness"]

LOCK_SECONDS = 4
"""How long a mutation waits for those of others."""

IDLE_SECONDS = 8
"""How long a transaction may do nothing before the server ends it."""

_CONNECT_SECONDS = 5
_DEAD_SECONDS = 5
_OLDEST_SERVER = 140_000
_SECRETS = (
    "password",
    "sslpassword",
    "oauth_client_secret",
    "scram_client_key",
    "scram_server_key",
)
_SAFE_COMMIT = frozenset({"on", "remote_write", "remote_apply"})
_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
_ASKED = (
    "data_checksums",
    "server_encoding",
    "server_version",
    "server_version_num",
    "transaction_read_only",
)
_REFUSED = {
    "options": "the session's settings are the store's own",
    "service": "what it stands for is said here",
}
_SESSION = {
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "TimeZone": "UTC",
}


class DatabaseAddress:
    """Which database, as the settings name it. Raises `ConfigurationError` ``bad_setting``."""

    def __init__(self, url: str, *, password_file: str = "") -> None:
        if not url.startswith(("postgresql://", "postgres://")):
            raise _bad("an address like postgresql://USER@HOST:5432/DATABASE?sslmode=verify-full")
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:  # whose words may repeat the address, and so a password in it
            raise _bad("an address that libpq understands") from None
        if not given.keys().isdisjoint(_SECRETS):
            raise _bad("an address without a password: that comes from database_password_file")
        for name, why in _REFUSED.items():
            if name in given:
                raise _bad(f"an address without {name}: {why}")
        self._password_file = password_file
        unsaid = _unsaid()
        host = given.get("host") or unsaid.get("host")
        address = given.get("hostaddr") or unsaid.get("hostaddr")
        self._host = str(host or address or "")
        hosts = str(address or host or "").split(",")
        is_local = all(map(_is_local, hosts))
        mode = given.setdefault("sslmode", "prefer" if is_local else "verify-full")
        if not is_local and mode != "verify-full":
            raise _bad("sslmode=verify-full: values and identities pass over this connection")
        if mode == "verify-full":  # or libpq would do without TLS where there is Kerberos
            given["gssencmode"] = "disable"
        self._arguments = dict(given)
        if len(hosts) > 1:  # of several, the one that takes writes
            self._arguments.setdefault("target_session_attrs", "primary")

    @property
    def shown(self) -> str:
        """For messages."""
        name = self._arguments.get("dbname") or self._arguments.get("user") or "(default)"
        return f"the database {name} at {self._host or 'the local socket'}"

    def connect(
        self, *, read_only: bool = False, patience_seconds: float = 0.0, lazy: bool = False
    ) -> PatientConnection:
        """A new connection, in autocommit; ``lazy``: its commits are not waited for until they are
        on disk. Raises `psycopg.Error`, ``bad_setting``."""
        session = dict(_SESSION)
        if lazy:
            session["synchronous_commit"] = "off"
        if read_only:
            session["default_transaction_read_only"] = "on"
        arguments: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "doxstore",
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": _DEAD_SECONDS,
            "tcp_user_timeout": _DEAD_SECONDS * 1000,
            **self._arguments,
            "options": " ".join(
                f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in session.items()
            ),
        }
        if self._password_file:
            arguments["password"] = self._password()
        connection = PatientConnection.connect(**arguments, autocommit=True)
        connection.patience_seconds = patience_seconds
        return connection

    def _password(self) -> str:
        try:
            password = Path(self._password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                "bad_setting",
                f"The file {self._password_file} of database_password_file cannot be read"
                f" ({type(error).__name__}).",
            ) from None
        if not password:  # which libpq would take for none, and look elsewhere
            raise ConfigurationError(
                "bad_setting", f"The file {self._password_file} of database_password_file is empty."
            )
        return password


def open_engine(
    address: DatabaseAddress,
    *,
    read_only: bool = False,
    connections: int = 0,
    patience_seconds: float = 0.0,
    lazy: bool = False,
) -> sa.Engine:
    """An engine; with ``connections`` it keeps so many, without it makes one each time. See
    `DatabaseAddress.connect` for the others."""
    pool: dict[str, Any] = {"poolclass": sa.pool.NullPool}
    if connections:
        pool = {
            "poolclass": sa.pool.QueuePool,
            "pool_size": connections,
            "max_overflow": 0,
            "pool_timeout": _CONNECT_SECONDS,
            "pool_recycle": 3600,
            "pool_use_lifo": True,
        }
    engine = sa.create_engine(
        "postgresql+psycopg://",
        isolation_level="AUTOCOMMIT",
        creator=lambda: address.connect(
            read_only=read_only, patience_seconds=patience_seconds, lazy=lazy
        ),
        hide_parameters=True,
        **pool,
    )
    if connections:
        sa.event.listen(engine, "checkout", _refuse_cut)
    return engine


def check_writable(connection: sa.Connection) -> None:
    """Raise ``store_read_only`` unless commits will be written, and synced before they return;
    ``bad_setting`` for a server that will not do."""
    said = _said(connection)
    if int(said["server_version_num"]) < _OLDEST_SERVER:
        raise ConfigurationError("bad_setting", "database takes PostgreSQL 14 or newer.")
    if said["server_encoding"] != "UTF8":
        raise ConfigurationError("bad_setting", "database takes one whose encoding is UTF8.")
    if said["transaction_read_only"] != "off":
        raise ConfigurationError(
            "store_read_only", "The database takes no writes: it is a standby, or read-only."
        )
    if not _syncs(said):
        raise ConfigurationError(
            "store_read_only",
            "The database does not sync before it answers"
            f" (fsync {said['fsync']}, synchronous_commit {said['synchronous_commit']}).",
        )


def soundness(connection: sa.Connection) -> Soundness:
    """What the server says of itself. Its pages are looked at by its own tools, not from here."""
    said = _said(connection)
    durability = ", ".join(f"{name} {said[name]}" for name in _DURABILITY)
    checked = "" if said["data_checksums"] == "on" else "out"
    return Soundness(
        syncs=_syncs(said) and said["full_page_writes"] == "on",
        durability=durability,
        is_whole=said["server_encoding"] == "UTF8",
        pages=f"PostgreSQL {said['server_version']}, {said['server_encoding']}, with{checked}"
        " checksums of its pages",
    )


def _refuse_cut(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool begin anew where the server closed a connection that nobody used: it was
    restarted, or another took over. Reads what has arrived, and asks for nothing."""
    arrived = select.poll()
    arrived.register(connection.pgconn.socket, select.POLLIN)
    try:
        while arrived.poll(0):
            connection.pgconn.consume_input()
    except (psycopg.Error, OSError) as error:
        raise sa.exc.InvalidatePoolError("The server closed the connection.") from error


def _said(connection: sa.Connection) -> dict[str, str]:
    names = (*_DURABILITY, *_ASKED)
    return {name: str(connection.exec_driver_sql(f"SHOW {name}").scalar()) for name in names}


def _syncs(said: dict[str, str]) -> bool:
    return said["fsync"] == "on" and said["synchronous_commit"] in _SAFE_COMMIT


def _unsaid() -> dict[str, str]:
    """What libpq takes where an address is silent: from ``PGHOST`` and its like, or a service."""
    return {
        each.keyword.decode(): each.val.decode()
        for each in Conninfo.get_defaults()
        if each.val is not None
    }


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bad(takes: str) -> ConfigurationError:
    return ConfigurationError("bad_setting", f"database takes {takes}.")
