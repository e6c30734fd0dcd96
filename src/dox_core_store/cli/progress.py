"""Progress of long work, on stderr, where a person looks; nothing at all elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["counting"]


@contextmanager
def counting(
    what: str, *, total: int | None = None, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A bar that says how much of ``what`` is done; the function given moves it on."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _step: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task(what, total=total)
        yield lambda step: progress.advance(task, step)
