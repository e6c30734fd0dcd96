"""Which secret a key lies in, and which secrets are not to be touched.

::

    PREFIX/ENVIRONMENT/PATH       the key, with / for each dot; an adopted one stays in its home
    PREFIX/.versions/VERSION_ID   one version that is not the key's current one, apart

A secret is a key's if its tags say so, or if it is the key's home and no store's yet. A name that
is taken by anything else, or is scheduled for deletion, is a conflict: AWS would let us write
there in some cases, and never should we.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dox_core_store.errors import ConfigurationError, error_for
from dox_core_store.server.adapters.vaults.address import VaultAddress
from dox_core_store.server.adapters.vaults.aws_place import APART, AwsSecret, tags_of
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About, Home

__all__ = ["AwsLayout", "description_of", "layout_of"]

_MAX_PREFIX = 200
"""A name has 512 characters at most; a path has 256, an environment 32."""
_MIN_DAYS, _MAX_DAYS = 7, 30
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,576}", re.ASCII)


class AwsLayout(NamedTuple):
    """``kms_key`` may be empty: AWS's own key for the account."""

    prefix: str
    kms_key: str
    recovery_days: int

    @property
    def root(self) -> str:
        """What all names begin with."""
        return f"{self.prefix}/" if self.prefix else ""

    def target(self, binding: Binding, home: Home | None) -> tuple[str, str | None]:
        """The secret of a key, and which field of it."""
        if home is not None:
            return f"{self.root}{home.path}", home.field
        return f"{self.root}{binding.environment}/{binding.key_path.replace('.', '/')}", None

    def apart(self, version: str) -> str:
        return f"{self.root}{APART}/{version}"

    def check_free(self, secret: AwsSecret | None, binding: Binding, home: Home | None) -> None:
        """Raises `ConflictError` ``vault_conflict``."""
        if secret is None:
            return
        if secret.deleted:
            raise error_for(
                "vault_conflict",
                f"{secret.name} is scheduled for deletion in AWS: wait until that is over, or take"
                " it back with `aws secretsmanager restore-secret`.",
            )
        if tags_of(binding).items() <= secret.tags.items():
            return
        if home is None or secret.managed:
            whose = "another key's" if secret.managed else "no store's"
            raise error_for("vault_conflict", f"{secret.name} in AWS is {whose}.")


def layout_of(address: VaultAddress) -> AwsLayout:
    """Raises `ConfigurationError` ``bad_setting``."""
    days = address.option("recovery_days", str(_MIN_DAYS))
    if not (days.isascii() and days.isdigit() and _MIN_DAYS <= int(days[:4]) <= _MAX_DAYS):
        raise _bad(f"recovery_days from {_MIN_DAYS} to {_MAX_DAYS}, not {days[:40]!a}")
    if len(address.prefix) > _MAX_PREFIX:
        raise _bad(f"a prefix of {_MAX_PREFIX} characters")
    role = address.option("role_arn")
    if role and _ROLE.fullmatch(role) is None:
        raise _bad(f"role_arn=arn:aws:iam::ACCOUNT:role/NAME, not {role[:40]!a}")
    return AwsLayout(address.prefix, address.option("kms_key"), int(days))


def description_of(binding: Binding, about: About) -> str:
    """What people read in AWS. Not encrypted there, and so without anything of the value."""
    said = [f"{binding.key_path} ({binding.environment}), kept by dox-core-store."]
    said += [f"Owner: {about.owner}."] if about.owner else []
    said += [f"Usage: {about.usage}"] if about.usage else []
    return " ".join(said)


def _bad(takes: str) -> ConfigurationError:
    return ConfigurationError("bad_setting", f"A vault at aws:// takes {takes}.")
