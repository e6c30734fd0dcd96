"""`Supervisor`: the life of one command: its keys, its start, its signals, its end.

Keys first: a command is not started without all of them. Then files, then the command. From then on
it decides how this ends, and its exit code is ours. Signals go on to it; those that come before it
has started end us instead.

With ``watch``, its keys are followed while it runs. See `Watch` for what counts as a change.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from dox_core_store.cli.output import ExitCode, exit_code_of, note, show_error
from dox_core_store.cli.run_child import Child, locate
from dox_core_store.cli.run_environment import child_environment
from dox_core_store.cli.run_files import PrivateFolder
from dox_core_store.cli.run_map import KeyMap
from dox_core_store.cli.run_mask import Forms
from dox_core_store.cli.run_signals import ENDING, Received, SignalListener, stop_as_usual
from dox_core_store.cli.run_watch import Step, Watch
from dox_core_store.cli.service_client import first_of, outcomes, service_client
from dox_core_store.errors import ConfigurationError, DoxStoreError

__all__ = ["FOLDER_VARIABLE", "Plan", "Supervisor"]

FOLDER_VARIABLE = "KEY_FILES_DIR"

_BY_SIGNAL = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for. ``watch_signal``: None restarts; ``is_watched`` says whether at all."""

    command: Sequence[str]
    map: KeyMap
    service: str | None = None
    is_pure: bool = False
    overrides: bool = False
    is_masked: bool = False
    as_files: bool = False
    allow_disk: bool = False
    is_watched: bool = False
    watch_signal: int | None = None
    stops_on_revoke: bool = True
    grace_seconds: float = 10.0

    @property
    def files(self) -> dict[str, str]:
        """Key paths by the names of files."""
        return {**(self.map.variables if self.as_files else {}), **self.map.files}

    def environment(self, given: Mapping[str, str]) -> dict[bytes, bytes]:
        """The command's, with ``given`` in it. Raises as `child_environment`."""
        return child_environment(os.environ, given, pure=self.is_pure, override=self.overrides)

    def check(self) -> None:
        """Raises `ConfigurationError` where it can be known that this will not do."""
        self.environment(dict.fromkeys(self.map.variables, ""))
        both = self.map.variables.keys() & self.map.files.keys() if self.as_files else ()
        for name in both:
            raise ConfigurationError("bad_map", f"{name} is both a variable and a file.")
        locate(self.command[0])


class Supervisor:
    """One run. Raises what fetching, writing and starting raise; then nothing was left behind."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._forms = Forms() if plan.is_masked else None
        self._folder: PrivateFolder | None = None
        self._listener: SignalListener | None = None
        self._child: Child | None = None
        self._starting: asyncio.Task[int] | None = None
        self._ended_by: int | None = None

    async def run(self) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()

        def heard(received: Received) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._on_signal, received)

        with ExitStack() as around:
            self._listener = around.enter_context(SignalListener(heard))
            self._starting = asyncio.create_task(self._supervise(around))
            try:
                return await self._starting
            except asyncio.CancelledError:
                if self._ended_by is None:
                    raise
                return _BY_SIGNAL + self._ended_by

    async def _supervise(self, around: ExitStack) -> int:
        plan = self._plan
        client = service_client(plan.service, follow=plan.is_watched)
        try:
            found = await outcomes(client, plan.map.key_paths)
            failed = {p: each for p, each in found.items() if isinstance(each, DoxStoreError)}
            if failed:
                raise first_of(failed)
            keys = {p: each for p, each in found.items() if not isinstance(each, DoxStoreError)}
            watch = Watch(keys)
            if plan.files:
                self._folder = around.enter_context(PrivateFolder(allow_disk=plan.allow_disk))
                self._write(watch, keys)
            child = self._start(watch)
            if not plan.is_watched:
                await client.aclose()  # nothing of the store's is needed any more
                return await child.exited
            following = asyncio.create_task(watch.follow(client))
            following.add_done_callback(_say_why)
            try:
                return await self._watch(watch)
            finally:
                following.cancel()
        finally:
            if self._child is not None and not self._child.exited.done():
                await self._child.stop(plan.grace_seconds)
            await client.aclose()

    # --- the command -------------------------------------------------------------------------

    def _start(self, watch: Watch) -> Child:
        """Start the command with the values in hand. There is no way back from here."""
        assert self._listener is not None  # noqa: S101 - for the type
        given: dict[str, str] = {}
        if self._folder is not None:
            given[FOLDER_VARIABLE] = str(self._folder.path)
        for name, path in self._plan.map.variables.items():
            if path in watch.keys:
                if self._folder is not None and self._plan.as_files:
                    given[name] = str(self._folder.path / name)
                else:
                    given[name] = watch.keys[path].value
        if self._forms is not None:
            self._forms.add(key.value for key in watch.keys.values())
        self._child = Child(
            self._plan.command,
            self._plan.environment(given),
            signal_mask=self._listener.original,
            forms=self._forms,
        )
        watch.used(watch.keys)
        return self._child

    def _write(self, watch: Watch, paths: Mapping[str, object] | frozenset[str]) -> None:
        """Write the files of the keys ``paths``."""
        for name, path in self._plan.files.items():
            if path in paths and self._folder is not None:
                self._folder.write(name, watch.keys[path].value)

    async def _watch(self, watch: Watch) -> int:
        while self._child is not None:
            step = asyncio.create_task(watch.step())
            child = self._child
            await asyncio.wait({child.exited, step}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                break
            if child.exited.done():
                break
            code = await self._take(watch, step.result())
            if code is not None:
                return code
        assert self._child is not None  # noqa: S101 - for the type
        return await self._child.exited

    async def _take(self, watch: Watch, step: Step) -> int | None:
        """Do what ``step`` asks for; the exit code, if that is the end."""
        assert self._child is not None  # noqa: S101 - for the type
        plan = self._plan
        for path, error in step.doubted.items():
            note(f"doxstore: {path} cannot be had ({error.code}); the command keeps what it has.")
        if step.gone:
            error = first_of(dict(step.gone))
            if plan.stops_on_revoke:
                await self._child.stop(plan.grace_seconds)
                detail = f"The command was stopped, for a key of it can be had no more: {error}"
                show_error(error.code, detail, as_json=False)
                return ExitCode.REFUSED
            note(f"doxstore: {error} The command keeps running (--on-revoke keep).")
        self._remove(step)
        if self._forms is not None:
            self._forms.add(watch.keys[path].value for path in step.changed)
        if plan.watch_signal is not None:
            try:
                self._write(watch, step.changed)
            except ConfigurationError as error:  # a full disk shall not end the command too
                note(f"doxstore: {error} The command keeps what it has.")
                return None
            watch.used(step.changed)
            if step.changed:
                self._child.send(plan.watch_signal)
        elif step.is_due:
            return await self._restart(watch)
        return None

    async def _restart(self, watch: Watch) -> int | None:
        assert self._child is not None  # noqa: S101 - for the type
        self._ended_by = None
        code = await self._child.stop(self._plan.grace_seconds)
        if self._is_to_end():  # somebody wants that, not a new beginning
            return code
        self._write(watch, watch.keys)
        note("doxstore: keys have changed; the command is started again.")
        try:
            self._start(watch)
        except DoxStoreError as error:
            show_error(error.code, error.detail, as_json=False)
            return exit_code_of(error)
        return None

    def _remove(self, step: Step) -> None:
        for name, path in self._plan.files.items():
            if path in step.gone and self._folder is not None:
                self._folder.remove(name)

    def _is_to_end(self) -> bool:
        return self._ended_by is not None

    # --- signals -----------------------------------------------------------------------------

    def _on_signal(self, received: Received) -> None:
        number = received.number
        if number in ENDING:
            self._ended_by = number
        child = self._child
        if child is None:
            if number in ENDING and self._starting is not None:
                self._starting.cancel()
        elif not received.is_of_terminal and received.sender != child.pid:
            child.send(number)
        if number == signal.SIGTSTP:
            stop_as_usual()


def _say_why(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()) is not None:
        note(f"doxstore: changes are followed no more ({type(error).__name__}): a fault of ours.")
