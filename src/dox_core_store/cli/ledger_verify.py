"""`doxstore ledger verify`: nothing in the ledger was changed, removed or put in between.

Every hash is computed here, from what the store (or its file, or an export of it) tells, and every
checkpoint's signature is checked with the store's public checkpoint key. Asked of the store, that
key comes from the store too: whoever keeps a copy of it elsewhere names it with --checkpoint-key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec.structs import replace

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import DataFolder, Json, KeyFile
from dox_core_store.cli.output import ExitCode, note, show_facts, show_json
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import ask, local_settings, local_store
from dox_core_store.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from dox_core_store.client import KeyService
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.domain.checkpoint import LedgerVerifier, Verified

__all__ = ["VERIFY", "verify_local"]


def verify(
    *,
    file: Annotated[
        Path | None, typer.Option(metavar="EXPORT", help="Check what `ledger export` wrote.")
    ] = None,
    checkpoint_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your copy of /.well-known/checkpoint-key.json. [default: ask the store]",
        ),
    ] = None,
    part: Annotated[
        bool, typer.Option("--part", help="EXPORT is a part: streams may begin in the middle.")
    ] = False,
    data: DataFolder = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Check every hash, every link and every checkpoint's signature of the ledger.

    By default the store tells its ledger; --data reads the store's own files; --file needs nothing
    but the export and the checkpoint key. The first entry that is wrong is named, and the exit code
    is then 1.
    """
    from dox_core_store.server.domain.ledger import BrokenChainError

    if file is not None and data is not None:
        raise typer.BadParameter("Say --file or --data, not both.")
    key = None if checkpoint_key is None else _read_key(checkpoint_key)
    try:
        if file is not None:
            verified = _verify_file(file, key or ask(_asked_key), part=part)
        elif data is not None:
            settings = local_settings("ledger verify", data=data, key_file=key_file)
            verified = verify_local(local_store("ledger verify", settings), key)
        else:
            verified = ask(lambda client: _verify_remote(client, key))
    except BrokenChainError as error:
        _show_broken(error.stream, error.seq, error.why, as_json=as_json)
        raise typer.Exit(ExitCode.REFUSED) from None
    _show(verified, as_json=as_json)


def verify_local(store: LocalStore, key: wire.CheckpointKey | None = None) -> Verified:
    """Verify the ledger in the store's own files. Raises ``BrokenChainError``."""
    from dox_core_store.server.domain.ledger import BrokenChainError

    verifier = _verifier(key or store.checkpoint_key, store.store_id)
    ends = store.inspection.heads()  # before the entries: a running server adds more of them
    with counting("blocks checked", total=store.inspection.count_blocks()) as step:
        try:
            for records in store.ledger():
                for record in records:
                    verifier.check(record)
                step(1)
        except (ValueError, TypeError) as error:
            if isinstance(error, BrokenChainError):
                raise
            raise BrokenChainError("ledger", verifier.entries + 1, "is unreadable") from error
    for stream, (seq, head) in ends.items():
        verifier.check_end(stream, seq, head)
    return verifier.finish()


async def _verify_remote(client: KeyService, key: wire.CheckpointKey | None) -> Verified:
    given = await client.checkpoint_key()
    verifier = _verifier(key or given, given.store_id)
    with counting("entries checked") as step:
        async for line in client.export_ledger():
            verifier.check(_decoded(line, verifier))
            step(1)
    return verifier.finish()


def _verify_file(path: Path, key: wire.CheckpointKey, *, part: bool) -> Verified:
    verifier = _verifier(key, key.store_id, may_be_cut=part)
    try:
        with path.open("rb") as file, counting("bytes checked", total=path.stat().st_size) as step:
            for line in _counted(file, step):
                verifier.check(_decoded(line, verifier))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}.") from None
    return verifier.finish()


async def _asked_key(client: KeyService) -> wire.CheckpointKey:
    return await client.checkpoint_key()


def _counted(lines: Iterable[bytes], step: Callable[[int], None]) -> Iterator[bytes]:
    for line in lines:
        yield line
        step(len(line))


def _verifier(
    key: wire.CheckpointKey, store_id: str, *, may_be_cut: bool = False
) -> LedgerVerifier:
    from dox_core_store.server.domain.checkpoint import LedgerVerifier

    if key.store_id != store_id:
        raise ConfigurationError(
            "bad_setting",
            f"The checkpoint key is of store {key.store_id!a}, not of {store_id!a}.",
        )
    return LedgerVerifier(
        store_id=store_id,
        checkpoint_key=_public_key(key),
        earlier_keys=[_public_key(replace(key, x=x)) for x in key.earlier],
        may_be_cut=may_be_cut,
    )


def _decoded(line: bytes, verifier: LedgerVerifier) -> wire.LedgerRecord:
    from dox_core_store.server.domain.ledger import BrokenChainError

    try:
        return wire.decode(wire.LedgerRecord, line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenChainError("line", verifier.entries + 1, "is not an entry") from error


def _read_key(path: Path) -> wire.CheckpointKey:
    try:
        return wire.decode(wire.CheckpointKey, path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "bad_setting", f"{path} is no checkpoint key ({type(error).__name__})."
        ) from error


def _public_key(key: wire.CheckpointKey) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.urlsafe_b64decode(key.x + "=" * (-len(key.x) % 4))
        if (key.kty, key.crv) == ("OKP", "Ed25519"):
            return Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError):
        pass
    raise ConfigurationError("bad_setting", "The checkpoint key is no Ed25519 public key.")


def _show_broken(stream: str, seq: int, why: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"status": "broken", "stream": stream, "seq": seq, "why": why})
        return
    show_facts([("broken", f"{stream} #{seq} {why}.")])
    note(
        "Entries before it are as they were written. Keep the files as they are, and compare them"
        " with an earlier export."
    )


def _show(verified: Verified, *, as_json: bool) -> None:
    if as_json:
        show_json({"status": "ok", **verified._asdict()})
        return
    last = verified.last_checkpoint
    age = ""
    if last is not None:
        seconds = int((datetime.now(UTC) - datetime.fromisoformat(last)).total_seconds())
        age = f", the last one {seconds} s old"
    facts = [
        ("ledger", "whole"),
        ("entries", f"{verified.entries} in {verified.streams} streams"),
        ("checkpoints", f"{verified.checkpoints}, every signature holds{age}"),
        ("not yet signed", f"{verified.unsigned} entries"),
    ]
    facts += [("begins in the middle", stream) for stream in verified.cut]
    show_facts(facts)


VERIFY = Command(
    "verify",
    verify,
    "doxstore ledger verify\n"
    "doxstore ledger verify --file ledger.jsonl --checkpoint-key checkpoint-key.json",
    "permission `read the ledger`; with --data the store's files; with --file no store",
)
