"""`doxstore vault move`: values from one place to another, a few keys a call, while they are read.

What is done stays done and is skipped the next time, so it may be run again after whatever broke it
off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import Json, Reason, Yes
from dox_core_store.cli.output import ExitCode, note, show_facts, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import ask, confirm
from dox_core_store.errors import ConnectionFailedError, StoreUnavailableError, error_for

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["VAULT_MOVE"]

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_PATIENCE_MS = 60_000
_SILENT = frozenset({"vault_unavailable", "vault_refused"})

Step = Callable[["str | None"], Awaitable[wire.Moved]]


def move(
    to: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to: a vault that the server knows by `vault` or `vault_also`, or `here`"
            " for beside the catalog.",
        ),
    ],
    prefix: Annotated[
        str | None, typer.Option(metavar="PATH", help="Only this key and those below it.")
    ] = None,
    back: Annotated[
        bool,
        typer.Option(
            "--back", help="Only go back to copies that are kept there: nothing is copied."
        ),
    ] = False,
    erase: Annotated[
        bool,
        typer.Option(
            "--erase",
            help="Afterwards erase the former copies of what lies there: no way back from then on.",
        ),
    ] = False,
    yes: Yes = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Have the values of keys lie somewhere else: copied, verified and flipped, key by key.

    Services read all the time and notice nothing. Every version that can be read is moved. Former
    places are kept: `--to` the former one with --back returns at once, and needs nothing of the
    vault that is left. Where new values go is said by the server's setting `vault`, not here.
    """
    if erase:
        confirm(f"Erase the former copies of everything that lies in {to}?", yes=yes)

    async def work(service: KeyService) -> bool:
        shown = not as_json
        moved = await _through(
            "keys moved",
            lambda after: service.move(to, prefix=prefix, after=after, back=back, reason=reason),
            shown=shown,
        )
        erased = None
        if erase:
            erased = await _through(
                "keys whose copies were erased",
                lambda after: service.erase_copies(to, prefix=prefix, after=after, reason=reason),
                shown=shown,
            )
        failed = [*moved.failed, *([] if erased is None else erased.failed)]
        _report(to, moved, erased, failed, as_json=as_json)
        new = [each.vault async for each in service.list_vaults() if each.takes_new]
        if prefix and not moved.moved and not moved.skipped and not failed:
            note(f"No key is called {prefix}, or lies below it.")
        if moved.moved and new and to.partition("?")[0] != new[0].partition("?")[0]:
            note(f"New values still go to {new[0]}: that is the server's setting `vault`.")
        return not failed

    if not ask(work, patience_ms=_PATIENCE_MS):
        raise typer.Exit(ExitCode.REFUSED)


async def _through(what: str, step: Step, *, shown: bool) -> wire.Moved:
    """All calls together. Raises where a vault does not answer at all."""
    whole = wire.Moved(moved=0, skipped=0, failed=[])
    after: str | None = None
    with counting(what, shown=shown) as done:
        while True:
            told = await _insist(step, after)
            whole.moved += told.moved
            whole.skipped += told.skipped
            whole.failed += told.failed
            done(told.moved + told.skipped)
            if told.failed and not told.moved and told.failed[-1].code in _SILENT:
                last = told.failed[-1]
                raise error_for(
                    last.code, f"{last.detail} So far {whole.moved} {what}; run it again."
                )
            after = told.next
            if after is None:
                return whole


async def _insist(step: Step, after: str | None) -> wire.Moved:
    """One call, again if its answer was lost or the store is busy: repeating it does no harm."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return await step(after)
        except (ConnectionFailedError, StoreUnavailableError) as error:
            if error.code in _SILENT:
                raise
            await asyncio.sleep(_PAUSE_SECONDS * 2**attempt)
    return await step(after)


def _report(
    to: str,
    moved: wire.Moved,
    erased: wire.Moved | None,
    failed: list[wire.MoveFailure],
    *,
    as_json: bool,
) -> None:
    count = None if erased is None else erased.moved
    if as_json:
        show_json(
            {"to": to, "moved": moved.moved, "skipped": moved.skipped, "erased": count,
             "failed": failed}
        )  # fmt: skip
        return
    if failed:
        show_table(
            ("KEY", "CODE", "WHY"), [(each.key_path, each.code, each.detail) for each in failed]
        )
        typer.echo()
    facts = [("moved", moved.moved), ("there already", moved.skipped), ("failed", len(failed))]
    show_facts([*facts, *([] if count is None else [("copies erased of", count)])])


VAULT_MOVE = Command(
    "move",
    move,
    "doxstore vault move --to openbao+https://bao.example.com:8200/kv/doxstore\n"
    "doxstore vault move --to here --prefix payments\n"
    "doxstore vault move --to here --back",
    "permissions `manage vaults`",
)
