"""What the tests of a vault are made of: keys, refusals, and somebody else at work in the vault."""

# ruff: noqa: S101 - assert is how tests speak

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About, Home

__all__ = ["VaultCase", "VaultTools", "about", "next_version", "refused_as"]


class VaultTools(Protocol):
    """What a person does in the vault with its own tools, past the store."""

    def shows(self, binding: Binding) -> bytes | None:
        """What is current for the key of ``binding``; None if nothing is."""

    def change(self, binding: Binding, value: bytes) -> None:
        """Put ``value`` there as the current one, be there a key of the store already or not."""

    def delete(self, binding: Binding) -> None:
        """Delete what is current there, as one usually does."""

    def recreate(self, binding: Binding, value: bytes) -> None:
        """Delete the key with all its versions, for good, and make it anew with ``value``."""

    def put(self, path: str, fields: Mapping[str, str]) -> None:
        """An entry of ``fields`` at ``path`` (as in `VaultEntry`) that is no store's, or a change
        of the one that is there."""

    def fields(self, path: str) -> Mapping[str, str]:
        """What lies at ``path``."""


def about(number: int, home: Home | None = None) -> About:
    return About(number=number, owner="payments", usage="charges cards", home=home)


def next_version(binding: Binding) -> Binding:
    """The same key, another version."""
    return binding._replace(version_id=secrets.token_hex(16))


@contextmanager
def refused_as(*codes: str) -> Iterator[None]:
    """What is done inside has to raise one of ``codes``."""
    try:
        yield
    except DoxStoreError as error:
        code: str | None = error.code
    else:
        code = None
    assert code in codes, f"{code or 'nothing'} was raised, not {' or '.join(codes)}"


class VaultCase:
    """A class of tests. ``binding`` may be overridden."""

    def binding(self) -> Binding:
        """A version of a key that no other test has."""
        name = secrets.token_hex(6)
        return Binding(
            "sto_conformance", f"conformance.{name}", "production", secrets.token_hex(16)
        )
