"""One thing that a vault is told of one version, and how a version is taken away there.

Whoever keeps the vault sees in it what is current. So a version that ended is taken away as the
newest one of its key: with it goes what is shown, and what was current before it does not come
back. Every step may be repeated.
"""

from __future__ import annotations

from typing import NamedTuple

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.vault_task import VaultTaskRecord
from dox_core_store.server.ports import About, Erasure, Vault

__all__ = ["GONE", "Done", "Step", "erased", "withdrawn"]

GONE = frozenset({"vault_value_missing", "value_damaged"})
"""What a vault says of a value that is not there to be told of."""


class Step(NamedTuple):
    """One task, ready to be carried out. ``sealed`` is the place, None where it has to be found
    first; ``about`` is None where the vault is not asked; ``is_head``: no other version is the
    key's current one."""

    task: VaultTaskRecord
    binding: Binding
    sealed: bytes | None
    about: About | None
    is_head: bool = False


class Done(NamedTuple):
    """``moved`` says from where to where promoting took a value; ``erasure`` what became of one
    that was to be erased, None if there was none."""

    step: Step
    moved: tuple[bytes, bytes] | None = None
    erasure: Erasure | None = None


def withdrawn(vault: Vault, step: Step, place: bytes, about: About) -> bytes:
    """Hide a version; where it lies from now on."""
    to = _last(vault, step, place, about)
    vault.withdraw(step.binding, to)
    return to


def erased(vault: Vault, step: Step, place: bytes | None, about: About) -> Erasure | None:
    """Erase a version, which has to be found where ``place`` is None; None if there is none."""
    found = place or vault.find(step.binding)
    return None if found is None else vault.erase(step.binding, _last(vault, step, found, about))


def _last(vault: Vault, step: Step, place: bytes, about: About) -> bytes:
    """Where a version lies that is to be taken away, with nothing in front of it. One that ended
    before the vault heard that it had become current is told so first: or what was current before
    it would be shown on."""
    if not step.is_head:
        return place
    try:
        return vault.promote(step.binding, place, about)
    except DoxStoreError as error:
        if error.code not in GONE | {"vault_conflict"}:
            raise
        return place
