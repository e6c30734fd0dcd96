"""What would change an answer of the door: commands that can be pasted as they are.

Each says what it does. They are proposals, in the order of the steps that they concern: whether
somebody should have a key is for people to decide.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Effect, GrantRecord, ServiceRecord

__all__ = ["Remedies", "Remedy", "removal"]


class Remedy(NamedTuple):
    """``command`` is None where there is none to paste."""

    command: str | None
    effect: str


def removal(grant: GrantRecord) -> str:
    """The command that takes ``grant`` back."""
    return f"doxstore grant remove {grant.grant_id}"


class Remedies:
    """Gathers what would change the answer for one service and one key."""

    def __init__(self, service: str, address: KeyAddress) -> None:
        self._service = service
        self._key = f"{shlex.quote(address.path)} -e {shlex.quote(address.environment)}"
        self._environment = shlex.quote(address.environment)
        self._is_misspelled = False
        self.all: list[Remedy] = []

    def register(self) -> None:
        self._add(f"service register {self._service}", "registers the service")

    def issue(self) -> None:
        self._add(f"token issue {self._service} -e {self._environment}", "makes a token for it")

    def limit(self, record: ServiceRecord) -> None:
        command = f"service limit {self._service} {record.limit_count * 2}/{_unit(record)}"
        self._add(command, "doubles its limit; or wait")

    def key_limit(self) -> None:
        self._add(f"key limit {self._key} --none", "takes the key's own limit away; or wait")

    def environment(self) -> None:
        self._add(f"env add {self._environment}", "declares the environment")

    def remove(self, denies: Sequence[GrantRecord]) -> None:
        for grant in denies:
            self.all.append(Remedy(removal(grant), f"takes the deny on {grant.pattern} away"))

    def spell(self, pattern: str) -> None:
        """Nothing is proposed to be made under a spelling that is a mistake."""
        self._is_misspelled = True
        self.all.append(Remedy(None, f"ask for {pattern}, as granted: case counts"))

    def grant(self) -> None:
        if self._is_misspelled:
            return
        self._add(f"grant add {self._service} {self._key}", "allows this key, and no other")

    def take_away(self, matching: Sequence[GrantRecord]) -> None:
        """What would refuse it: the only grant removed, or a deny where several allow."""
        allows = [grant for grant in matching if grant.effect is Effect.ALLOW]
        if len(allows) == 1:
            self.all.append(Remedy(removal(allows[0]), "takes it away: no other grant names it"))
        else:
            self._add(f"grant add {self._service} {self._key} --deny", "forbids it over all grants")

    def put(self) -> None:
        if self._is_misspelled:
            return
        self._add(f"key put {self._key}", "stores a new version")

    def promote(self) -> None:
        self._add(f"key promote {self._key}", "makes the pending version current")

    def extend(self) -> None:
        self._add(f"key extend {self._key} --for 30d", "lets it live on, if it is still good")

    def roll_back(self) -> None:
        self._add(f"key rollback {self._key}", "makes a new version with an earlier value")

    def of_code(self, code: str, remedy: str) -> None:
        """What to do about a state of the store, in the words of its error."""
        self.all.append(Remedy(None, f"{code}: {remedy}" if code else remedy))

    def _add(self, command: str, effect: str) -> None:
        self.all.append(Remedy(f"doxstore {command}", effect))


def _unit(record: ServiceRecord) -> str:
    return {1: "s", 60: "min", 3600: "h"}[record.limit_period_seconds]
