"""What a process was given to open a store with: settings, the environment, and people to ask.

Without ``unseal_with``, in this order: the key file (if one is named, or lies beside the data), the
key services (each asked only where there is a slot of its kind), and then people, if they can be
asked. What is missing or does not answer is passed over as long as something else opens; where
nothing does, the error says all that was tried. With ``unseal_with`` only that way is tried.

A sealed node's ceremony does not go through here: it collects shares by `ShareSet` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.seals.key_file import KeyFileHolder
from dox_core_store.server.adapters.seals.kms import KmsHolder
from dox_core_store.server.adapters.seals.passphrase import PassphraseHolder
from dox_core_store.server.adapters.seals.shares import SharesHolder
from dox_core_store.server.adapters.seals.transit import TransitHolder
from dox_core_store.server.adapters.seals.unlocking import Unlocking
from dox_core_store.server.adapters.sql.custody import Unlock
from dox_core_store.server.domain.seal import SlotKind
from dox_core_store.server.ports import SlotHolder
from dox_core_store.server.settings import Settings

__all__ = ["Ask", "NewHolder", "holder_for", "key_file_of", "unlock_of"]

DEFAULT_KEY_FILE = "root.key"


class Ask(Protocol):
    """A person at a terminal, or lines on stdin: asked for what only people know.

    Raises a `DoxStoreError` where no answer can be had."""

    def passphrase(self) -> Sensitive:
        """The passphrase; empty to go on without."""

    def share(self, label: str, entered: int, needed: int) -> Sensitive:
        """The words of a share of the slot ``label``, of whose shares ``entered`` are there."""

    def refused(self, error: DoxStoreError) -> None:
        """Say what is wrong with the last share. Raises to ask no more."""


class NewHolder(NamedTuple):
    """How a new slot's key is to be held, beyond its kind."""

    key_file: Path | None = None
    passphrase: Callable[[], Sensitive] | None = None
    threshold: int = 2
    shares: int = 3
    transit_key: str = "doxstore"
    transit_mount: str = "transit"
    kms_key: str = ""


def key_file_of(settings: Settings) -> Path:
    """The key-file slot's file; without a setting, beside the data."""
    return Path(settings.key_file or Path(settings.data) / DEFAULT_KEY_FILE)


def unlock_of(settings: Settings, ask: Ask | None, *, only: str | None = None) -> Unlock:
    """The `Unlock` that ``settings`` describe; ``only`` one slot, if its id is given."""
    if settings.unseal_with:
        kind = SlotKind(settings.unseal_with)
        if ask is None and kind in (SlotKind.PASSPHRASE, SlotKind.SHARES):
            raise ConfigurationError(
                "slot_needed", f"Nobody can be asked here for what unseal_with={kind} takes."
            )
        return Unlocking([holder_for(kind, settings, ask)], only=only)
    return Unlocking(list(_at_hand(settings, ask)), only=only)


def holder_for(
    kind: SlotKind, settings: Settings, ask: Ask | None, new: NewHolder | None = None
) -> SlotHolder:
    """The holder of ``kind``; ``new`` says how it makes a slot. Nothing is reached or read yet."""
    new = new or NewHolder()
    asked = ask or _Nobody()
    match kind:
        case SlotKind.KEY_FILE:
            return KeyFileHolder(new.key_file or key_file_of(settings))
        case SlotKind.PASSPHRASE:
            return PassphraseHolder(ask=new.passphrase or asked.passphrase)
        case SlotKind.SHARES:
            return SharesHolder(
                ask=asked.share, refused=asked.refused, threshold=new.threshold, count=new.shares
            )
        case SlotKind.TRANSIT:
            return TransitHolder(
                address=settings.transit_address,
                token_file=settings.transit_token_file,
                namespace=settings.transit_namespace,
                ca_file=settings.transit_ca_file,
                mount=new.transit_mount,
                key=new.transit_key,
            )
        case SlotKind.KMS:
            return KmsHolder(key_id=new.kms_key)


def _at_hand(settings: Settings, ask: Ask | None) -> Iterator[SlotHolder]:
    if settings.key_file or key_file_of(settings).exists():
        yield holder_for(SlotKind.KEY_FILE, settings, ask)
    yield holder_for(SlotKind.TRANSIT, settings, ask)
    yield holder_for(SlotKind.KMS, settings, ask)
    if ask is not None:
        yield holder_for(SlotKind.PASSPHRASE, settings, ask)
        yield holder_for(SlotKind.SHARES, settings, ask)


class _Nobody:
    """The `Ask` of a process that has nobody to ask."""

    def passphrase(self) -> Sensitive:
        raise ConfigurationError("slot_needed", "Nobody can be asked for a passphrase here.")

    def share(self, label: str, entered: int, needed: int) -> Sensitive:  # noqa: ARG002
        raise ConfigurationError("slot_needed", "Nobody can be asked for shares here.")

    def refused(self, error: DoxStoreError) -> None:
        raise error
