"""AWS Secrets Manager as a vault.

A key is a secret, and its current version there is the one with AWSCURRENT; AWS keeps AWSPREVIOUS
in step. AWS's id of a version is ours, so everything may be done again.

**What is not current yet lies apart**, in a secret of its own that no other tool has a reason to
look at, and is copied on promotion. A label like AWSPENDING cannot do that: the first version of a
secret becomes AWSCURRENT whatever labels it was put with, a secret has twenty labels in all, and
AWSPENDING is what their rotation looks for. What was proposed and rejected is thereby really gone.
Versions that are kept beyond those twenty are moved there too, the oldest first.

**Taking away.** AWS cannot delete a version and is never without AWSCURRENT. `withdraw` moves that
label to a version that says so; `erase` takes a version's labels, and AWS deletes it when it sees
fit; the last version goes with the whole secret, which AWS keeps for its recovery window. Entries
with the fields of several keys are never written.

A label that somebody moves back to an older version of ours is no version that we do not know, and
is put right by the next promotion only. Names, places, labels: ``aws_layout.py``, ``aws_place.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from dox_core_store.server.adapters.vaults.address import VaultAddress
from dox_core_store.server.adapters.vaults.aws_apart import AwsApart
from dox_core_store.server.adapters.vaults.aws_client import AwsClient
from dox_core_store.server.adapters.vaults.aws_layout import layout_of
from dox_core_store.server.adapters.vaults.aws_place import (
    APART,
    WITHDRAWN,
    AwsPlace,
    AwsSecret,
    digest_of,
    number_of,
    read_place,
)
from dox_core_store.server.adapters.vaults.aws_promotion import AwsPromotion
from dox_core_store.server.adapters.vaults.aws_reading import AwsReading, currents
from dox_core_store.server.adapters.vaults.aws_removal import AwsRemoval
from dox_core_store.server.adapters.vaults.aws_turn import MAX_BATCH, AwsTurn, pages
from dox_core_store.server.adapters.vaults.aws_value import fields_of, others_of, value_of
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About, Erasure, Held, Home, VaultEntry, VaultHead

__all__ = ["AwsVault"]


class AwsVault:
    """See the `Vault` port. Threads may share one.

    Raises `ConfigurationError` ``bad_setting``; credentials are looked for at the first call.
    """

    def __init__(self, *, address: VaultAddress, timeout_seconds: float) -> None:
        self.name = address.name
        self._layout = layout_of(address)
        self._client = AwsClient(
            region=address.region,
            endpoint=address.option("endpoint"),
            role_arn=address.option("role_arn"),
            timeout_seconds=timeout_seconds,
        )
        self._apart = AwsApart(layout=self._layout)
        self._reading = AwsReading(client=self._client, apart=self._apart)
        self._promotion = AwsPromotion(client=self._client, layout=self._layout, apart=self._apart)
        self._removal = AwsRemoval(
            client=self._client, apart=self._apart, recovery_days=self._layout.recovery_days
        )

    def check(self) -> None:
        """Reads and lists; whether we may write is seen when something is written."""
        turn = self._turn()
        turn.page(self._layout.root, limit=1)
        turn.described(self._layout.apart("0" * 32))

    def store(self, binding: Binding, value: bytes, about: About) -> bytes:
        turn, home = self._turn(), about.home
        name, field = self._layout.target(binding, home)
        place = AwsPlace(
            name=name, version=binding.version_id, digest=digest_of(value), field=field, apart=True
        )
        if home is None or not home.shared:
            secret = turn.described(name)
            self._layout.check_free(secret, binding, home)
            if secret is not None and secret.labels(place.version):
                return msgspec.structs.replace(place, apart=False).written()
        self._apart.put(turn, binding, place.version, value, about)
        return place.written()

    def find(self, binding: Binding) -> bytes | None:
        turn, version = self._turn(), binding.version_id
        name, _ = self._layout.target(binding, None)
        for apart, where in ((True, self._layout.apart(version)), (False, name)):
            answer = turn.at(where, version)
            if answer is not None and answer.get("VersionStages"):
                digest = digest_of(value_of(answer) or b"")
                return AwsPlace(name=name, version=version, digest=digest, apart=apart).written()
        return None

    def open(self, binding: Binding, place: bytes) -> Held:
        del binding  # its version id may be another one's by now: see `Vault.promote`
        return self._reading.opened(self._turn(), read_place(place))

    def open_many(self, wanted: Sequence[tuple[Binding, bytes]]) -> list[Held | None]:
        """As `open`, for many at a time, as at the start of a node: values that are current in AWS
        come twenty in a request. None where one of them is missing or damaged, which `open` says
        in full. Each request has the vault's timeout."""
        return self._reading.many([read_place(place) for _, place in wanted])

    def promote(self, binding: Binding, place: bytes, about: About) -> bytes:
        if about.home is not None and about.home.shared:
            return place
        return self._promotion.promote(binding, read_place(place), about).written()

    def withdraw(self, binding: Binding, place: bytes) -> None:
        del binding
        self._removal.withdraw(read_place(place))

    def erase(self, binding: Binding, place: bytes) -> Erasure:
        del binding
        return self._removal.erase(read_place(place))

    def superseded(self, binding: Binding, place: bytes) -> bool:
        del binding
        return self._reading.changed(self._turn(), read_place(place))

    def head(self, binding: Binding, home: Home | None) -> VaultHead | None:
        name, field = self._layout.target(binding, home)
        answer = self._turn().current(name)
        value = None if answer is None else value_of(answer, field)
        if answer is None or value is None:
            return None
        labels = answer.get("VersionStages") or ()
        if WITHDRAWN in labels and field is None:
            return None
        place = AwsPlace(
            name=name,
            version=answer["VersionId"],
            digest=digest_of(value),
            field=field,
            foreign=not any(number_of(each) is not None for each in labels),
            shared=home is not None and home.shared,
        )
        return VaultHead(place.written(), value)

    def entries(self) -> Iterator[VaultEntry]:
        root = self._layout.root
        for page in pages(self._client, root):
            rest = iter([each for each in page if not each.name.startswith(f"{root}{APART}/")])
            while batch := list(islice(rest, MAX_BATCH)):
                turn = self._turn()
                answers = currents(turn, [each.name for each in batch])
                for secret in batch:
                    names = self._fields(turn, secret, answers.get(secret.name))
                    if names:
                        yield VaultEntry(secret.name.removeprefix(root), names, secret.managed)

    def _turn(self) -> AwsTurn:
        return AwsTurn(self._client)

    def _fields(
        self, turn: AwsTurn, secret: AwsSecret, answer: Mapping[str, Any] | None
    ) -> tuple[str | None, ...]:
        """The names in a secret; none at all where it has no value, or only one that says so."""
        if answer is None or answer.get("VersionId") != secret.current:
            answer = turn.current(secret.name)
        if answer is None:
            return ()
        if WITHDRAWN in (answer.get("VersionStages") or ()):
            return tuple(sorted(others_of(answer, "")))
        return tuple(sorted(fields_of(answer) or ())) or (None,)
