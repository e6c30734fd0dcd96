"""`doxstore ledger verify`: nothing in the ledger was changed, removed or put in between.

Every hash is computed here, from what the store (or its file, a copy of it, or an export) tells,
and every checkpoint's signature is checked with the store's public checkpoint key. A key that comes
from the store proves less: whoever keeps a copy of it elsewhere names it with --checkpoint-key.
What was shipped off the machine is given with --checkpoints: it finds what the database alone can
no longer show, such as a tail that was cut off.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer
from msgspec.structs import replace

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.ledger_report import show_broken, show_verified
from dox_core_store.cli.ledger_shipped import ShippedFiles
from dox_core_store.cli.option import ConfigFile, DatabaseUrl, DataFolder, Json, KeyFile
from dox_core_store.cli.output import ExitCode, note
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import ask, local_settings, local_store, needs_server_extra
from dox_core_store.errors import ConfigurationError, ConnectionFailedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from dox_core_store.client import KeyService
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.domain.checkpoint import LedgerVerifier, Verified
    from dox_core_store.server.settings import Settings

__all__ = ["VERIFY", "verify_local"]

_PROVES_LESS = (
    "The checkpoint key came from the store itself, which proves less: keep a copy of"
    " /.well-known/checkpoint-key.json elsewhere, and name it with --checkpoint-key."
)
_MAY_LACK_ITS_END = "Whether the end was cut off does not show without --checkpoints."
_MOST_LINE_BYTES = 1 << 20
"""An entry is a few kilobytes at most."""


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
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="What was shipped (see `ship_to`); may be given more than once."
        ),
    ] = None,
    part: Annotated[
        bool, typer.Option("--part", help="EXPORT is a part: streams may begin in the middle.")
    ] = False,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Check every hash, every link and every checkpoint's signature of the ledger.

    By default the store tells its ledger; --data and --database read the store itself (with
    --checkpoint-key also a copy that nobody serves: no slot has to open it, and DIR may be the
    database file); --file needs nothing but the export and the checkpoint key. The first entry
    that is wrong is named, and the exit code is then 1; also where a history was lost that nobody
    has signed off.
    """
    from dox_core_store.server.domain.ledger import BrokenChainError

    local = data is not None or database is not None
    if file is not None and local:
        raise typer.BadParameter("Say --file or where the store is, not both.")
    if part and (file is None or checkpoints):
        raise typer.BadParameter("--part goes with --file, and without --checkpoints.")
    made = _Verifiers(
        checkpoints or [], None if checkpoint_key is None else _read_key(checkpoint_key)
    )
    try:
        if file is not None:
            verified = _verify_file(file, made, part=part)
        elif local:
            command = "ledger verify"
            if made.key is not None and database is None:
                database = ""  # a copy in DIR, wherever the store itself is
            settings = local_settings(
                command, config=config, data=data, database=database, key_file=key_file
            )
            if made.key is not None:
                verified = _verify_copy(settings, made)
            else:
                verified = _verify_store(local_store(command, settings), made)
        else:
            verified = ask(lambda client: _verify_remote(client, made))
        _check_any(verified)
    except BrokenChainError as error:
        made.note()
        show_broken(error, as_json=as_json)
        raise typer.Exit(ExitCode.REFUSED) from None
    made.note()
    if not show_verified(verified, made.shipped, as_json=as_json):
        raise typer.Exit(ExitCode.REFUSED)


def verify_local(store: LocalStore, key: wire.CheckpointKey | None = None) -> Verified:
    """Verify the ledger of the store itself. Raises ``BrokenChainError``."""
    return _verify_store(store, _Verifiers([], key))


class _Verifiers:
    """Makes the verifier, once it is known by which key; `note` says what that key is worth."""

    def __init__(self, paths: list[Path], key: wire.CheckpointKey | None) -> None:
        self._paths = paths
        self._asked = False
        self.key = key
        self.shipped: ShippedFiles | None = None

    def make(
        self, store_id: str, own: Callable[[], wire.CheckpointKey], *, may_be_cut: bool = False
    ) -> LedgerVerifier:
        """For the store ``store_id``, which says that its key is ``own``."""
        from dox_core_store.server.domain.checkpoint import LedgerVerifier
        from dox_core_store.server.domain.checkpoint_statement import Signatures

        self._asked = self.key is None
        key = self.key or own()
        if key.store_id != store_id:
            raise ConfigurationError(
                "bad_setting",
                f"The checkpoint key is of store {key.store_id!a}, not of {store_id!a}.",
            )
        keys = [_public_key(replace(key, x=x)) for x in (key.x, *key.earlier)]
        if self._paths:
            self.shipped = ShippedFiles(self._paths, Signatures(store_id, keys))
        return LedgerVerifier(
            store_id=store_id,
            checkpoint_key=keys[0],
            earlier_keys=keys[1:],
            may_be_cut=may_be_cut,
            proof=self.shipped,
        )

    def note(self) -> None:
        """Say what proves less than it may seem."""
        if self._asked:
            note(_PROVES_LESS)
        shipped = self.shipped
        if shipped is not None and (shipped.unsigned or shipped.unreadable):
            note(
                f"Of what was shipped, {shipped.unsigned} checkpoints are not signed with this key"
                f" and {shipped.unreadable} lines are no whole entries: they were not used."
            )


def _verify_store(store: LocalStore, made: _Verifiers) -> Verified:
    from dox_core_store.server.bootstrap.ledger_check import check_ledger

    verifier = made.make(store.store_id, lambda: store.checkpoint_key)
    with counting("blocks checked", total=store.inspection.count_blocks()) as step:
        return check_ledger(store.inspection, verifier, step)


def _verify_copy(settings: Settings, made: _Verifiers) -> Verified:
    with needs_server_extra("ledger verify"):
        from dox_core_store.server.bootstrap.ledger_check import check_ledger, copy_of

    copy = copy_of(settings)
    verifier = made.make(copy.store_id, _no_key)
    with counting("blocks checked", total=copy.inspection.count_blocks()) as step:
        return check_ledger(copy.inspection, verifier, step)


async def _verify_remote(client: KeyService, made: _Verifiers) -> Verified:
    given = await client.checkpoint_key()
    verifier = made.make(given.store_id, lambda: given)
    with counting("entries checked") as step:
        line_number = 0
        async for line in client.export_ledger():
            line_number += 1
            _check_line(verifier, line, line_number)
            step(1)
    return verifier.finish()


def _verify_file(path: Path, made: _Verifiers, *, part: bool) -> Verified:
    key = made.key or _key_of_store()
    verifier = made.make(key.store_id, lambda: key, may_be_cut=part)
    try:
        with path.open("rb") as file, counting("bytes checked", total=path.stat().st_size) as step:
            for number, line in enumerate(_lines(file), 1):
                if number == 1:
                    _check_export(path, line)
                _check_line(verifier, line, number)
                step(len(line))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}.") from None
    verified = verifier.finish()
    if made.shipped is None:
        note(_MAY_LACK_ITS_END)
    return verified


def _key_of_store() -> wire.CheckpointKey:
    try:
        return ask(_asked_key)
    except (ConfigurationError, ConnectionFailedError) as error:
        raise type(error)(
            error.code, f"Without --checkpoint-key FILE the store is asked for it: {error.detail}"
        ) from None


async def _asked_key(client: KeyService) -> wire.CheckpointKey:
    return await client.checkpoint_key()


def _no_key() -> wire.CheckpointKey:
    raise AssertionError("a copy is read only where a key was given")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_MOST_LINE_BYTES):
        yield line


def _check_export(path: Path, line: bytes) -> None:
    """Refuse what begins with something else than an entry: it is another file."""
    try:
        wire.decode(wire.LedgerRecord, line)
    except (msgspec.DecodeError, UnicodeError):
        why = "events of OCSF cannot be verified" if _is_ocsf(line) else "line 1 is no entry"
        raise ConfigurationError(
            "bad_setting", f"{path}: this is no ledger export: {why}."
        ) from None


def _is_ocsf(line: bytes) -> bool:
    try:
        return "class_uid" in msgspec.json.decode(line, type=dict)
    except (msgspec.DecodeError, UnicodeError):
        return False


def _check_any(verified: Verified) -> None:
    """A ledger begins with the store itself; one without entries was cut off before the first."""
    from dox_core_store.server.domain.ledger import CHANGES, BrokenChainError

    if not verified.entries:
        raise BrokenChainError(CHANGES, 1, "is missing: there are no entries at all")


def _check_line(verifier: LedgerVerifier, line: bytes, number: int) -> None:
    try:
        verifier.check(wire.decode(wire.LedgerRecord, line))
    except (msgspec.DecodeError, UnicodeError):
        verifier.refuse("line", number, "is not an entry")


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


VERIFY = Command(
    "verify",
    verify,
    "doxstore ledger verify\n"
    "doxstore ledger verify --file ledger.jsonl --checkpoint-key checkpoint-key.json"
    " --checkpoints shipped.jsonl",
    "permission `read the ledger`; with --data or --database the store itself; with --file nothing",
)
