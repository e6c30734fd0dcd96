"""The folder of an example platform: ``keys.yaml`` and ``platform.yaml``, and where one is found.

``examples/pact_platform/`` exists once, in the repository. A wheel carries a copy of its two files
beside this module; a source checkout (an editable install) has none here, so the repository's own
are read. The current directory is not looked at: what a developer's store holds should not depend
on where it was started. ``--example DIR`` names another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from dox_core_store import wire
from dox_core_store.cli.import_plan import plan_import
from dox_core_store.cli.import_tree import read_leaves
from dox_core_store.errors import ConfigurationError

__all__ = ["Platform", "PlatformService", "find_example", "read_keys", "read_platform"]

_HERE = Path(__file__).parent
_PLACES = (_HERE / "pact_platform", _HERE.parents[2] / "examples" / "pact_platform")


class PlatformService(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service: what it is for, where it runs, and all that it may read."""

    description: str = ""
    environment: str = "production"
    may_read: list[str]


class Platform(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``platform.yaml``. ``token_for`` names the service whose token ``dev.env`` holds."""

    token_for: str
    services: dict[str, PlatformService]

    def requests(self) -> list[wire.ServiceRequest]:
        """The registrations, that of ``token_for`` last."""
        ordered = sorted(self.services.items(), key=lambda each: each[0] == self.token_for)
        return [
            wire.ServiceRequest(
                service_name=name,
                description=service.description,
                required_keys=service.may_read,
                environment=service.environment,
            )
            for name, service in ordered
        ]


def find_example(given: Path | None) -> Path:
    """The folder of the example platform. Raises `ConfigurationError` ``bad_setting``."""
    for folder in _PLACES if given is None else (given,):
        if (folder / "platform.yaml").is_file() and (folder / "keys.yaml").is_file():
            return folder
    raise ConfigurationError(
        "bad_setting",
        "No example platform is installed. Name one with --example."
        if given is None
        else f"{given} holds no example platform: platform.yaml and keys.yaml.",
    )


def read_platform(folder: Path) -> Platform:
    """``platform.yaml`` in ``folder``. Raises `ConfigurationError` ``bad_setting``."""
    path = folder / "platform.yaml"
    fault: str
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        platform = msgspec.convert(content, Platform)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        fault = " ".join(str(error).split())
    else:
        if platform.token_for in platform.services:
            return platform
        fault = "token_for names none of its services"
    raise ConfigurationError("bad_setting", f"{path} is unusable: {fault}.")


def read_keys(folder: Path, *, environments: frozenset[str]) -> list[wire.ImportEntry]:
    """What ``keys.yaml`` in ``folder`` stores. Raises as `plan_import`."""
    plan = plan_import(
        read_leaves((folder / "keys.yaml").read_bytes()),
        environments=environments,
        environment="production",
        renames={},
    )
    return [
        wire.ImportEntry(key_path=key.key_path, environment=key.environment, value=key.value)
        for key in plan.keys
    ]
