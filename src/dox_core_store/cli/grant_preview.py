"""What `doxstore grant … --dry-run` shows: who would gain and who would lose which keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.output import note, show_facts, show_json, show_table
from dox_core_store.cli.progress import counting

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["AllShifts", "DryRun", "preview", "show_preview"]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; show who would gain or lose which keys.")
]
AllShifts = Annotated[
    bool, typer.Option("--all", help="With --dry-run: list every key, not the first ones.")
]
_SHOWN = 20


async def preview(
    client: KeyService, *, add: Sequence[wire.GrantRequest] = (), remove: Sequence[str] = ()
) -> list[wire.AccessShift]:
    """Every key that a service would gain or lose."""
    shifts: list[wire.AccessShift] = []
    with counting("keys looked at") as count:
        async for page in client.dry_run(add, remove):
            shifts += page.shifts
            count(page.keys_looked_at)
    return shifts


def show_preview(shifts: Sequence[wire.AccessShift], *, everything: bool, as_json: bool) -> None:
    """Counts, and the first keys; all of them with ``everything``."""
    gains = sum(each.gains for each in shifts)
    shown = shifts if everything else shifts[:_SHOWN]
    if as_json:
        show_json({"gains": gains, "losses": len(shifts) - gains, "shifts": shown})
        return
    show_facts([("dry run", f"{gains} gained, {len(shifts) - gains} lost; nothing was changed")])
    if shown:
        show_table(
            ("", "SERVICE", "KEY", "ENVIRONMENT"),
            (
                (
                    "gains" if each.gains else "loses",
                    each.service_name,
                    each.key_path,
                    each.environment,
                )
                for each in shown
            ),
        )
    if len(shown) < len(shifts):
        note(f"The first {_SHOWN}; --all lists all {len(shifts)}.")
