"""Several nodes on one PostgreSQL: real processes, one store."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.functional.running import RunningStore

__all__ = ["Cluster", "running_cluster", "until"]

_PATIENCE_SECONDS = 30.0


class Cluster:
    """``nodes`` are numbered from 0. Node 0 made the store; all have its key file and tokens."""

    def __init__(self, folder: Path, database: str, size: int, **environment: str) -> None:
        self.database = database
        self.nodes: list[RunningStore] = []
        for number in range(size):
            node = RunningStore(
                folder / f"node{number}",
                database=database,
                environment={**environment, "DOXSTORE_NODE_NAME": f"n{number}"},
            )
            self.nodes.append(node)
        first = self.nodes[0]
        first.init()
        for node in self.nodes[1:]:
            self.join(node)

    def join(self, node: RunningStore) -> None:
        """Give ``node`` what it needs to serve this store."""
        first = self.nodes[0]
        node.folder.mkdir(parents=True, exist_ok=True)
        node.key_file = first.key_file
        node.operator, node.admin_token = first.operator, first.admin_token

    def __getitem__(self, number: int) -> RunningStore:
        return self.nodes[number]

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def dispose(self) -> None:
        for node in self.nodes:
            if node.is_running:
                with contextlib.suppress(ProcessLookupError):
                    node._process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
            node.dispose()


@contextlib.contextmanager
def running_cluster(
    folder: Path, database: str, size: int, **environment: str
) -> Iterator[Cluster]:
    """``size`` nodes that serve a new store in ``database``."""
    cluster = Cluster(folder, database, size, **environment)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.dispose()


def until(holds: Callable[[], bool], what: str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Wait for what is to happen by itself."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
