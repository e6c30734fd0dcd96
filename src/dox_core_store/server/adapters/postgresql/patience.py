"""Waiting for PostgreSQL, and for how long at most.

A network that swallows packets says nothing, and libpq would wait for as long. Here a statement
whose answer does not come in time ends its connection, as if the server had: whoever asked makes a
new one. What became of the statement is not known then.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

__all__ = ["PatientConnection", "execute_prepared"]

RV = TypeVar("RV")

_READ, _WRITE = select.POLLIN, select.POLLOUT


class PatientConnection(psycopg.Connection[Any]):
    """A connection on which no answer takes longer than ``patience_seconds``; 0: as long as it
    takes. Waiting for notices has a time of its own."""

    patience_seconds = 0.0

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        if timeout is not None or not self.patience_seconds:
            return super().wait(gen, interval, timeout)
        until = time.monotonic() + self.patience_seconds
        try:
            return super().wait(gen, interval, self.patience_seconds)
        except BaseException:
            if time.monotonic() >= until:  # whatever it is that psycopg raises for that
                raise _silent(self) from None
            raise


def execute_prepared(
    connection: psycopg.Connection[Any],
    name: bytes,
    given: Sequence[bytes],
    formats: Sequence[int],
    seconds: float,
) -> PGresult:
    """The answer to a prepared statement, in binary, straight by libpq: a cursor would hold the
    interpreter's lock for longer than everything else. Raises `psycopg.Error`."""
    libpq = connection.pgconn
    libpq.send_query_prepared(name, given, formats, Format.BINARY)
    deadline = time.monotonic() + seconds
    poll = select.poll()
    answer = None
    while True:
        if libpq.flush() == 1:
            poll.register(libpq.socket, _READ | _WRITE)
        else:
            if not libpq.is_busy():
                part = libpq.get_result()
                if part is None:
                    break
                answer = part
                continue
            poll.register(libpq.socket, _READ)
        left = deadline - time.monotonic()
        if left <= 0:
            raise _silent(connection)
        if any(event & ~_WRITE for _, event in poll.poll(left * 1000)):
            libpq.consume_input()
    if answer is None:
        raise _silent(connection)
    if answer.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        raise error_from_result(answer, encoding=connection.info.encoding)
    return answer


def _end(connection: psycopg.Connection[Any]) -> None:
    connection.pgconn.finish()
    raise psycopg.OperationalError("the server did not answer in time")


def _silent(connection: psycopg.Connection[Any]) -> psycopg.OperationalError:
    """What is raised once ``connection`` is given up."""
    connection.pgconn.finish()
    return psycopg.OperationalError("the server did not answer in time")
