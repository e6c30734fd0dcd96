"""A store on this machine, worked on by a command: made, opened beside a server, looked over."""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.seals.key_file import KeyFileHolder
from dox_core_store.server.adapters.seals.unlocking import Unlocking, new_slot
from dox_core_store.server.adapters.sql.custody import new_store_id
from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE
from dox_core_store.server.adapters.sqlite.inspection import StoreInspection, public_checkpoint_key
from dox_core_store.server.adapters.sqlite.store import create_store, open_store
from dox_core_store.server.domain.access import Caller, OperatorRecord
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.operator import (
    add_operator,
    disable_operator,
    enter_operator_token,
)
from dox_core_store.server.web.ledger_routes import ledger_record

__all__ = ["LocalStore", "init_store", "key_file_of", "local_caller"]

DEFAULT_KEY_FILE = "root.key"


def local_caller() -> Caller:
    """Whoever runs this process, as the ledger names them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in small containers
        user = "unknown"
    return Caller(f"local:{user}", (), f"req_{secrets.token_hex(8)}", "", "doxstore")


def key_file_of(settings: Settings) -> Path:
    """The key-file slot's file; without a setting, beside the data."""
    return Path(settings.key_file or Path(settings.data) / DEFAULT_KEY_FILE)


def init_store(settings: Settings, *, operator: str, roles: Sequence[str]) -> None:
    """Make a store and its key file. A key file that exists is used, never overwritten."""
    path, folder = key_file_of(settings), Path(settings.data)
    if (folder / DATABASE_FILE).exists():  # asked before a key file is made for nothing
        raise ConfigurationError("store_exists", f"{folder} holds a store already.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # before a key file is made in it
    store_id = new_store_id()
    create_store(
        folder,
        store_id=store_id,
        slot=new_slot(KeyFileHolder(path), store_id, label=None),
        default_environment=settings.default_environment,
        operator=operator,
        roles=roles,
        caller=local_caller(),
        clock=SystemClock(),
    )


class LocalStore:
    """A store opened by a command on its own machine, beside a running server or without one."""

    def __init__(self, settings: Settings) -> None:
        self._clock = SystemClock()
        self.alarms: list[str] = []
        self._store = open_store(
            Path(settings.data),
            unlock=Unlocking([KeyFileHolder(key_file_of(settings))]),
            alarm=lambda table, identity: self.alarms.append(f"{table} {identity}"),
        )

    @property
    def store_id(self) -> str:
        return self._store.store_id

    @property
    def inspection(self) -> StoreInspection:
        """Looks it over, reading only. Rows whose MAC does not hold are named in `alarms`."""
        return StoreInspection(self._store)

    def ledger(self) -> Iterator[list[wire.LedgerRecord]]:
        """Every entry in stored order, block by block, as the API tells them."""
        return ([ledger_record(each) for each in block] for block in self.inspection.blocks())

    @property
    def checkpoint_key(self) -> wire.CheckpointKey:
        """The public half of the key that signs the ledger's checkpoints."""
        return public_checkpoint_key(self._store)

    def operators(self) -> list[OperatorRecord]:
        """All operators, by name."""
        return self._store.write(lambda tx: tx.find(OperatorRecord), self._clock)

    def add_operator(self, name: str, roles: Sequence[str]) -> OperatorRecord:
        return self._store.write(
            lambda tx: add_operator(tx, local_caller(), name, roles), self._clock
        )

    def disable_operator(self, name: str, reason: str | None) -> OperatorRecord:
        return self._store.write(
            lambda tx: disable_operator(tx, local_caller(), name, reason), self._clock
        )

    def operator_token(self, name: str, expires_in: str) -> str:
        """A new token for an operator; recorded as issued by ``local:<user>``."""
        claims = self._store.write(
            lambda tx: enter_operator_token(tx, local_caller(), name, expires_in), self._clock
        )
        return self._store.signer.sign(claims, self._store.store_id)
