"""`doxstore serve`: one server process on one store, in the foreground.

Says that it serves when it does, and not before: the line comes once the store itself has answered
at the address. A start that fails serves nothing and ends with 78. A store that people have to open
is served sealed until they have: then this says so, with the ceremony's id, which it tells nobody
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.option import ConfigFile, DatabaseUrl, DataFolder, KeyFile, UnsealWith
from dox_core_store.cli.session import local_settings, needs_server_extra

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import Node
    from dox_core_store.server.settings import Settings

__all__ = ["SERVE", "announce", "answers", "url_of"]

_ASK_AGAIN_SECONDS = 0.02
_WHY_ANOTHER = {
    "start": "dox-core-store is sealed: {store} on {url} serves nothing until it is opened.",
    "wrong": "Three wrong entries closed the ceremony; all that was entered is forgotten.",
    "idle": "The ceremony was left for 15 minutes; all that was entered is forgotten.",
}


def serve(
    *,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8420]")] = None,
    tls_certificate_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate chain, PEM; re-read on SIGHUP.")
    ] = None,
    tls_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its private key, PEM.")
    ] = None,
    allow_plain_http: Annotated[
        bool | None,
        typer.Option(
            "--allow-plain-http",
            help="Serve without TLS beyond loopback, behind a proxy that terminates it.",
        ),
    ] = None,
    expiry_days: Annotated[
        int | None, typer.Option(metavar="DAYS", help="Life of a new version; 0: for ever. [90]")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]")
    ] = None,
    accept_clock: Annotated[
        bool,
        typer.Option(
            "--accept-clock",
            help="Start although the clock is behind the store's newest entry; on record.",
        ),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Serve the store until SIGTERM or Ctrl-C.

    Every setting may also stand in the file named by --config, or in the environment as DOXSTORE_
    and its name; the command line wins. docs/operations.md lists them all.
    """
    settings = local_settings(
        "serve",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
        host=host,
        port=port,
        tls_certificate_file=tls_certificate_file,
        tls_key_file=tls_key_file,
        allow_plain_http=allow_plain_http,
        expiry_days=expiry_days,
        log_level=log_level,
    )
    with needs_server_extra("serve"):
        from dox_core_store.server.bootstrap import run_node

    tasks: set[asyncio.Task[None]] = set()

    def say(node: Node, line: str) -> None:
        task = asyncio.get_running_loop().create_task(announce(settings, node.store_id, line))
        tasks.add(task)

    def started(node: Node) -> None:
        say(node, f"dox-core-store serves {node.store_id} on {url_of(settings)}")

    def is_sealed(node: Node, ceremony: str | None, why: str) -> None:
        lines = [_WHY_ANOTHER[why].format(store=node.store_id, url=url_of(settings))]
        if ceremony is None:
            lines.append("It opens by itself once what holds its key answers; see /v1/seal.")
        else:
            lines.append(f"Each who holds a share or a passphrase: doxstore seal unseal {ceremony}")
            lines.append(f"(with KEY_SERVICE_URL={url_of(settings)} in the environment)")
        say(node, "\n".join(lines))

    run_node(settings, started, on_sealed=is_sealed, accept_clock=accept_clock)


def url_of(settings: Settings) -> str:
    """The address that ``settings`` serve on."""
    scheme = "https" if settings.tls_certificate_file else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{settings.port}"


async def announce(settings: Settings, store_id: str, line: str) -> None:
    """Print ``line`` once the store ``store_id`` answers where ``settings`` say."""
    # Another process may hold the port, and answer there, until our own attempt to take it fails.
    while not await answers(settings, store_id):  # noqa: ASYNC110 - nothing here would tell us
        await asyncio.sleep(_ASK_AGAIN_SECONDS)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def answers(settings: Settings, store_id: str) -> bool:
    """Whether the store ``store_id`` answers where ``settings`` say that it serves."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - every address
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(
                host, settings.port, ssl=_unverified() if settings.tls_certificate_file else None
            )
            try:
                writer.write(b"GET /v1/health HTTP/1.1\r\nHost: self\r\nConnection: close\r\n\r\n")
                return store_id.encode() in await reader.read()
            finally:
                writer.close()
    return False


def _unverified() -> ssl.SSLContext:
    """To ask ourselves, at an address that our certificate need not name; nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


SERVE = Command(
    "serve",
    serve,
    "doxstore serve --data /var/lib/doxstore --key-file /etc/doxstore/root.key --port 8420\n"
    "doxstore serve --database postgresql://doxstore@db.example/doxstore"
    " --data /var/lib/doxstore --key-file /etc/doxstore/root.key",
    "the `server` extra; the store's folder or database, and its key file",
)
