"""Writing a file as a whole or not at all, readable by its owner alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer

from dox_core_store.cli.output import output_failed

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes ``path`` once the block ends well.

    Raises a usage error where something else than a file is there, also a link to one: replacing
    it would take the link, the device or the pipe away. Raises ``output_failed``.
    """
    _check(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        try:
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise output_failed(error, path) from None


def _check(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing is there, or the draft cannot be made either
    if stat.S_ISDIR(mode):
        raise typer.BadParameter(f"{path} is a folder: name a file.")
    if not stat.S_ISREG(mode):
        raise typer.BadParameter(f"{path} is no regular file: write to it with `> {path}`.")
