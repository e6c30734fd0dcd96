"""Where a store lies: what an engine has of its own, behind one name.

Everything else under ``adapters/sql`` is the same for a file and for a server. `SqlitePlace` and
`PostgresPlace` are the two.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError

__all__ = ["LIVE_SECONDS", "Place", "Soundness"]

Result = TypeVar("Result")

LIVE_SECONDS = 10.0
"""A node that was not heard of for longer is not counted on: neither waited for, nor asked."""


class Soundness(NamedTuple):
    """What the engine says of itself: whether its commits are synced before they return, what makes
    it so or not, and whether its pages are whole as far as it can tell."""

    syncs: bool
    durability: str
    is_whole: bool
    pages: str


class Place(Protocol):
    """See the module. ``shown`` names it in messages, without any credential."""

    @property
    def shown(self) -> str: ...

    @property
    def witness(self) -> Path:
        """The file that says how far this machine has seen the ledger: see `history`."""

    def engine(self, *, read_only: bool = False) -> sa.Engine:
        """An engine on it. Connections are in autocommit; transactions are begun by statements."""

    def check_present(self) -> None:
        """Raise `ConfigurationError` ``store_missing`` or ``store_damaged`` unless there is a
        store."""

    def is_taken(self) -> bool:
        """Whether there is a store."""

    def check_free(self) -> None:
        """Raise ``store_exists`` or ``bad_setting`` where no store can be made."""

    def creating(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a transaction that writes; what is made on it is there once it ends, and
        nothing is if it fails. Raises ``store_exists``, ``store_read_only``, ``bad_setting``."""

    def check_writable(self, connection: sa.Connection) -> None:
        """Raise ``store_read_only`` unless commits will be written, and synced before they
        return."""

    def soundness(self, connection: sa.Connection) -> Soundness:
        """For `doxstore doctor`."""

    def now(self, connection: sa.Connection) -> float | None:
        """The database's time, in seconds since 1970; None where it has none but this machine's."""

    def begin_beside(self, connection: sa.Connection) -> None:
        """Begin a transaction that writes, from outside the servers that may be busy on it."""

    def insist(self, write: Callable[[], Result]) -> Result:
        """Do what is urgent, with whatever room is kept for that."""

    def sealing_alone(self) -> AbstractContextManager[None]:
        """Keep every other command from changing the sealing keys meanwhile. Raises
        ``rekey_blocked``."""

    def is_served(self, connection: sa.Connection) -> bool:
        """Whether a server runs on it."""

    def all_have_ring(self, connection: sa.Connection, number: int) -> bool:
        """Whether every server that runs has said that it has sealing key ``number``."""

    def unusable(self, error: Exception) -> ConfigurationError:
        """A fault of the database as ours, by its own words."""
