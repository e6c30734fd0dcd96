"""How a command reaches a store: over HTTP as an operator, or by the store's own files.

Over HTTP: ``KEY_SERVICE_URL`` and ``ADMIN_TOKEN`` from the environment (or, without the latter, the
token of `doxstore login`), never from the command line, where every user of the machine could read
the token. By its files: the ``server`` extra,
``--data`` and what opens it, such as ``--key-file``; this works beside a running server.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from dox_core_store.cli.asking import asking
from dox_core_store.cli.signed_in import token_of
from dox_core_store.errors import ConfigurationError

if TYPE_CHECKING:
    from dox_core_store.client import KeyService
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.settings import Settings

__all__ = ["ask", "confirm", "local_settings", "local_store", "needs_server_extra"]

T = TypeVar("T")


def ask(work: Callable[[KeyService], Awaitable[T]], *, patience_ms: int | None = None) -> T:
    """What ``work`` returns, given the operators' client. ``patience_ms`` is for work whose calls
    take longer than others, where ``KEY_SERVICE_TIMEOUT`` says nothing."""
    patience_ms = None if os.environ.get("KEY_SERVICE_TIMEOUT") else patience_ms
    from dox_core_store.client import KeyService

    async def asked() -> T:
        async with KeyService(token=_signed_in(), timeout_ms=patience_ms) as service:
            return await work(service)

    return asyncio.run(asked())


def _signed_in() -> str | None:
    """The token of `doxstore login`, where there is no other."""
    if os.environ.get("ADMIN_TOKEN"):
        return None
    from dox_core_store.client.endpoint import endpoint_from

    return token_of(endpoint_from(os.environ).url)


@contextmanager
def needs_server_extra(command: str) -> Iterator[None]:
    """Around imports of server code: a missing library becomes one clear error."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "dox_core_store":
            raise
        raise ConfigurationError(
            "bad_setting",
            f"`doxstore {command}` needs {error.name}, which is not installed:"
            " pip install 'dox-core-store[server,cli]'.",
        ) from None


def local_settings(command: str, *, config: Path | None = None, **given: Any) -> Settings:
    """The settings in force for a command on the store itself."""
    with needs_server_extra(command):
        from dox_core_store.server.settings import load_settings

    return load_settings(given, os.environ, config)


def local_store(command: str, settings: Settings, *, only: str | None = None) -> LocalStore:
    """The store itself, opened by its files; by ``only`` one slot, if its id is given."""
    with needs_server_extra(command):
        from dox_core_store.server.bootstrap import LocalStore

    return LocalStore(settings, ask=asking(settings.unseal_with), only=only)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone. Without a terminal only ``--yes`` goes on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("This cannot be undone: say --yes where nobody can be asked.")
    if not typer.confirm(question, err=True):
        raise typer.Abort
