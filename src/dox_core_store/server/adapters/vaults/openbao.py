"""OpenBao or HashiCorp Vault as the vault: values in its KV engine, version 2.

::

    <mount>/data/<prefix>/production/jules/api    {"value": …}   current, for `bao kv get`
    <mount>/data/<prefix>/.pending/<version id>   {"value": …}   stored, not promoted yet

A key that was adopted keeps its entry and field as its current place. What is promoted carries who
it is in ``custom_metadata``. Reading the current version is one request. Specified by the `Vault`
port; from threads, each call with the timeout as its whole budget.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from dox_core_store.errors import InvalidRequestError, error_for
from dox_core_store.server.adapters.vaults.address import VaultAddress
from dox_core_store.server.adapters.vaults.openbao_connection import (
    BaoConnection,
    vault_unavailable,
)
from dox_core_store.server.adapters.vaults.openbao_credentials import credentials_of
from dox_core_store.server.adapters.vaults.openbao_engine import KvEngine
from dox_core_store.server.adapters.vaults.openbao_entry import Claims, Version, description_of
from dox_core_store.server.adapters.vaults.openbao_login import BaoLogin
from dox_core_store.server.adapters.vaults.openbao_place import (
    FIELD,
    Place,
    Target,
    digest_of,
    pending_path,
    read_place,
    target_of,
)
from dox_core_store.server.adapters.vaults.openbao_policy import PENDING
from dox_core_store.server.adapters.vaults.openbao_promotion import Promotion, check_free
from dox_core_store.server.adapters.vaults.openbao_reading import (
    claimed_place,
    missing,
    opened,
    versions_of,
)
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About, Erasure, Held, Home, VaultEntry, VaultHead

__all__ = ["OpenBaoVault"]

_LOCKS = 64
_ATTEMPTS = 3


class OpenBaoVault:
    """See the `Vault` port. Raises ``bad_setting`` where ``address`` lacks what its login needs."""

    def __init__(self, *, address: VaultAddress, timeout_seconds: float) -> None:
        self.name = address.name
        self._mount = address.mount
        self._prefix = address.prefix
        self._timeout_seconds = timeout_seconds
        self._connection = BaoConnection(
            origin=address.origin,
            namespace=address.option("namespace"),
            ca_file=address.option("ca_file"),
        )
        self._login = BaoLogin(connection=self._connection, credentials=credentials_of(address))
        # Threads of one process wait for each other instead of losing races at the engine.
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def check(self) -> None:
        self._engine().check()

    def store(self, binding: Binding, value: bytes, about: About) -> bytes:
        engine, path = self._engine(), pending_path(binding)
        text, target = _text(value), target_of(binding, about.home)
        if not target.shared:  # said before anything is stored: a promotion could only wait
            check_free(engine.read(target.path), target, binding)
        for _ in range(_ATTEMPTS):
            if (made := engine.write(path, {FIELD: text}, 0)) is not None:
                engine.describe(path, description_of(binding, about))
                return self._waiting(made, binding, target).encoded()
            if (there := engine.read(path)).number:
                break
            # Another one stores the same version, and promoted it in this moment.
            newest = engine.read(target.path)
            done = claimed_place(engine, binding, target, digest_of(value), newest)
            if done is not None:
                return done.encoded()
        else:
            raise vault_unavailable(f"{path} comes and goes in the vault.")
        if there.value(FIELD) != value:
            raise error_for("vault_conflict", f"What lies at {path} is not this version.")
        return self._waiting(there, binding, target).encoded()

    def find(self, binding: Binding) -> bytes | None:
        there = self._engine().read(pending_path(binding))
        if there.fields is None:
            return None
        return self._waiting(there, binding, target_of(binding, None)).encoded()

    def open(self, binding: Binding, place: bytes) -> Held:
        return opened(self._engine(), binding, read_place(place))

    def open_many(self, wanted: Sequence[tuple[Binding, bytes]]) -> list[Held | None]:
        """The KV engine reads one path at a time."""
        return [None] * len(wanted)

    def superseded(self, binding: Binding, place: bytes) -> bool:
        return self.open(binding, place).superseded

    def promote(self, binding: Binding, place: bytes, about: About) -> bytes:
        where, target = read_place(place), target_of(binding, about.home)
        if target.shared:
            return place
        engine = self._engine()
        with self._alone(engine, target.path):
            return Promotion(engine, binding, target, about).run(where).encoded()

    def withdraw(self, binding: Binding, place: bytes) -> None:
        where, engine = read_place(place), self._engine()
        if where.shared:
            return
        for path, version in versions_of(engine, binding, where):
            engine.hide(path, version)

    def erase(self, binding: Binding, place: bytes) -> Erasure:
        where, engine = read_place(place), self._engine()
        if where.shared:
            return Erasure.UNLINKED  # the other keys' fields would go with it
        for path, version in versions_of(engine, binding, where):
            engine.destroy(path, version)
        engine.forget(pending_path(binding))
        return Erasure.ERASED

    def head(self, binding: Binding, home: Home | None) -> VaultHead | None:
        target = target_of(binding, home)
        newest = self._engine().read(target.path)
        place, value = newest.place(target), newest.value(target.field)
        if place is None or value is None:
            return None
        return VaultHead(place.encoded(), value)

    def entries(self) -> Iterator[VaultEntry]:
        folders = [""]
        while folders:
            folder = folders.pop()
            for name in sorted(self._engine().names(folder)):
                path = f"{folder}{name}"
                if path == f"{PENDING}/" or name.strip("/") in ("", ".", ".."):
                    continue
                if name.endswith("/"):
                    folders.append(path)
                elif (found := self._engine().read(path)).fields is not None:
                    managed = Claims(found.custom).managed
                    yield VaultEntry(path, tuple(sorted(found.fields)), managed)

    def close(self) -> None:
        self._connection.close()

    def __repr__(self) -> str:
        return f"OpenBaoVault({self.name})"

    def _engine(self) -> KvEngine:
        return KvEngine(
            connection=self._connection,
            login=self._login,
            mount=self._mount,
            prefix=self._prefix,
            timeout_seconds=self._timeout_seconds,
        )

    @contextmanager
    def _alone(self, engine: KvEngine, path: str) -> Iterator[None]:
        lock = self._locks[hash(path) % _LOCKS]
        if not lock.acquire(timeout=engine.deadline.left):
            raise vault_unavailable("The vault is slow: others are being promoted.")
        try:
            yield
        finally:
            lock.release()

    def _waiting(self, there: Version, binding: Binding, target: Target) -> Place:
        waits = Target(pending_path(binding), FIELD, adopted=False, shared=False)
        if (place := there.place(waits)) is None:
            raise missing(waits.path)
        return msgspec.structs.replace(place, home=target)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("invalid_field", "A value in this vault is UTF-8.") from None
