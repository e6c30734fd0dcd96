"""Having a version seen in Secrets Manager as the current one.

It looks at the secret first and then does what is missing, so it may be done again from wherever it
stopped: the version goes into the key's secret with a label of ours, then AWSCURRENT moves to it,
then the copy that lay apart goes. A version whose number is below that of one which came before it,
and has not passed since, gets its label only. Moving AWSCURRENT names the version that had it:
where somebody was faster, AWS refuses, and it looks again.
"""

from __future__ import annotations

from typing import Any

from dox_core_store.errors import error_for
from dox_core_store.server.adapters.vaults.aws_apart import AwsApart
from dox_core_store.server.adapters.vaults.aws_client import AwsClient
from dox_core_store.server.adapters.vaults.aws_layout import AwsLayout, description_of
from dox_core_store.server.adapters.vaults.aws_place import (
    CURRENT,
    AwsPlace,
    AwsSecret,
    digest_of,
    label_of,
    number_of,
    tags_of,
)
from dox_core_store.server.adapters.vaults.aws_turn import AwsTurn, settled
from dox_core_store.server.adapters.vaults.aws_value import (
    fields_of,
    object_of,
    others_of,
    secret_of,
    value_of,
)
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About

__all__ = ["AwsPromotion"]


class AwsPromotion:
    """Used from several threads."""

    def __init__(self, *, client: AwsClient, layout: AwsLayout, apart: AwsApart) -> None:
        self._client = client
        self._layout = layout
        self._apart = apart

    def promote(self, binding: Binding, place: AwsPlace, about: About) -> AwsPlace:
        name, field = self._layout.target(binding, about.home)
        lies_there = place.name == name and not place.apart
        version = place.version if lies_there else binding.version_id
        wanted = AwsPlace(name=name, version=version, digest=place.digest, field=field)

        def bring(turn: AwsTurn) -> AwsPlace:
            secret = turn.described(name)
            self._layout.check_free(secret, binding, about.home)
            if secret is None:
                secret = self._create(turn, binding, place, wanted, about)
            if lies_there and not place.foreign and not secret.labels(version):
                return place  # it made room for newer ones, or was erased
            secret = self._label(turn, binding, place, wanted, about, secret)
            highest = max(secret.numbers.keys() - about.passed)
            if highest <= about.number and secret.current != version:
                turn.move(name, CURRENT, source=secret.current, target=version)
            self._describe(turn, binding, about, secret)
            if place.apart:
                self._apart.delete(turn, version)
            return wanted

        return settled(self._client, bring)

    def _create(
        self, turn: AwsTurn, binding: Binding, place: AwsPlace, wanted: AwsPlace, about: About
    ) -> AwsSecret:
        """The key's secret, which AWS shows with its first version as the current one at once."""
        description, tags = description_of(binding, about), tags_of(binding)
        turn.create(
            wanted.name,
            wanted.version,
            self._written(turn, place, wanted, None),
            tags=tags,
            description=description,
            kms_key=self._layout.kms_key,
        )
        stages = {wanted.version: (CURRENT,)}
        return AwsSecret(wanted.name, stages, tags, description, deleted=False)

    def _label(
        self,
        turn: AwsTurn,
        binding: Binding,
        place: AwsPlace,
        wanted: AwsPlace,
        about: About,
        secret: AwsSecret,
    ) -> AwsSecret:
        """The version with a label of ours on it, so that AWS keeps it and we know it again."""
        label = label_of(about.number, binding.version_id)
        if label in secret.labels(wanted.version):
            return secret
        secret = self._with_room(turn, binding, about, wanted, secret)
        if not secret.labels(wanted.version) and (place.apart or place.name != wanted.name):
            turn.put(wanted.name, wanted.version, self._written(turn, place, wanted, secret), label)
        else:
            if turn.at(wanted.name, wanted.version) is None:
                raise error_for("vault_value_missing", f"A version of {wanted.name} is gone.")
            turn.move(wanted.name, label, source=None, target=wanted.version)
        return secret.with_label(wanted.version, label)

    def _with_room(
        self, turn: AwsTurn, binding: Binding, about: About, wanted: AwsPlace, secret: AwsSecret
    ) -> AwsSecret:
        """With room for one more label: our oldest version is copied apart, and loses its own."""
        for version in secret.numbers.values():
            if secret.room > 0:
                break
            if version in (secret.current, wanted.version):
                continue
            answer = turn.at(secret.name, version)
            value = None if answer is None else value_of(answer, wanted.field)
            if value is not None:
                self._apart.put(turn, binding, version, value, about)
            for label in secret.labels(version):
                if number_of(label) is not None:
                    turn.move(secret.name, label, source=version, target=None)
            secret = secret.without(version)
        return secret

    def _written(
        self, turn: AwsTurn, place: AwsPlace, wanted: AwsPlace, secret: AwsSecret | None
    ) -> dict[str, Any]:
        """The value at ``place`` as it is written: beside the other fields, where it is one."""
        if place.apart:
            answer = self._apart.at(turn, place.version)
        else:
            answer = turn.at(place.name, place.version)
        value = value_of(answer, None if place.apart else place.field) if answer else None
        if value is None:
            raise error_for(
                "vault_value_missing",
                f"Version {place.version} of {place.name} is not in AWS any more.",
            )
        if digest_of(value) != place.digest:
            raise error_for(
                "value_damaged", f"Version {place.version} of {place.name} in AWS is another value."
            )
        if wanted.field is None:
            return secret_of(value)
        now = turn.current(wanted.name) if secret is not None else None
        if now is not None and fields_of(now) is None and now.get("SecretString") != "{}":
            raise error_for("vault_conflict", f"{wanted.name} in AWS is no set of fields.")
        try:
            return object_of({**others_of(now, wanted.field), wanted.field: value.decode()})
        except UnicodeDecodeError:
            raise error_for("vault_conflict", "A field in AWS has to be UTF-8 text.") from None

    def _describe(self, turn: AwsTurn, binding: Binding, about: About, secret: AwsSecret) -> None:
        tags, description = tags_of(binding), description_of(binding, about)
        if not tags.items() <= secret.tags.items():
            turn.tag(secret.name, tags)
        # What people wrote on a secret that was adopted stays.
        if about.home is None and secret.description != description:
            turn.describe(secret.name, description)
