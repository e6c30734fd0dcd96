"""Names, places and labels in Secrets Manager: what of it is ours, told without reading a value.

A *place* is where the catalog finds a version: name, AWS's version id, field and the digest of the
value. A version that is not the key's current one yet lies *apart*, in a secret of its own
(``aws.py`` says why); its place names the secret that it is for. *Foreign* is a version that
somebody else made, and *shared* a secret whose other fields are not the key's.

Each version of ours has the staging label ``doxstore-NUMBER-XXXXXXXX``, by the number of the
version and the first digits of its id. AWS deletes versions without labels, and allows
`MAX_LABELS` on all versions of a secret together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from dox_core_store.errors import error_for
from dox_core_store.server.domain.envelope import Binding

__all__ = [
    "APART",
    "CURRENT",
    "MAX_LABELS",
    "PREVIOUS",
    "WITHDRAWN",
    "AwsPlace",
    "AwsSecret",
    "digest_of",
    "label_of",
    "number_of",
    "read_place",
    "tags_of",
    "withdrawal_of",
]

CURRENT = "AWSCURRENT"
PREVIOUS = "AWSPREVIOUS"
WITHDRAWN = "doxstore-withdrawn"
"""On the version that stands in for one that was revoked while it was current."""
APART = ".versions"
"""Below the prefix. No environment begins with a dot, so no key's name comes to lie there."""
MAX_LABELS = 20
"""https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html"""

_RESERVED = frozenset({CURRENT, PREVIOUS, "AWSPENDING", WITHDRAWN})
_LABEL = re.compile(r"doxstore-([0-9]{1,18})-[0-9a-f]{8}", re.ASCII)
_TOKEN_CHARACTERS = 32


class AwsPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a version lies. ``digest`` is the SHA-256 of the value, hex: the catalog keeps places
    sealed."""

    name: str
    version: str
    digest: str
    field: str | None = None
    apart: bool = False
    foreign: bool = False
    shared: bool = False

    def written(self) -> bytes:
        return msgspec.json.encode(self)


class AwsSecret(NamedTuple):
    """A secret as `DescribeSecret` and `ListSecrets` show it. ``stages`` has the labels of each
    version that has any."""

    name: str
    stages: Mapping[str, Collection[str]]
    tags: Mapping[str, str]
    description: str
    deleted: bool

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> AwsSecret:
        stages = answer.get("VersionIdsToStages") or answer.get("SecretVersionsToStages") or {}
        return cls(
            name=answer["Name"],
            stages={version: tuple(labels) for version, labels in stages.items() if labels},
            tags={each["Key"]: each.get("Value", "") for each in answer.get("Tags") or ()},
            description=answer.get("Description") or "",
            deleted=answer.get("DeletedDate") is not None,
        )

    @property
    def current(self) -> str | None:
        """The version that everybody is shown."""
        return next((each for each, labels in self.stages.items() if CURRENT in labels), None)

    @property
    def managed(self) -> bool:
        return self.tags.get("doxstore:managed") == "true"

    @property
    def numbers(self) -> dict[int, str]:
        """The versions that have a label of ours, by their numbers; the lowest comes first."""
        found = {
            number: version
            for version, labels in self.stages.items()
            for label in labels
            if (number := number_of(label)) is not None
        }
        return dict(sorted(found.items()))

    @property
    def room(self) -> int:
        """For how many more labels of ours there is room, beside AWS's own and other people's."""
        labels = [label for each in self.stages.values() for label in each]
        return MAX_LABELS - len(_RESERVED) - len([each for each in labels if each not in _RESERVED])

    def labels(self, version: str | None) -> frozenset[str]:
        return frozenset(self.stages.get(version or "", ()))

    def with_label(self, version: str, *labels: str) -> AwsSecret:
        """As it is once ``labels`` are at ``version``."""
        return self._replace(
            stages={**self.stages, version: (*self.stages.get(version, ()), *labels)}
        )

    def without(self, version: str) -> AwsSecret:
        """As it is once ``version`` has no label."""
        return self._replace(
            stages={each: labels for each, labels in self.stages.items() if each != version}
        )

    def ours(self, version: str | None) -> bool:
        """Whether ``version`` was made current by a store."""
        labels = self.labels(version)
        return any(each == WITHDRAWN or number_of(each) is not None for each in labels)


def read_place(place: bytes) -> AwsPlace:
    """Raises `InternalError` ``value_damaged``."""
    try:
        return msgspec.json.decode(place, type=AwsPlace)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise error_for("value_damaged", "This is no place in AWS Secrets Manager.") from None


def label_of(number: int, version_id: str) -> str:
    return f"doxstore-{number}-{version_id[:8]}"


def number_of(label: str) -> int | None:
    found = _LABEL.fullmatch(label)
    return int(found[1]) if found else None


def tags_of(binding: Binding) -> dict[str, str]:
    """What says whose a secret is. Grammars of keys and stores are within what AWS allows."""
    return {
        "doxstore:store": binding.store_id,
        "doxstore:key": binding.key_path,
        "doxstore:environment": binding.environment,
        "doxstore:managed": "true",
    }


def withdrawal_of(version: str) -> str:
    """The id of the version that stands in for ``version``: always the same one."""
    return hashlib.sha256(f"withdrawn {version}".encode()).hexdigest()[:_TOKEN_CHARACTERS]


def digest_of(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
