"""`doxstore vault adopt --split`: keys that share an entry of a vault get entries of their own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import typer

from dox_core_store import wire
from dox_core_store.cli.output import show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.vault_plan import matches

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["split_keys"]

_BATCH = 10


async def split_keys(
    service: KeyService,
    pattern: str,
    environments: Collection[str],
    *,
    apply: bool,
    reason: str | None,
    as_json: bool,
) -> bool:
    """Split what ``pattern`` names, or only say what that is; whether nothing was refused."""
    literal = pattern.partition("*")[0].rpartition(".")[0] if "*" in pattern else None
    if "*" in pattern:
        listed = [
            each
            async for each in service.list_keys(prefix=literal or None)
            if matches(pattern, environments, each.key_path, each.environment)
        ]
        names = [f"{each.key_path}.{each.environment}" for each in listed]
    else:
        names = [pattern]
    if not apply:
        keys = [wire.SplitKey(key_path=each, outcome="would be split if it shares an entry")
                for each in names]  # fmt: skip
    else:
        keys = []
        with counting("keys split", total=len(names), shown=not as_json) as done:
            for at in range(0, len(names), _BATCH):
                few = names[at : at + _BATCH]
                keys += (await service.split(few, reason)).keys
                done(len(few))
    if as_json:
        show_json({"applied": apply, "keys": keys})
    else:
        show_table(
            ("KEY", "OUTCOME", "VERSION"),
            [(each.key_path, _said(each), each.version) for each in keys],
        )
        if not apply:
            typer.echo("A plan: nothing was changed. --apply does it.")
    return not any(each.outcome == "refused" for each in keys)


def _said(key: wire.SplitKey) -> str:
    if key.outcome == "refused":
        return f"{key.code}: {key.detail}"
    return "shares no entry" if key.outcome == "own" else key.outcome
