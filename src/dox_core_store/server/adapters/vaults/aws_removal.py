"""Taking versions away in Secrets Manager, as far as it lets itself be taken from.

AWS is never without AWSCURRENT and deletes no single version. So a version that is taken away while
it is current leaves that label to one that stands in for it; and one that is erased loses its
labels, by which AWS deletes it when it sees fit. When nothing else in a secret is anybody's, the
secret goes, with the recovery window that people may bring it back in. A secret that others have
fields in is not written.
"""

from __future__ import annotations

from dox_core_store.server.adapters.vaults.aws_apart import AwsApart
from dox_core_store.server.adapters.vaults.aws_client import AwsClient
from dox_core_store.server.adapters.vaults.aws_place import (
    CURRENT,
    PREVIOUS,
    WITHDRAWN,
    AwsPlace,
    AwsSecret,
    withdrawal_of,
)
from dox_core_store.server.adapters.vaults.aws_turn import AwsTurn, settled
from dox_core_store.server.adapters.vaults.aws_value import (
    object_of,
    others_of,
    withdrawn_secret,
)
from dox_core_store.server.ports import Erasure

__all__ = ["AwsRemoval"]


class AwsRemoval:
    """Used from several threads. ``recovery_days`` is how long AWS keeps a deleted secret."""

    def __init__(self, *, client: AwsClient, apart: AwsApart, recovery_days: int) -> None:
        self._client = client
        self._apart = apart
        self._recovery_days = recovery_days

    def withdraw(self, place: AwsPlace) -> None:
        def take(turn: AwsTurn) -> None:
            secret = None if place.shared else turn.described(place.name)
            if secret is None or secret.deleted:
                return
            labels = secret.labels(place.version)
            if CURRENT in labels:
                self._stand_in(turn, secret, place)
            elif PREVIOUS in labels:
                turn.move(place.name, PREVIOUS, source=place.version, target=None)

        settled(self._client, take)

    def erase(self, place: AwsPlace) -> Erasure:
        def take(turn: AwsTurn) -> Erasure:
            self._apart.delete(turn, place.version)
            if place.shared:
                return Erasure.UNLINKED  # others' fields are in it too
            secret = turn.described(place.name)
            if secret is None:
                return Erasure.ERASED
            labels = secret.labels(place.version)
            if secret.deleted or not labels:
                return Erasure.ERASED if place.apart and not labels else Erasure.UNLINKED
            if self._is_last(turn, secret, place):
                turn.delete(place.name, recovery_days=self._recovery_days)
                return Erasure.UNLINKED
            if CURRENT in labels:
                self._stand_in(turn, secret, place)
                labels -= {CURRENT, PREVIOUS}
            for label in labels:
                turn.move(place.name, label, source=place.version, target=None)
            return Erasure.UNLINKED

        return settled(self._client, take)

    def _stand_in(self, turn: AwsTurn, secret: AwsSecret, place: AwsPlace) -> None:
        """AWS is never without AWSCURRENT, so it moves to a version that says why there is none,
        or that has the other fields only; and AWSPREVIOUS, which follows by itself, goes."""
        version = withdrawal_of(place.version)
        if version not in secret.stages:
            now = turn.current(place.name) if place.field else None
            rest = others_of(now, place.field) if place.field else {}
            turn.put(
                place.name, version, object_of(rest) if rest else withdrawn_secret(), WITHDRAWN
            )
        turn.move(place.name, CURRENT, source=place.version, target=version)
        turn.move(place.name, PREVIOUS, source=place.version, target=None)

    def _is_last(self, turn: AwsTurn, secret: AwsSecret, place: AwsPlace) -> bool:
        """Whether nothing else in the secret is anybody's."""
        if not secret.managed or set(secret.numbers.values()) - {place.version}:
            return False
        if secret.current != place.version and WITHDRAWN not in secret.labels(secret.current):
            return False
        return place.field is None or not others_of(turn.current(place.name), place.field)
