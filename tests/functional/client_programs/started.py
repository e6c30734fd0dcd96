"""`Started`: one of the programs here, with every warning an error, and what it says and leaves."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.functional.running import RunningStore, clean_environment

__all__ = ["FOLDER", "STRICT", "Started"]

FOLDER = Path(__file__).parent
STRICT = (sys.executable, "-X", "dev", "-W", "error")

_PATIENCE_SECONDS = 40


class Started:
    """``service`` has a token of ``store``. Ended with the ``with`` block, whatever it does."""

    def __init__(
        self, store: RunningStore, service: str, *command: str | Path, **environment: str
    ) -> None:
        self._said: queue.Queue[Any] = queue.Queue()
        if str(command[0]).endswith(".py"):
            command = (*STRICT, FOLDER / command[0], *command[1:])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(
                KEY_SERVICE_URL=store.url,
                SERVICE_TOKEN=store.issue(service),
                TEST_SERVICE=service,
                **environment,
            ),
            start_new_session=True,
        )
        self._errors = b""
        self._readers = [
            threading.Thread(target=self._read_said, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for each in self._readers:
            each.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def says(self) -> Any:
        """What it says next: a list of what it was given to say; ``None`` at its end."""
        try:
            return self._said.get(timeout=_PATIENCE_SECONDS)
        except queue.Empty:
            raise AssertionError(f"it says nothing; on stderr: {self._errors.decode()}") from None

    def tell(self, line: str = "") -> None:
        """One line for it to hear."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return self._errors.decode()

    def left(self, within: float) -> int:
        """Its exit code, once it has ended."""
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {within} s: {self.errors}") from None
        for each in self._readers:
            each.join(_PATIENCE_SECONDS)
        return code

    def ends(self, within: float) -> None:
        """It ends in time, with 0 and without a word on stderr."""
        code = self.left(within)
        assert code == 0, f"it ended with {code}: {self.errors}"
        assert not self.errors, self.errors

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with its children
        self._process.wait()
        for each in self._readers:
            each.join(_PATIENCE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _read_said(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._said.put(json.loads(line))
            except ValueError:
                self._said.put(line.decode())
        self._said.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors += line
