"""Making a slot from a command: its options, and where its shares go.

Shared by `doxstore init`, which makes a store's first slot, and `doxstore seal slots add`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store.cli.asking import new_passphrase
from dox_core_store.cli.output import note, printable
from dox_core_store.errors import ConfigurationError
from dox_core_store.sensitive import Sensitive

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.unlock import NewHolder
    from dox_core_store.server.domain.seal import SlotKind

__all__ = [
    "KmsKey",
    "ShareCount",
    "SharesFolder",
    "StdinPassphrase",
    "Threshold",
    "TransitKey",
    "check_outside",
    "keep_shares",
    "new_holder",
    "print_shares",
    "slot_kind",
]

Threshold = Annotated[
    int, typer.Option("--threshold", metavar="K", help="shares: how many open the store.")
]
ShareCount = Annotated[
    int, typer.Option("--shares", metavar="N", help="shares: how many are made, at most 16.")
]
SharesFolder = Annotated[
    Path | None,
    typer.Option(
        "--shares-dir",
        metavar="DIR",
        help="shares: write each to a file of its own (0600) there instead of printing them.",
    ),
]
StdinPassphrase = Annotated[
    bool,
    typer.Option("--stdin", help="passphrase: the next line of stdin, instead of asking twice."),
]
TransitKey = Annotated[
    str, typer.Option("--transit-key", metavar="NAME", help="transit: the key that encrypts.")
]
KmsKey = Annotated[
    str, typer.Option("--kms-key", metavar="ARN", help="kms: the key that encrypts.")
]


def slot_kind(text: str) -> SlotKind:
    """The kind named ``text``. Raises a usage error."""
    from dox_core_store.server.domain.seal import SlotKind

    try:
        return SlotKind(text)
    except ValueError:
        raise typer.BadParameter(f"A slot is one of {', '.join(SlotKind)}.") from None


def new_holder(
    *,
    key_file: Path | None = None,
    stdin: bool,
    threshold: int,
    shares: int,
    transit_key: str,
    kms_key: str,
) -> NewHolder:
    """How the slot's key is to be held."""
    from dox_core_store.server.bootstrap.unlock import NewHolder

    return NewHolder(
        key_file=key_file,
        passphrase=lambda: new_passphrase(stdin=stdin),
        threshold=threshold,
        shares=shares,
        transit_key=transit_key,
        kms_key=kms_key,
    )


def check_outside(folder: Path, key_file: Path) -> None:
    """Raise ``bad_setting`` if ``key_file`` lies in the store's folder."""
    if key_file.resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            "bad_setting",
            f"The key file {key_file} lies in the store's folder {folder}: whoever copies the"
            " folder would have the values. Name a file elsewhere.",
        )


def keep_shares(shares: Sequence[Sensitive], folder: Path) -> list[Path]:
    """Write each share to ``share-1.txt`` and so on in ``folder``; overwrites nothing."""
    written: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, words in enumerate(shares, 1):
            path = folder / f"share-{number}.txt"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
                written.append(path)
                file.write(f"{words.reveal()}\n")
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise ConfigurationError(
            "bad_setting", f"The shares cannot be written to {folder}: {error.strerror}."
        ) from error
    return written


def print_shares(shares: Sequence[Sensitive], threshold: int) -> None:
    """The shares on stdout, numbered, this once."""
    for number, words in enumerate(shares, 1):
        typer.echo(f"share {number} of {len(shares)}: {printable(words.reveal())}")
    note(
        f"Any {threshold} of these {len(shares)} open the store. They are kept nowhere and never"
        " shown again: give each to another person."
    )
