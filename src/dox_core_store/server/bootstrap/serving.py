"""One node on one socket, from the start of the process to its end."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.process import forbid_dumps
from dox_core_store.server.bootstrap.backing import BeginAnewError
from dox_core_store.server.bootstrap.node import Node, OnSealed
from dox_core_store.server.settings import Settings
from dox_core_store.server.web.listener import listen, refuse_taken_port

__all__ = ["run_node"]

_PASSING = frozenset(
    {"database_unreachable", "ledger_unavailable", "store_locked", "store_read_only"}
)
"""What a node that begins anew waits out; one that was only just started says so and ends."""

_RETRY_SECONDS = 0.5


def run_node(
    settings: Settings,
    on_ready: Callable[[Node], None],
    *,
    on_sealed: OnSealed | None = None,
    prepare: Callable[[Node], Awaitable[None]] | None = None,
    accept_clock: bool = False,
) -> None:
    """Serve until told to stop; the callbacks are those of `Node`.

    Raises `DoxStoreError`: why it does not start, or why it ended once its store was open.
    """
    forbid_dumps()
    node = functools.partial(
        Node,
        settings,
        on_ready=on_ready,
        on_sealed=on_sealed,
        prepare=prepare,
        accept_clock=accept_clock,
    )
    uvloop.run(_serve(settings, node))


async def _serve(settings: Settings, make: Callable[[], Node]) -> None:
    refuse_taken_port(settings.host, settings.port)  # before the store is touched
    again = False
    while True:
        try:
            await _serve_once(settings, make())
        except BeginAnewError:
            again = True
        except DoxStoreError as error:
            if not (again and error.code in _PASSING):
                raise
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _serve_once(settings: Settings, node: Node) -> None:
    await node.start()
    try:
        await listen(
            node.answer,
            host=settings.host,
            port=settings.port,
            certificate=_path(settings.tls_certificate_file),
            key=_path(settings.tls_key_file),
            max_connections=settings.max_connections,
            shutdown_seconds=settings.shutdown_seconds,
            on_reload=node.reloaded,
            before_stop=node.drain,
            failed=node.failed,
        )
    finally:
        await node.stop()
    node.check()


def _path(text: str) -> Path | None:
    return Path(text) if text else None
