"""`doxstore vault adopt`: what lies in a vault already becomes keys, where it lies.

Order: list the vault, decide names, ask the store what it would make of each, print that. With
``--apply`` the store does it, a hundred at a time; what it has done it knows, so the command may be
run again after whatever broke it off. Nothing is copied, and no value is printed or even fetched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import Json, Reason
from dox_core_store.cli.output import ExitCode, counted, note, show_facts, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import ask
from dox_core_store.cli.vault_plan import Names, Unnamed, collisions, matches, parse_names
from dox_core_store.cli.vault_split import split_keys
from dox_core_store.errors import InvalidRequestError

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["VAULT_ADOPT"]

_BATCH = 50
_PATIENCE_MS = 60_000

T = TypeVar("T")


def adopt(  # noqa: PLR0917 - options
    vault: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Which vault; without it the one where new values go."
        ),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "-e",
            metavar="NAME",
            help="Of entries whose path does not begin with one.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="PATH=KEY",
            help="Name the key of an entry, or of one field as PATH.FIELD; repeatable.",
        ),
    ] = None,
    map_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same, one a line; # begins a remark.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only keys that this names: team.**")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Instead of listing: give these keys, where they share an entry with others, one"
            " of their own.",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it.")] = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """List what lies in a vault and is no store's yet, and take it over as keys with --apply.

    Nothing is copied: the key's first version lies where it lay, and later ones go there too. An
    entry of several fields becomes a key for each; those are read and not written, until --split
    gives them entries of their own. What is taken over already is skipped, so it may be run again.
    """
    renames = parse_names([*(rename or []), *_lines(map_file)])

    async def work(service: KeyService) -> bool:
        environments = [each.name async for each in service.list_environments()]
        if split is not None:
            return await split_keys(
                service, split, environments, apply=apply, reason=reason, as_json=as_json
            )
        names = Names(environments=environments, environment=environment, renames=renames)
        where = await _where(service, vault)
        found = await _Found.listed(service, where, names, shown=not as_json)
        if apply and names.unused:  # or it would be taken over by a name that nobody wants
            raise InvalidRequestError(
                "invalid_field",
                f"Nothing there is called {', '.join(names.unused)}. Nothing was taken over.",
            )
        planned = found.named
        if only is not None:
            asked = await _ask(
                service, where, planned, dry_run=True, reason=None, shown=not as_json
            )
            planned = _only(planned, asked, only, environments)
            found.unnamed.clear()
        done = await _ask(
            service, where, planned, dry_run=not apply, reason=reason, shown=not as_json
        )
        for each in names.unused:
            note(f"Nothing there is called {each}.")
        return _report(where, found, done, apply=apply, as_json=as_json)

    if not ask(work, patience_ms=_PATIENCE_MS):
        raise typer.Exit(ExitCode.REFUSED)


class _Found:
    """What lies in a vault: named, unnamed, and how many entries are a store's already."""

    def __init__(self) -> None:
        self.named: list[wire.AdoptEntry] = []
        self.unnamed: list[Unnamed] = []
        self.managed = 0

    @classmethod
    async def listed(cls, service: KeyService, vault: str, names: Names, *, shown: bool) -> _Found:
        found = cls()
        with counting("entries listed", shown=shown) as listed:
            async for entry in service.vault_entries(vault):
                listed(1)
                if entry.managed:
                    found.managed += 1
                    names.skip(entry.path or "")
                    continue
                for each in names.of(entry):
                    if isinstance(each, Unnamed):
                        found.unnamed.append(each)
                    else:
                        found.named.append(each)
        return found


async def _where(service: KeyService, vault: str | None) -> str:
    if vault is not None:
        return vault
    known = [each async for each in service.list_vaults() if each.vault != "here"]
    new = [each.vault for each in known if each.takes_new] or [each.vault for each in known]
    if len(new) != 1:
        raise InvalidRequestError(
            "invalid_field",
            f"Say which vault: the server knows {', '.join(new) or 'none'}.",
        )
    return new[0]


async def _ask(
    service: KeyService,
    vault: str,
    planned: Sequence[wire.AdoptEntry],
    *,
    dry_run: bool,
    reason: str | None,
    shown: bool,
) -> list[wire.AdoptedEntry]:
    done: list[wire.AdoptedEntry] = []
    what = "keys looked at" if dry_run else "keys taken over"
    with counting(what, total=len(planned), shown=shown) as counted_on:
        for few in _batches(planned):
            told = await service.adopt(vault, few, dry_run=dry_run, reason=reason)
            done += told.entries
            counted_on(len(few))
    return collisions(done) if dry_run else done


def _only(
    planned: Sequence[wire.AdoptEntry],
    asked: Sequence[wire.AdoptedEntry],
    pattern: str,
    environments: Collection[str],
) -> list[wire.AdoptEntry]:
    return [
        each
        for each, told in zip(planned, asked, strict=True)
        if matches(pattern, environments, told.key_path, told.environment)
    ]


def _report(
    vault: str,
    found: _Found,
    done: Sequence[wire.AdoptedEntry],
    *,
    apply: bool,
    as_json: bool,
) -> bool:
    """Print what became of everything; whether nothing was refused that was to be done."""
    outcomes = Counter(each.outcome for each in done)
    refused = outcomes["refused"] + len(found.unnamed)
    if as_json:
        rows = [
            *done,
            *(
                wire.AdoptedEntry(
                    path=each.path,
                    field=each.field,
                    key_path=each.key_path,
                    environment=None,
                    outcome="refused",
                    code="malformed_path",
                    detail=each.why,
                )
                for each in found.unnamed
            ),
        ]
        counts = {
            "adopted": outcomes["adopted"],
            "known": outcomes["known"],
            "refused": refused,
            "managed": found.managed,
        }
        show_json({"vault": vault, "applied": apply} | counts | {"entries": rows})
        return not (apply and refused)
    word = "adopted" if apply else "to be adopted"
    table: list[tuple[object, ...]] = [
        (each.path, each.field, each.key_path, each.environment, _said(each, word)) for each in done
    ]
    table += [(e.path, e.field, None, None, f"no name: {e.why}") for e in found.unnamed]
    if table:
        show_table(("ENTRY", "FIELD", "KEY", "ENVIRONMENT", "OUTCOME"), table)
        typer.echo()
    show_facts(
        [
            (word, outcomes["adopted"]),
            ("known already", outcomes["known"]),
            ("refused", refused),
            ("a store's already", counted(found.managed, "entry", "entries")),
        ]
    )
    if not apply:
        typer.echo("A plan: nothing was changed. --apply does it.")
    return not (apply and refused)


def _said(done: wire.AdoptedEntry, word: str) -> str:
    if done.outcome == "refused":
        return f"{done.code}: {done.detail}"
    return word if done.outcome == "adopted" else "known already"


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError("invalid_field", f"{file} cannot be read as text.") from error
    return [line for each in lines if (line := each.strip()) and not line.startswith("#")]


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), _BATCH):
        yield items[at : at + _BATCH]


VAULT_ADOPT = Command(
    "adopt",
    adopt,
    "doxstore vault adopt\n"
    "doxstore vault adopt --map 'old/db.password=payments.db' --only 'payments.**' --apply\n"
    "doxstore vault adopt --split 'payments.**' --apply",
    "permissions `manage vaults` and `list keys`",
)
