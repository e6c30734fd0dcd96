"""Which keys a command gets, and by which names: ``--env NAME=key.path``, and a map as YAML.

::

    env:                        # variables of the command
      STRIPE_KEY: service_keys.stripe
    files:                      # files, by their names in the folder
      tls/server.pem: certificates.web

A map is read whole or not at all: an unknown field, a name twice, or a name that is none is one
error that says where. What stands to the right of a name is never quoted, for somebody may have
put a value there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from dox_core_store.cli.run_refused import is_refused
from dox_core_store.client.protocol import check_spelling
from dox_core_store.errors import ConfigurationError, InvalidRequestError

__all__ = [
    "Entry",
    "KeyMap",
    "entries_of_options",
    "read_map",
    "to_map",
]

_MAX_BYTES = 1024 * 1024
_MAX_NAME = 128
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FILE_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*", re.ASCII)
_FIELDS = ("env", "files")


class Entry(NamedTuple):
    """One name and the key that it gets. ``place`` says where that was asked for."""

    field: str
    name: str
    key_path: str
    place: str


class KeyMap(NamedTuple):
    """Key paths by the names of variables, and of files."""

    variables: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def key_paths(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys([*self.variables.values(), *self.files.values()]))


def entries_of_options(field: str, pairs: Iterable[str]) -> Iterator[Entry]:
    """The entries of ``NAME=key.path`` as given on a command line."""
    option = {"env": "--env", "files": "--file"}[field]
    for number, pair in enumerate(pairs, start=1):
        name, equals, key_path = pair.partition("=")
        place = f"{option} number {number}"
        if not equals:
            raise _fault(place, "takes NAME=key.path")
        yield Entry(field, name, key_path, place)


def read_map(path: Path) -> list[Entry]:
    """The entries of a map. Raises `ConfigurationError` ``bad_map``."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise _fault(str(path), "is no map: it is over 1 MiB")
        root = yaml.compose(raw.decode(), yaml.SafeLoader)
    except OSError as error:
        raise _fault(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _fault(str(path), "is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = 1 if error.problem_mark is None else error.problem_mark.line + 1
        raise _fault(f"{path}, line {line}", f"is not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise _fault(str(path), "is not YAML") from None
    entries = []
    for field, under in _pairs(path, root, "env: and files:, nothing else"):
        if field.value not in _FIELDS:
            raise _fault(_place(path, field), f"{field.value!a} is neither env nor files")
        for name, key_path in _pairs(path, under, "lines like NAME: key.path"):
            if not isinstance(key_path, yaml.ScalarNode):
                raise _fault(_place(path, key_path), f"{name.value!a} takes one key path")
            entries.append(Entry(field.value, name.value, key_path.value, _place(path, name)))
    return entries


def to_map(entries: Iterable[Entry]) -> KeyMap:
    """``entries`` as one map. Raises `ConfigurationError`: ``bad_map``, ``unsafe_variable``."""
    known: dict[str, dict[str, str]] = {field: {} for field in _FIELDS}
    for field, name, key_path, place in entries:
        if field == "env":
            _check_variable(name, place)
        else:
            _check_file(name, place)
        if name in known[field]:
            raise _fault(place, f"{name} is there twice")
        try:
            known[field][name] = check_spelling(key_path)
        except InvalidRequestError:
            raise _fault(place, f"what {name} is to get is not a key path") from None
    for name in known["files"]:
        parent = next((each for each in known["files"] if name.startswith(f"{each}/")), None)
        if parent is not None:
            raise _fault("files", f"{parent} cannot be a file and the folder of {name}")
    return KeyMap(known["env"], known["files"])


def _check_variable(name: str, place: str) -> None:
    if len(name) > _MAX_NAME or _NAME.fullmatch(name) is None:
        raise _fault(
            place,
            f"{name[:_MAX_NAME]!a} is no name of a variable: A-Z a-z 0-9 _, and no digit first",
        )
    if is_refused(name):
        raise ConfigurationError(
            "unsafe_variable",
            f"{place}: {name} is refused, for it can change what a program executes"
            " or where it finds the store.",
        )


def _check_file(name: str, place: str) -> None:
    segments = name.split("/")
    if len(name) > _MAX_NAME or not all(_FILE_SEGMENT.fullmatch(each) for each in segments):
        raise _fault(
            place,
            f"{name[:_MAX_NAME]!a} is no name of a file in the folder: A-Z a-z 0-9 . _ @ - and /,"
            " and no part of it begins with a dot",
        )


def _pairs(
    path: Path, node: yaml.Node | None, takes: str
) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """The pairs of a mapping, each name once; ``takes`` says which. Nothing at all has none."""
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null")):
        return
    if not isinstance(node, yaml.MappingNode):
        raise _fault(_place(path, node), f"takes {takes}")
    seen = set()
    for name, under in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise _fault(_place(path, name), "a name is a text")
        if name.value in seen:
            raise _fault(_place(path, name), f"{name.value!a} is there twice")
        seen.add(name.value)
        yield name, under


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def _fault(place: str, what: str) -> ConfigurationError:
    return ConfigurationError("bad_map", f"{place}: {what}.")
