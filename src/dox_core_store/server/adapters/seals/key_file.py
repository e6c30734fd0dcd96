"""The key-file slot: 256 random bits in a file of its own, outside the data folder.

The file is text, so that it survives being copied and can be recognised::

    doxstore-key-file-1 <base64 of 32 bytes>
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Any

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.domain.envelope import KEY_BYTES
from dox_core_store.server.domain.seal import Slot, SlotKind

__all__ = ["KeyFileHolder", "make_key_file", "read_key_file"]

_MAGIC = "doxstore-key-file-1"


class KeyFileHolder:
    """The `SlotHolder` port over one file. A file that exists is used, never overwritten."""

    kind = SlotKind.KEY_FILE

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self, store_id: str, slot_id: str) -> tuple[bytes, dict[str, Any]]:  # noqa: ARG002
        key = read_key_file(self._path) if self._path.exists() else make_key_file(self._path)
        return key, {}

    def open(self, store_id: str, slot: Slot) -> bytes:  # noqa: ARG002 - any slot may be its own
        return read_key_file(self._path)


def make_key_file(path: Path) -> bytes:
    """Make a new key file (0600) and return its key. Never overwrites one."""
    key = os.urandom(KEY_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(
            "bad_setting", f"{path} exists; a key file is never overwritten."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            "bad_setting", f"{path} cannot be made: {error.strerror}."
        ) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{_MAGIC} {base64.b64encode(key).decode()}\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def read_key_file(path: Path) -> bytes:
    """The key in ``path``. Raises `ConfigurationError` ``key_file_missing`` or
    ``wrong_key_file``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(
            "key_file_missing", f"The key file {path} cannot be opened: {error.strerror}."
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise ConfigurationError(
                "key_file_missing",
                f"The key file {path} must be a regular file that only its owner can read"
                f" (chmod 600 {path}).",
            )
        magic, _, text = file.read(4096).decode("ascii", "replace").strip().partition(" ")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if magic != _MAGIC or len(key) != KEY_BYTES:
        raise ConfigurationError("wrong_key_file", f"{path} is not a key file of this format.")
    return key
