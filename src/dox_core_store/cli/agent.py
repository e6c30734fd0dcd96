"""`doxstore agent`: one process that keeps a folder of files current, for programs in any language.

It writes all files once, says that it is ready (a line on stdout, and sd_notify), and follows the
store from then on. SIGHUP reads the map again; SIGTERM and Ctrl-C end it and leave the files, for
the programs that use them go on, unless ``--clean``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from dox_core_store.cli.agent_files import AgentFolder
from dox_core_store.cli.agent_keeper import Done, Keeper
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import ExitCode, counted, exit_code_of, note, show_error, show_json
from dox_core_store.cli.run_child import close_memory
from dox_core_store.cli.run_environment import child_environment
from dox_core_store.cli.run_files import is_in_memory
from dox_core_store.cli.run_map import KeyMap, entries_of_options, read_map, to_map
from dox_core_store.cli.service_client import (
    ServiceName,
    first_of,
    is_borne,
    outcomes,
    service_client,
)
from dox_core_store.errors import ConfigurationError

if TYPE_CHECKING:
    from dox_core_store.client import KeyClient

__all__ = ["AGENT", "agent"]

_BURST_SECONDS = 0.5
_CONFIRM_SECONDS = 30.0
_ENDED_EARLY = 128 + signal.SIGTERM
_OWNER_READS = 0o400
_OTHERS_WRITE = 0o022
_MOST = 0o777


class _Plan(NamedTuple):
    read_map: Callable[[], KeyMap]
    service: str | None
    command: list[str]
    is_once: bool
    cleans: bool
    as_json: bool
    folder: Path


def agent(  # noqa: PLR0917 - options
    folder: Annotated[
        Path,
        typer.Option("--dir", metavar="DIR", help="The folder to keep; made if it is not there."),
    ],
    map_file: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="YAML: `files`, each NAME: KEY."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME=KEY", help="A file and its key; repeatable."),
    ] = None,
    service: ServiceName = None,
    once: Annotated[
        bool, typer.Option("--once", help="Write the files and end: for an init container.")
    ] = False,
    mode: Annotated[
        str, typer.Option(metavar="MODE", help="Of the files, in octal: 0640 for a group.")
    ] = "0600",
    execute: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Run this after files changed, by no shell: 'nginx -s reload'.",
        ),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove the files at the end; not with --once.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Keep files current with their keys, for programs in any language.

    A file is replaced as a whole when its key changes, and removed when its key is revoked, or
    not ours to read any more. Files that the agent has not made are never touched. SIGHUP reads
    the map again; SIGTERM ends it and leaves the files. docs/run.md tells more.
    """
    close_memory()
    if once and clean:
        raise typer.BadParameter(
            "--clean removes at the end what --once is to leave: say one of them."
        )
    pairs = list(file or ())

    def read() -> KeyMap:
        entries = [*entries_of_options("files", pairs)]
        entries += [] if map_file is None else read_map(map_file)
        key_map = to_map(entries)
        if not key_map.files:
            raise ConfigurationError(
                "bad_map", "No files: say --file NAME=KEY, or --map FILE with `files` in it."
            )
        return key_map

    try:
        plan = _Plan(
            read,
            service,
            shlex.split(execute or ""),
            is_once=once,
            cleans=clean,
            as_json=as_json,
            folder=folder.absolute(),
        )
        key_map = read()
    except ValueError:
        raise typer.BadParameter("--exec takes a command as a shell writes it.") from None
    except ConfigurationError as error:
        show_error(error.code, error.detail, as_json=as_json)
        return ExitCode.USAGE
    with AgentFolder(folder, mode=_mode(mode), wall=time.time) as held:
        if not is_in_memory(folder):
            note(f"doxstore: {folder} is not in memory: values are written to a disk.")
        keeper = Keeper(held)
        left = keeper.use(key_map)
        return asyncio.run(_Agent(plan, keeper, left).run())


class _Agent:
    def __init__(self, plan: _Plan, keeper: Keeper, left: list[str]) -> None:
        self._plan = plan
        self._keeper = keeper
        self._left = left
        self._ended = asyncio.Event()
        self._reload = asyncio.Event()
        self._changed = asyncio.Event()
        self._code: int = ExitCode.OK

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, ExitCode.OK)
        loop.add_signal_handler(signal.SIGINT, self._end, ExitCode.INTERRUPTED)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        client = service_client(self._plan.service, follow=not self._plan.is_once)
        try:
            first = await self._unless_ended(self._begin(client))
            if first is not None:
                return first
            await self._keep(client)
        finally:
            await client.aclose()
        if self._plan.cleans:
            self._keeper.clean()
        return self._code

    async def _begin(self, client: KeyClient) -> int | None:
        """Write all files; the exit code, if that is the end."""
        found = await outcomes(client, self._keeper.key_paths)
        done = self._keeper.take_all(found, self._left)
        error = first_of(done.failed) if done.failed else None
        is_over = self._plan.is_once or (
            len(done.failed) == len(self._keeper.files)
            and all(is_borne(each) for each in done.failed.values())
        )
        if not is_over:
            for name, each in done.failed.items():
                note(f"doxstore: {name} is not there: {each}")
        self._report(done, is_ready=not is_over)
        code = ExitCode.OK if error is None else exit_code_of(error)
        if self._keeper.is_changed:
            if not self._plan.is_once:
                self._changed.set()
            elif not await self._execute():
                code = code or ExitCode.REFUSED
        if not is_over:
            _notify("READY=1")
            return None
        if error is not None:
            show_error(error.code, error.detail, as_json=self._plan.as_json)
        return code

    async def _keep(self, client: KeyClient) -> None:
        """Follow the store until somebody ends us."""
        beside = [
            asyncio.create_task(self._confirm_at_times(client)),
            asyncio.create_task(self._execute_after_changes()),
        ]
        try:
            while not self._ended.is_set():
                await self._unless_ended(self._follow(client))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            _notify("STOPPING=1")

    async def _follow(self, client: KeyClient) -> None:
        """Follow the keys of the map that is in force, until that is read again."""
        following = asyncio.create_task(self._take_changes(client))
        reload = asyncio.create_task(self._reload.wait())
        try:
            await asyncio.wait({following, reload}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            reload.cancel()
            following.cancel()
            await asyncio.gather(following, reload, return_exceptions=True)
        self._reload.clear()
        try:
            self._keeper.use(self._plan.read_map())
        except ConfigurationError as error:
            note(f"doxstore: the map stays as it was: {error}")
        else:
            note(f"doxstore: the map was read: {counted(len(self._keeper.files), 'file')}.")
        self._wake()

    async def _take_changes(self, client: KeyClient) -> None:
        changes = cast("Any", client.changes(self._keeper.key_paths))
        async with aclosing(changes):
            async for change in changes:
                try:
                    self._keeper.take(
                        change.asked, change.error if change.key is None else change.key
                    )
                except ConfigurationError as error:  # a full disk: what is written stays
                    note(f"doxstore: {error}")
                self._wake()

    async def _confirm_at_times(self, client: KeyClient) -> None:
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            found = await outcomes(client, self._keeper.key_paths)
            with contextlib.suppress(ConfigurationError):  # said where a file is written
                self._keeper.confirm(found)
            self._wake()

    # --- what follows from changes -------------------------------------------------------------

    def _wake(self) -> None:
        if self._keeper.is_changed:
            self._changed.set()

    async def _execute_after_changes(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(_BURST_SECONDS)
            self._changed.clear()
            self._keeper.is_changed = False
            await self._execute()

    async def _execute(self) -> bool:
        """Run the command that wants to hear of changes; whether that went well."""
        command = self._plan.command
        if not command:
            return True
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=child_environment(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
                # With --json, stdout is our JSON and nothing else.
                stdout=sys.stderr if self._plan.as_json else None,
            )
            code = await process.wait()
        except OSError as error:
            note(f"doxstore: {command[0]} cannot be run: {error.strerror}.")
            return False
        if code:
            note(f"doxstore: {command[0]} ended with {code}.")
        return code == 0

    # --- what is said --------------------------------------------------------------------------

    def _report(self, done: Done, *, is_ready: bool) -> None:
        if self._plan.as_json:
            failed = {name: {"code": e.code, "detail": e.detail} for name, e in done.failed.items()}
            show_json({"dir": str(self._plan.folder), **done._asdict(), "failed": failed})
            return
        ours = len(done.written) + len(done.unchanged)
        told = f"{counted(ours, 'file')} in {self._plan.folder}"
        if is_ready:
            told = f"doxstore agent is ready: {told}"
        elif done.failed:
            return
        sys.stdout.write(f"{told}\n")
        sys.stdout.flush()

    async def _unless_ended(self, work: Awaitable[int | None]) -> int | None:
        task = asyncio.ensure_future(work)
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return (self._code or _ENDED_EARLY) if self._plan.is_once else self._code

    def _end(self, code: int) -> None:
        self._code = code
        self._ended.set()


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _MOST or mode & _OTHERS_WRITE or not mode & _OWNER_READS:
        raise typer.BadParameter("--mode takes 0600, 0640, 0440 or the like, and nobody else's w.")
    return mode


def _notify(state: str) -> None:
    """Tell the service manager, sd_notify(3), if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sent:
            sent.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            sent.sendall(state.encode())


AGENT = Command(
    "agent",
    agent,
    "doxstore agent --dir /run/keys --file db.url=database_connections.postgres_main\n"
    "doxstore agent --dir /run/keys --map keys.yaml --mode 0640 --exec ./reload\n"
    "doxstore agent --dir /run/keys --map keys.yaml --once",
    "`KEY_SERVICE_URL`, and the token of the service (`SERVICE_TOKEN` or `SERVICE_TOKEN_FILE`)",
)
