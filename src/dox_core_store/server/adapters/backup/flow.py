"""Bytes on their way: pieces read as a stream, and streams that are encrypted or decrypted.

Encryption is age's (https://age-encryption.org/v1, by pyrage), which reads and writes by itself; it
runs in a thread behind a pipe, so that whoever reads what it gives decides how fast it goes and
nothing of it is ever kept whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyrage  # type: ignore[import-untyped]

from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.server.adapters.backup.rows import damaged

__all__ = ["Pieces", "check_recipient", "decrypted", "encrypted", "is_encrypted"]

_AGE = b"age-encryption.org/v1"
_BUFFER_BYTES = 256 * 1024


class Pieces(io.RawIOBase):
    """An iterator of bytes as a stream to read. What it raises is kept, since whoever reads may
    wrap it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self.error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._left:
                self._left = memoryview(next(self._pieces))
        except StopIteration:
            return 0
        except BaseException as error:
            self.error = error
            raise
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def check_recipient(text: str) -> str:
    """``text``, if it is an age recipient (``age1…``). Raises ``bad_setting``."""
    _recipient(text)
    return text


def encrypted(source: Pieces, recipient: str) -> BinaryIO:
    """``source`` encrypted for ``recipient``."""
    to = _recipient(recipient)
    return _piped(lambda sink: pyrage.encrypt_io(source, sink, [to]), source)


def is_encrypted(stream: io.BufferedReader) -> bool:
    """Whether what begins here is encrypted; nothing is consumed."""
    return stream.peek(len(_AGE))[: len(_AGE)] == _AGE


def decrypted(source: BinaryIO, identity: Path | None) -> BinaryIO:
    """``source`` decrypted. Raises ``backup_encrypted``, also while it is read, if no identity in
    the file opens it, ``backup_damaged`` if it is not as it was encrypted."""
    if identity is None:
        raise ConfigurationError("backup_encrypted", "The backup is encrypted with age.")
    identities = _identities(identity)
    return _piped(lambda sink: pyrage.decrypt_io(source, sink, identities), source)


def _piped(work: Callable[[BinaryIO], None], source: BinaryIO | Pieces) -> BinaryIO:
    reading, writing = os.pipe()
    worker = _Worker(work, source, os.fdopen(writing, "wb", _BUFFER_BYTES))
    worker.start()
    return io.BufferedReader(_Piped(reading, worker), _BUFFER_BYTES)


class _Worker(threading.Thread):
    def __init__(
        self, work: Callable[[BinaryIO], None], source: BinaryIO | Pieces, sink: BinaryIO
    ) -> None:
        super().__init__(name="age", daemon=True)
        self._work = work
        self._source = source
        self._sink = sink
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work(self._sink)
            self._sink.close()
        except BaseException as error:  # noqa: BLE001 - raised where the stream is read
            self.error = getattr(self._source, "error", None) or error
            with contextlib.suppress(OSError):
                self._sink.close()


class _Piped(io.RawIOBase):
    """The reading end. The end of the stream is only one if the worker ended well."""

    def __init__(self, descriptor: int, worker: _Worker) -> None:
        self._descriptor: int | None = descriptor
        self._worker = worker

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._descriptor is None:
            return 0
        data = os.read(self._descriptor, len(buffer))
        if not data:
            self._worker.join()
            if self._worker.error is not None:
                raise _translated(self._worker.error)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # a worker that still writes is told by a broken pipe
            self._descriptor = None
            self._worker.join()
        super().close()


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, DoxStoreError):
        return error
    if isinstance(error, pyrage.DecryptError) and "matching" in str(error):
        return ConfigurationError("backup_encrypted", "The identity does not open this backup.")
    if isinstance(error, pyrage.DecryptError | OSError):
        return damaged("it does not decrypt")
    return error


def _recipient(text: str) -> Any:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise ConfigurationError("bad_setting", f"{text[:80]!a} is no age recipient.") from error


def _identities(path: Path) -> list[Any]:
    """The identities in a file as ``age-keygen`` writes it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                "bad_setting",
                f"{path} must be a regular file that only its owner can read (chmod 600 {path}).",
            )
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
        found = [
            pyrage.x25519.Identity.from_str(line)
            for line in lines
            if line and not line.startswith("#")
        ]
    except OSError as error:
        raise ConfigurationError("bad_setting", f"{path}: {error.strerror}.") from error
    except (pyrage.IdentityError, UnicodeDecodeError) as error:
        raise ConfigurationError("bad_setting", f"{path} holds no age identity.") from error
    if not found:
        raise ConfigurationError("bad_setting", f"{path} holds no age identity.")
    return found
