"""What `doxstore backup` prints: one summary each, and what to do next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from dox_core_store.cli.output import note, show_facts, show_json

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.backups import Made
    from dox_core_store.server.bootstrap.drills import Drilled
    from dox_core_store.server.bootstrap.restores import Restored
    from dox_core_store.server.domain.epoch import EpochRecord
    from dox_core_store.server.settings import Settings

__all__ = ["show_drilled", "show_made", "show_restored", "show_signed_off"]

_MIB = 1024 * 1024
_DIFFERENCES = {
    "only_live": "keys only in the store",
    "only_backup": "keys only in the backup",
    "newer": "keys with newer versions in the store",
    "states": "versions in another state in the store",
    "slots": "slots that differ",
}
_SHOWN = 20


def show_made(file: str, made: Made, *, as_json: bool) -> None:
    if as_json:
        show_json({"file": file, **made._asdict()})
        return
    show_facts(
        [
            ("backup", file),
            ("store", f"{made.store_id}, epoch {made.epoch}"),
            ("holds", _holds(made.counts)),
            ("size", _size(made.bytes)),
            ("sha256", made.sha256),
            ("encrypted for", made.recipient or "nobody: names and the ledger can be read in it"),
        ]
    )
    note("Rehearse it now and then: doxstore backup drill " + shlex.quote(file))


def show_drilled(file: str, drilled: Drilled, *, as_json: bool) -> None:
    looked, header = drilled.looked, drilled.checked.header
    if as_json:
        show_json(
            {
                "status": "damaged" if looked.faults else "ok",
                "file": file,
                "store_id": header.store_id,
                "epoch": header.epoch,
                "created_at": header.created_at,
                "sha256": drilled.checked.ending.sha256,
                "versions_opened": looked.versions.opened,
                "versions_without_value": looked.versions.erased,
                "rows": looked.rows,
                "ledger": None if looked.ledger is None else looked.ledger._asdict(),
                "faults": looked.faults,
                "slots": [
                    {"slot_id": slot.slot_id, "kind": slot.kind, "label": slot.label, "told": told}
                    for slot, told in drilled.slots
                ],
                "differences": None
                if isinstance(drilled.differences, str)
                else drilled.differences._asdict(),
                "not_compared": drilled.differences
                if isinstance(drilled.differences, str)
                else None,
                "recorded": drilled.recorded is None,
                "not_recorded": drilled.recorded,
            }
        )
        return
    show_facts(_drill_facts(file, drilled))


def show_restored(
    settings: Settings, data: str, key_file: str | None, restored: Restored, *, as_json: bool
) -> None:
    """``data`` and ``key_file`` as they were given, for the commands that come next."""
    steps = _next_steps(settings.database, data, key_file, restored)
    header, since = restored.checked.header, restored.since
    if as_json:
        show_json(
            {
                "data": settings.data,
                "database": settings.database or None,
                "store_id": header.store_id,
                "epoch": restored.epoch,
                "backup_created_at": header.created_at,
                "reviewed_by": restored.reviewed_by,
                "until": None if since is None else since.until,
                "applied": restored.taken,
                "not_applied": restored.left,
                "resealed": [] if since is None else since.resealed,
                "unverified": restored.unverified,
                "imports_aborted": restored.imports,
                "tokens_revoked": restored.tokens,
                "next": steps,
            }
        )
        return
    facts: list[tuple[str, Any]] = [
        ("restored", f"{header.store_id} in {restored.place}, epoch {restored.epoch}"),
        ("as of", f"{header.created_at}, from epoch {header.epoch}"),
        ("holds", _holds(header.counts)),
    ]
    if since is not None:
        facts.append(
            ("since then", f"{since.entries} entries up to {since.until}, {restored.taken} applied")
        )
        if since.unsigned:
            facts.append(("not yet signed", f"{since.unsigned} of them, at the end"))
    if since is not None:
        facts += [("not done again", each) for each in since.resealed[:_SHOWN]]
    facts += [("not applied", each) for each in restored.left[:_SHOWN]]
    facts += [("unverified", each) for each in restored.unverified[:_SHOWN]]
    if len(restored.unverified) > _SHOWN:
        facts.append(("unverified", f"and {len(restored.unverified) - _SHOWN} more"))
    if restored.imports:
        facts.append(("imports", f"{restored.imports} were open and were given up"))
    if restored.tokens is not None:
        facts.append(("new keys", f"to sign with; {restored.tokens} tokens died"))
    facts.append(("reviewed", restored.reviewed_by or "no: nothing is handed out"))
    show_facts([*facts, *(("next" if at == 0 else "then", step) for at, step in enumerate(steps))])


def show_signed_off(record: EpochRecord | None, *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "epoch": 1 if record is None else record.epoch,
                "reviewed_by": None if record is None else record.reviewed_by,
                "reviewed_at": None if record is None else record.reviewed_at,
            }
        )
    elif record is None:
        show_facts([("epoch", "1, which needs no sign-off: nothing was changed")])
    else:
        show_facts(
            [
                ("epoch", record.epoch),
                ("reviewed by", record.reviewed_by),
                ("reviewed at", record.reviewed_at),
            ]
        )


def _drill_facts(file: str, drilled: Drilled) -> list[tuple[str, Any]]:
    looked, header = drilled.looked, drilled.checked.header
    versions, ledger = looked.versions, looked.ledger
    facts: list[tuple[str, Any]] = [
        ("backup", f"{file}: {'DAMAGED' if looked.faults else 'whole'}"),
        ("store", f"{header.store_id}, epoch {header.epoch}, as of {header.created_at}"),
        ("sha256", drilled.checked.ending.sha256),
        ("versions", f"every one opens: {versions.opened} ({versions.erased} without a value)"),
        ("rows", f"{looked.rows}, every one as it was written"),
    ]
    if versions.damaged:
        facts[3] = ("versions", f"{versions.opened} open, {len(versions.damaged)} do not")
    if len(looked.faults) > len(versions.damaged) + (ledger is None):
        facts[4] = ("rows", f"{looked.rows}, not every one as it was written")
    if ledger is not None:
        facts.append(
            (
                "ledger",
                f"whole: {ledger.entries} entries, {ledger.checkpoints} checkpoints verified",
            )
        )
    facts += [("fault", each) for each in looked.faults[:_SHOWN]]
    for slot, told in drilled.slots:
        label = f" {slot.label}" if slot.label else ""
        facts.append(("slot", f"{slot.slot_id} ({slot.kind}{label}): {told}"))
    if isinstance(drilled.differences, str):
        facts.append(("compared", f"not with {drilled.live}: {drilled.differences}"))
    else:
        counts, named = drilled.differences
        same = "" if any(counts.values()) else ": no difference"
        facts.append(("compared", f"with {drilled.live}{same}"))
        for kind, told in _DIFFERENCES.items():
            if counts[kind]:
                more = "" if counts[kind] == len(named[kind]) else ", …"
                facts.append(("differs", f"{counts[kind]} {told}: {'; '.join(named[kind])}{more}"))
    facts.append(
        (
            "recorded",
            "on the store's ledger; nothing else there was touched"
            if drilled.recorded is None
            else f"nowhere ({drilled.recorded})",
        )
    )
    return facts


def _next_steps(database: str, data: str, key_file: str | None, restored: Restored) -> list[str]:
    given = {"--database": database, "--data": data, "--key-file": key_file}
    options = " ".join(f"{name} {shlex.quote(said)}" for name, said in given.items() if said)
    steps = []
    if restored.reviewed_by is None:
        made_at = restored.checked.header.created_at
        steps += [
            f"start the server, which hands out nothing yet: doxstore serve {options}",
            f"revoke again what was revoked or taken away after {made_at}",
            f"doxstore backup sign-off {options} --reason '…'",
        ]
    else:
        steps.append(f"doxstore serve {options}")
    if restored.since is not None and restored.since.resealed:
        steps.append(
            "the store is sealed by the keys of the backup again: doxstore seal rotate-root, then"
            " doxstore seal rekey"
        )
    if restored.tokens is not None:
        steps.append(f"a token for an operator: doxstore operator token NAME {options}")
        steps.append("new tokens for the services: doxstore token issue SERVICE")
    if restored.unverified:
        steps.append(
            "try what is unverified against its database, then store it anew, or"
            " doxstore key describe KEY --verified"
        )
    return steps


def _holds(counts: dict[str, int]) -> str:
    names = {"key": "keys", "version": "versions", "service": "services"}
    told = [f"{counts.get(table, 0)} {name}" for table, name in names.items()]
    return ", ".join([*told, f"{counts.get('ledger_block', 0)} blocks of the ledger"])


def _size(size: int) -> str:
    return f"{size} bytes" if size < _MIB else f"{size / _MIB:.1f} MiB"
