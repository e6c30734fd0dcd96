"""Versions that lie apart: secrets of their own, for what is not a key's current version.

Each holds one version, under its id, and says by its tags whose it is. A value that is a field of
an entry lies here by itself.
"""

from __future__ import annotations

from typing import Any

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.vaults.aws_layout import AwsLayout, description_of
from dox_core_store.server.adapters.vaults.aws_place import tags_of
from dox_core_store.server.adapters.vaults.aws_turn import AwsTurn
from dox_core_store.server.adapters.vaults.aws_value import secret_of
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About

__all__ = ["AwsApart"]


class AwsApart:
    """Used from several threads."""

    def __init__(self, *, layout: AwsLayout) -> None:
        self._layout = layout

    def put(
        self, turn: AwsTurn, binding: Binding, version: str, value: bytes, about: About
    ) -> None:
        """Raises ``value_too_large``; ``vault_conflict`` where ``version`` has another value."""
        turn.create(
            self._layout.apart(version),
            version,
            secret_of(value),
            tags=tags_of(binding),
            description=f"Not current: {description_of(binding, about)}",
            kms_key=self._layout.kms_key,
        )

    def at(self, turn: AwsTurn, version: str) -> dict[str, Any] | None:
        """What AWS answers, which is never a set of fields."""
        return turn.at(self._layout.apart(version), version)

    def delete(self, turn: AwsTurn, version: str) -> None:
        """For good: it is a copy, or was never anybody's. Where that is forbidden, as soon as AWS
        allows."""
        name = self._layout.apart(version)
        try:
            turn.delete(name, recovery_days=None)
        except DoxStoreError as error:
            if error.code != "vault_refused":
                raise
            turn.delete(name, recovery_days=self._layout.recovery_days)
