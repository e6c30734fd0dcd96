"""`doxstore dev`: a store to develop against, with an example platform in it, in one command.

Order, and why: the port and the folder are looked at before anything is made; the store is opened
under its lock before anything in it changes; the example is loaded, then ``dev.env`` written, and
only then the port opens, so whoever can connect finds everything in place. A start that fails
leaves the ``dev.env`` of the earlier one alone.

The example is loaded while the service that ``dev.env`` has a token for is not registered. It is
registered last, so a first start that was interrupted is made up for, and afterwards nothing that
a developer changed is touched.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.output import note
from dox_core_store.cli.platform_file import Platform, find_example, read_keys, read_platform
from dox_core_store.cli.serve import announce, url_of
from dox_core_store.cli.session import local_store, needs_server_extra
from dox_core_store.errors import ConfigurationError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import Node
    from dox_core_store.server.settings import Settings

__all__ = ["DEV", "dev_env", "write_private"]

_HOST = "127.0.0.1"
_OPERATOR = "dev"
_LIFETIME = "24h"
_DATABASE = "store.db"
_OURS = (
    ".gitignore",
    "ballast",
    "dev.env",
    "root.key",
    "seen.json",
    "server.lock",
    _DATABASE,
    f".{_DATABASE}.",
    ".dev.env.",
    ".seen.json.",
)


def dev(
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Port to listen on, loopback only.")
    ] = 8420,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the store; made if it is not there.")
    ] = Path(".doxstore"),
    example: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Another example platform than examples/pact_platform."),
    ] = None,
) -> None:
    """Serve a store for development on loopback, with an example platform loaded.

    Writes DIR/dev.env: the address and fresh tokens (24 h) for `. DIR/dev.env`. The key file lies
    beside the data, so this is no place for real keys. A second start goes on with what the first
    stored. Settings from the environment are not looked at.
    """
    with needs_server_extra("dev"):
        from dox_core_store.server.bootstrap import init_store, run_node
        from dox_core_store.server.domain.access import Role
        from dox_core_store.server.settings import Settings

    folder = data.absolute()
    source = find_example(example)
    start = _Start(
        settings=Settings(
            data=str(folder), key_file=str(folder / "root.key"), host=_HOST, port=port
        ),
        source=source,
        platform=read_platform(source),
    )
    _check_port(port)
    _prepare_folder(folder)
    if not (folder / _DATABASE).exists():
        init_store(start.settings, operator=_OPERATOR, roles=list(Role))
    run_node(start.settings, start.announce, prepare=start.prepare)


class _Start:
    """One start: what happens between an open store and an open port."""

    def __init__(self, *, settings: Settings, source: Path, platform: Platform) -> None:
        self.settings = settings
        self._folder = Path(settings.data)
        self._source = source
        self._platform = platform
        self._loaded = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def prepare(self, node: Node) -> None:
        """Load the example where it is missing, and write ``dev.env``."""
        # First of all: a store that `dev` did not make gets nothing of an example.
        admin_token = await asyncio.to_thread(self._admin_token)
        service = self._platform.token_for
        if not node.furnish.has_service(service):
            keys = read_keys(self._source, environments=node.furnish.environments())
            services = self._platform.requests()
            await node.furnish.load(keys, services, "example platform")
            self._loaded = f"{len(keys)} keys and {len(services)} services loaded"
        variables = {
            "KEY_SERVICE_URL": url_of(self.settings),
            "ADMIN_TOKEN": admin_token,
            "DOXSTORE_DATA": str(self._folder),
        }
        try:
            issued = await node.furnish.issue(service, _LIFETIME)
        except ConflictError as error:
            note(f"dev.env has no SERVICE_TOKEN: {error.detail}")
        else:
            variables["SERVICE_TOKEN"] = issued.token
        write_private(self._folder / "dev.env", dev_env(variables, service))

    def announce(self, node: Node) -> None:
        """Say where it is and what to do with it, once the port is open."""
        text = self._text()
        self._tasks.add(
            asyncio.get_running_loop().create_task(announce(self.settings, node.store_id, text))
        )

    def _admin_token(self) -> str:
        try:
            return local_store("dev", self.settings).operator_token(_OPERATOR, _LIFETIME)
        except NotFoundError:
            raise ConfigurationError(
                "bad_setting",
                f"The store in {self._folder} was not made by `doxstore dev`."
                " Serve it with `doxstore serve`, or name another folder with --data.",
            ) from None

    def _text(self) -> str:
        service = self._platform.token_for
        path = self._platform.services[service].may_read[0]
        program = self._source / "service.py"
        lines = [
            f"dox-core-store, for development: {url_of(self.settings)}",
            f"  store    {self._folder} (its key file lies beside the data: never for real keys)",
            f"  example  {self._loaded or 'there from an earlier start'}; operator {_OPERATOR}",
            "",
            "In a second terminal:",
            f"  . {_shown(self._folder / 'dev.env')}",
            f'  curl -H "Authorization: Bearer $SERVICE_TOKEN" "$KEY_SERVICE_URL/v1/keys/{path}"',
        ]
        if program.is_file():
            lines.append(f"  {_shown(Path(sys.executable))} {_shown(program)}")
        return "\n".join([*lines, "", "Stop with Ctrl-C; the next start goes on from here."])


def dev_env(variables: dict[str, str], service: str) -> str:
    """``dev.env``: for ``.`` in a shell, whatever the values hold."""
    head = (
        "# Made by `doxstore dev` at its start, for the shell: . dev.env\n"
        f"# SERVICE_TOKEN is {service}'s, ADMIN_TOKEN operator {_OPERATOR}'s; {_LIFETIME}.\n"
    )
    return head + "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())
    )


def write_private(path: Path, text: str) -> None:
    """Put ``text`` (0600) in the place of ``path``, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _prepare_folder(folder: Path) -> None:
    """Make ``folder`` (0700), ignored by git. What holds other things than a store is refused."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        strange = sorted(each.name for each in folder.iterdir() if not each.name.startswith(_OURS))
        if strange:
            raise ConfigurationError(
                "bad_setting",
                f"{folder} holds other things than a store ({strange[0]!a});"
                " --data takes a folder of its own.",
            )
        folder.chmod(0o700)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _check_port(port: int) -> None:
    """A taken port is found before anything is written."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do after a restart
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigurationError(
                "bad_setting",
                f"Cannot listen on {_HOST}:{port}: {error.strerror}. Choose another with --port"
                " (make run PORT=…).",
            ) from error


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError("store_read_only", f"{path} cannot be written: {error.strerror}.")


def _shown(path: Path) -> str:
    """``path`` for a command line here."""
    here: Any = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


DEV = Command(
    "dev",
    dev,
    "doxstore dev --port 8420 --data .doxstore",
    "the `server` extra",
)
