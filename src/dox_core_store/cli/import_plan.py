"""Where the leaves of a file go: the plan of an import. Pure; reads and sends nothing.

For each leaf, in this order: ``--map FROM=TO`` renames the longest prefix that matches; a leaf that
was not renamed and stands in a declared category under ``service_keys`` is lifted to the top; a
last segment that is a declared environment selects it, any other leaf goes to ``--environment``.
Two leaves at one address, or names that differ only in case, are errors. Each decision that is not
plain from the file is a note of the plan. No note and no error quotes a value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dox_core_store.cli.import_tree import Leaf, malformed
from dox_core_store.errors import InvalidRequestError, PayloadTooLargeError
from dox_core_store.key_path import KeyAddress, fold, prefixes, split_environment
from dox_core_store.sensitive import Sensitive

__all__ = ["CATEGORIES", "Note", "Plan", "PlannedKey", "parse_renames", "plan_import"]

CATEGORIES = (
    "database_connections",
    "external_apis",
    "service_keys",
    "third_party_integrations",
)
"""The categories that are declared, from the section "Key Categories & Standards" of the product
page. Its block of stored keys nests the others under ``service_keys``, while its code reads
``external_apis.google_services.maps_api``: hence the lifting."""

_OUTER = "service_keys"
_MAX_VALUE_BYTES = 64 * 1024


class PlannedKey(NamedTuple):
    """One value on its way, and the line of the file it comes from."""

    key_path: str
    environment: str
    value: Sensitive
    line: int


class Note(NamedTuple):
    """What the plan says besides the keys. ``kind``: ``lifted``, ``mapped`` or ``warning``."""

    kind: str
    text: str


class Plan(NamedTuple):
    """What an import will send, in the file's order."""

    keys: list[PlannedKey]
    notes: list[Note]


def parse_renames(options: Sequence[str]) -> dict[str, str]:
    """``FROM=TO`` of each ``--map``. Raises ``invalid_parameter``, ``malformed_path``."""
    renames: dict[str, str] = {}
    for option in options:
        source, equals, target = option.partition("=")
        if not equals or not source or not target or source in renames:
            raise InvalidRequestError(
                "invalid_parameter",
                "--map takes FROM=TO, with a key path as TO and each FROM once.",
            )
        split_environment(target, ())  # FROM may be anything: names that are no path get one here
        renames[source] = target
    return renames


def plan_import(
    leaves: Iterable[Leaf],
    *,
    environments: Collection[str],
    environment: str,
    renames: Mapping[str, str],
) -> Plan:
    """The plan for ``leaves``, in a store that has ``environments``.

    Raises ``unknown_environment``, ``invalid_parameter`` (a rename that renames nothing),
    ``malformed_import``, ``value_too_large``.
    """
    if environment not in environments:
        raise InvalidRequestError(
            "unknown_environment", f"Environment {environment!a} is not declared."
        )
    placing = _Placing(environments, environment, renames)
    keys = [placing.place(leaf) for leaf in leaves]
    if not keys:
        raise InvalidRequestError("malformed_import", "The file holds no keys.")
    unused = [source for source in renames if source not in placing.used]
    if unused:
        raise InvalidRequestError(
            "invalid_parameter", f"--map {unused[0]}=… names nothing in the file."
        )
    return Plan(keys, placing.notes())


class _Placing:
    """Gives each leaf its address, and remembers what it decided and what is taken."""

    def __init__(
        self, environments: Collection[str], environment: str, renames: Mapping[str, str]
    ) -> None:
        self._environments = environments
        self._environment = environment
        self._renames = renames
        self.used: set[str] = set()
        self._notes: dict[Note, None] = {}
        self._lines: dict[KeyAddress, int] = {}
        self._spellings: dict[str, tuple[str, int]] = {}

    def notes(self) -> list[Note]:
        return list(self._notes)

    def place(self, leaf: Leaf) -> PlannedKey:
        text = self._renamed(leaf.path)
        fault = ""
        try:
            path, suffix = split_environment(text, self._environments)
        except InvalidRequestError:
            # Its own words quote the path, which may hold a misplaced value.
            fault = (
                "the names down to here make no key path (1 to 8 segments of A-Z a-z 0-9 _ -,"
                " 64 characters each; an environment only at the end, in lower case)"
            )
        if fault:
            raise malformed(leaf.line, leaf.column, fault)
        address = KeyAddress(path, suffix or self._environment)
        self._claim(address, leaf)
        self._examine(address, leaf)
        return PlannedKey(*address, leaf.value, leaf.line)

    def _renamed(self, path: str) -> str:
        for source in reversed(prefixes(path)) if self._renames else ():
            target = self._renames.get(source)
            if target is not None:
                self.used.add(source)
                self._note("mapped", f"{source} becomes {target}")
                return target + path[len(source) :]
        outer, _, inner = path.partition(".")
        category = inner.partition(".")[0]
        if outer == _OUTER and category != _OUTER and category in CATEGORIES:
            self._note("lifted", f"{_OUTER}.{category} becomes {category}, a declared category")
            return inner
        return path

    def _claim(self, address: KeyAddress, leaf: Leaf) -> None:
        if address in self._lines:
            line = self._lines[address]
            raise malformed(leaf.line, leaf.column, f"{address} stands in line {line} already")
        self._lines[address] = leaf.line
        for prefix in prefixes(address.path):
            spelling, first = self._spellings.setdefault(fold(prefix), (prefix, leaf.line))
            if spelling != prefix:
                raise malformed(
                    leaf.line,
                    leaf.column,
                    f"{prefix} differs from {spelling} in line {first} only in case",
                )

    def _examine(self, address: KeyAddress, leaf: Leaf) -> None:
        value = leaf.value.reveal()
        if len(value.encode("utf-8", "surrogatepass")) > _MAX_VALUE_BYTES:
            raise PayloadTooLargeError(
                "value_too_large",
                f"Line {leaf.line}, column {leaf.column}: a value is at most 64 KiB of UTF-8.",
            )
        if value.endswith("\n"):
            self._note(
                "warning", f"line {leaf.line}: the value ends with a line break (|- has none)"
            )
        for segment in address.path.split(".")[:-1]:
            if segment in self._environments:
                why = "is no environment there, only at the end of a path"
                self._note("warning", f"line {leaf.line}: {segment} {why}")

    def _note(self, kind: str, text: str) -> None:
        self._notes[Note(kind, text)] = None
