"""Opening what lies in Secrets Manager, and telling whether somebody changed it there.

A version is asked for by its id, never by a label. What AWS has as current beside it is looked at
only if the version has not got AWSCURRENT: if that is none of ours and another value, somebody
changed it. A version that has lost its label is one that was erased, unless it lies apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from dox_core_store.errors import DoxStoreError, error_for
from dox_core_store.server.adapters.vaults.aws_apart import AwsApart
from dox_core_store.server.adapters.vaults.aws_client import AwsClient
from dox_core_store.server.adapters.vaults.aws_place import CURRENT, AwsPlace, digest_of
from dox_core_store.server.adapters.vaults.aws_turn import MAX_BATCH, AwsTurn
from dox_core_store.server.adapters.vaults.aws_value import value_of
from dox_core_store.server.ports import Held

__all__ = ["AwsReading", "currents"]

_GONE = frozenset({"vault_value_missing", "value_damaged"})
_NOT_SO = frozenset({"vault_value_missing", "vault_conflict"})


class AwsReading:
    """Used from several threads."""

    def __init__(self, *, client: AwsClient, apart: AwsApart) -> None:
        self._client = client
        self._apart = apart

    def opened(self, turn: AwsTurn, place: AwsPlace) -> Held:
        if place.apart and (answer := self._apart.at(turn, place.version)):
            return Held(_checked(answer, place, None), superseded=False)
        answer = turn.at(place.name, place.version)
        labels = answer.get("VersionStages") or () if answer else ()
        if answer is None or not (labels or place.foreign):
            return self._elsewhere(turn, place)
        value = _checked(answer, place, place.field)
        return Held(value, superseded=CURRENT not in labels and self.changed(turn, place))

    def many(self, places: Sequence[AwsPlace]) -> list[Held | None]:
        """Each as `opened`; None where it is missing or damaged."""
        found: list[Held | None] = []
        rest = iter(places)
        while batch := list(islice(rest, MAX_BATCH)):
            names = sorted({each.name for each in batch if not each.apart})
            answers = currents(AwsTurn(self._client), names) if names else {}
            found += [self._quickly(answers.get(each.name), each) for each in batch]
        return found

    def _elsewhere(self, turn: AwsTurn, place: AwsPlace) -> Held:
        """What AWS has no version of: it made room for newer ones, or it is one that was never
        ours, and what is current by now is the same value."""
        if not place.foreign:
            answer = self._apart.at(turn, place.version)
            if answer is not None:
                changed = self.changed(turn, place)
                return Held(_checked(answer, place, None), superseded=changed)
        elif (answer := turn.current(place.name)) is not None:
            value = value_of(answer, place.field)
            if value is not None and digest_of(value) == place.digest:
                return Held(value, superseded=False)
        raise error_for(
            "vault_value_missing",
            f"AWS has no version {place.version} of {place.name} any more, or has scheduled it for"
            " deletion.",
        )

    def changed(self, turn: AwsTurn, place: AwsPlace) -> bool:
        """Whether what is current in AWS is no version of ours, and has another value."""
        secret = turn.described(place.name)
        if secret is None or secret.deleted:
            if place.apart:
                return False
            raise error_for("vault_value_missing", f"{place.name} is not in AWS any more.")
        if secret.current in (None, place.version) or secret.ours(secret.current):
            return False
        if place.apart and not secret.labels(place.version):
            return False
        answer = turn.current(place.name)
        value = None if answer is None else value_of(answer, place.field)
        return value is None or digest_of(value) != place.digest

    def _quickly(self, answer: Mapping[str, Any] | None, place: AwsPlace) -> Held | None:
        try:
            if answer is None or place.apart or answer.get("VersionId") != place.version:
                return self.opened(AwsTurn(self._client), place)
            return Held(_checked(answer, place, place.field), superseded=False)
        except DoxStoreError as error:
            if error.code not in _GONE:
                raise
            return None


def currents(turn: AwsTurn, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Without what cannot be had so; whoever needs it asks for it alone, and hears why."""
    try:
        return turn.currents(names)
    except DoxStoreError as error:
        if error.code not in _NOT_SO:
            raise
        return {}


def _checked(answer: Mapping[str, Any], place: AwsPlace, field: str | None) -> bytes:
    value = value_of(answer, field)
    if value is None or digest_of(value) != place.digest:
        raise error_for("value_damaged", f"What lies at {place.name} in AWS is another value.")
    return value
