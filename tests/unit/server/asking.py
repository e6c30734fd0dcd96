"""A real embedded store, asked without a socket.

One `Node` in this process, asked through its ASGI application: the door, the use cases, SQLite and
the ledger are the real ones. The socket is missing, and the clock can be set ahead.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.bootstrap import LocalStore, Node, init_store
from dox_core_store.server.bootstrap.compose import Composed
from dox_core_store.server.domain.access import Role
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.settings import Settings

__all__ = ["KEPT", "Asking", "MovedClock", "Told", "begun"]

Result = TypeVar("Result")

KEPT = 2
"""The store's own setting for versions out of use."""


class MovedClock(SystemClock):
    """The node's clock, set ahead by whole minutes."""

    ahead_minutes: ClassVar[int] = 0

    def seconds(self) -> float:
        return super().seconds() + 60 * self.ahead_minutes


class Told(NamedTuple):
    status: int
    json: Any

    @property
    def code(self) -> str:
        return str(self.json["code"])


async def begun(where: Settings) -> Node:
    """A node that serves."""
    node = Node(where, on_ready=lambda _node: None)
    await node.start()
    return node


class Asking:
    """A node, its loop and two tokens: a maintainer's and a service's."""

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        self.data = folder / "data"
        where = Settings(
            data=str(folder / "data"),
            key_file=str(folder / "root.key"),
            expiry_days=0,
            keep_versions=KEPT,
        )
        init_store(where, operator="root", roles=list(Role))
        self.maintainer = LocalStore(where).operator_token("root", "90d")
        self._runner = runner
        self._node = runner.run(begun(where))
        self("POST", "/v1/services", {"service_name": "model", "required_keys": ["**"]})
        self("PUT", "/v1/services/model/limit", {"limit": "1000000/s"})
        self.service = self("POST", "/tokens", {"service_name": "model"}).json["token"]

    @property
    def composed(self) -> Composed:
        assert self._node._composed is not None
        return self._node._composed

    def sweep(self) -> None:
        """Tidy up what imports left, now."""
        self._runner.run(self.composed.imports.sweep())

    def write(self, work: Callable[[Transaction], Result]) -> Result:
        """A transaction of its own."""
        return self._runner.run(self._node._backing.catalog.write(work))

    @property
    def catalog(self) -> Catalog:
        return self._node._backing.catalog

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Whatever else the node's loop is to do."""
        return self._runner.run(work)

    def index(self) -> None:
        """Write what is derived from the ledger so far, and wait for it: it is written in steps,
        and each queues behind what the writer is given meanwhile."""
        embedded = self._node._backing

        def at(query: str) -> int:
            with embedded.store.engine.connect() as connection:
                return int(connection.exec_driver_sql(query).scalar() or 0)

        async def indexed() -> None:
            newest = at("SELECT max(block_id) FROM ledger_block")
            embedded.writer.index()
            while at("SELECT block_id FROM ledger_cursor WHERE name = 'postings'") < newest:
                await embedded.catalog.write(lambda _tx: None)

        self._runner.run(indexed())

    def record(self, entry: Entry) -> None:
        """Put an entry on the ledger, and wait for it."""

        async def commit() -> None:
            await self._node._backing.ledger.commit([entry])

        self._runner.run(commit())

    def stop(self) -> None:
        self._runner.run(self._node.stop())

    def stop_when_woken(self, seconds: float) -> None:
        """Wake the sweeper of imports and stop, before it had a turn."""

        async def end() -> None:
            self.composed.imports.ended.set()
            await self._node.stop()

        self._runner.run(asyncio.wait_for(end(), seconds))

    def in_a_row(self, *asked: tuple[str, str, Any]) -> list[Told]:
        """Several requests, as close to each other as they can be."""

        async def ask_all() -> list[Told]:
            return [await self._ask(*each, self.maintainer) for each in asked]

        return self._runner.run(ask_all())

    def __call__(self, method: str, target: str, body: Any = None, token: str = "") -> Told:
        return self._runner.run(self._ask(method, target, body, token or self.maintainer))

    async def _ask(self, method: str, target: str, body: Any, token: str) -> Told:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [(b"authorization", b"Bearer " + token.encode())],
            "state": {},
        }
        raw = b"" if body is None else json.dumps(body).encode()
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        await self._node.answer(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in said[1:])
        return Told(said[0]["status"], json.loads(content) if content else None)
