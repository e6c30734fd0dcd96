"""The leaves of a nested YAML or JSON file, each with its exact text and its place.

A value here is a secret, so no part of the file may be guessed at. Every scalar is the text that
stands there (``yes``, ``0123`` and ``2025-11-04`` stay as they are); what has no one obvious text
is refused: a key without a value, ``null``, lists, tags, anchors and aliases, a key twice. Quoted
and block scalars are unfolded as YAML defines. Errors name line and column and never quote the
file: where a value is misplaced, what looks like a name is a secret.

Reading is one pass over the parser's events, with bounded depth. Deciding where a leaf goes is
`import_plan`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from dox_core_store.errors import InvalidRequestError
from dox_core_store.sensitive import Sensitive

__all__ = ["MAX_FILE_BYTES", "Leaf", "malformed", "read_leaves"]

MAX_FILE_BYTES = 64 * 1024 * 1024

_MAX_DEPTH = 16  # a key path has at most 8 segments, and --map may shorten what stands in the file
_NULL = frozenset({"", "~", "null", "Null", "NULL"})  # YAML 1.2, 10.3.2
_TEXT_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_MAP_TAGS = frozenset({None, "!", "tag:yaml.org,2002:map"})
_BREAKS = re.compile("[\x85\u2028\u2029]")
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB]..)\\u([dD][c-fC-F]..)|.)", re.DOTALL)

# libyaml: ten times faster, and its messages are fixed texts. PyYAML's own quote the file.
_COMPILED = yaml.__with_libyaml__
_LOADER: Any = yaml.CSafeLoader if _COMPILED else yaml.SafeLoader


class Leaf(NamedTuple):
    """One value: the names above it, joined by dots, and where its own name stands (from 1)."""

    path: str
    value: Sensitive
    line: int
    column: int


def read_leaves(raw: bytes, *, is_json: bool = False) -> Iterator[Leaf]:
    """The leaves of the file in its order. Raises `InvalidRequestError` ``malformed_import``."""
    text = _text(raw)
    if is_json:  # which writes a character beyond U+FFFF as two escapes; YAML as one
        text = _JSON_ESCAPE.sub(_one_escape, text)
    walk = _Walk()
    fault: InvalidRequestError | None = None
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            leaf = walk.step(event)
            if leaf is not None:
                yield leaf
    except yaml.YAMLError as error:
        fault = _unreadable(error, text)
    if fault is not None:  # not chained: the parser's error carries the file's text
        raise fault


def malformed(line: int, column: int, why: str) -> InvalidRequestError:
    """The error about one place in the file."""
    return InvalidRequestError("malformed_import", f"Line {line}, column {column}: {why}.")


class _Walk:
    """What is open at one point of the file: names, and which names each mapping has had."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._seen: list[set[str]] = []
        self._key: tuple[int, int] | None = None
        self._documents = 0

    def step(self, event: Any) -> Leaf | None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if getattr(event, "anchor", None) is not None:  # aliases included
            raise malformed(line, column, "anchors and aliases are not read, repeat the text")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line, column)
        if isinstance(event, yaml.MappingStartEvent):
            self._open(event, line, column)
        elif isinstance(event, yaml.MappingEndEvent):
            self._close()
        elif isinstance(event, yaml.SequenceStartEvent):
            raise malformed(line, column, "lists are not read, give each value a name")
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise malformed(line, column, "one file is one document")
        return None

    def _open(self, event: Any, line: int, column: int) -> None:
        if event.tag not in _MAP_TAGS:
            raise malformed(line, column, "tags are not read")
        if self._seen and self._key is None:
            raise malformed(line, column, "a name is a text, not a mapping")
        if len(self._seen) >= _MAX_DEPTH:
            raise malformed(line, column, f"more than {_MAX_DEPTH} levels")
        self._seen.append(set())
        self._key = None

    def _close(self) -> None:
        self._seen.pop()
        if self._names:
            self._names.pop()

    def _scalar(self, event: Any, line: int, column: int) -> Leaf | None:
        text: str = event.value
        if not self._seen:
            raise malformed(line, column, "the file has to be a mapping of names to values")
        if event.tag not in _TEXT_TAGS:
            raise malformed(line, column, "tags are not read, only the text itself")
        if self._key is None:
            if text in self._seen[-1]:
                raise malformed(line, column, "the same name stands in this mapping already")
            self._seen[-1].add(text)
            self._names.append(text)
            self._key = (line, column)
            return None
        if event.style in (None, "") and text in _NULL:
            raise malformed(*self._key, 'no value (an empty one is written "")')
        leaf = Leaf(".".join(self._names), Sensitive(text), *self._key)
        self._names.pop()
        self._key = None
        return leaf


def _text(raw: bytes) -> str:
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidRequestError("malformed_import", "The file is over 64 MiB. Split it.")
    place = None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place(raw[: error.start].decode("utf-8", "replace"))
    if place is not None:
        raise malformed(*place, "not UTF-8")
    found = _BREAKS.search(text)
    if found is not None:
        # YAML 1.1 takes them for the end of a line, JSON and YAML 1.2 for part of the value.
        raise malformed(
            *_place(text[: found.start()]),
            f"write this character as \\u{ord(found.group()):04x} in double quotes",
        )
    return text


def _one_escape(found: re.Match[str]) -> str:
    high, low = found.group(1, 2)
    if high is None:
        return found.group()
    try:
        units = bytes.fromhex(high + low)
    except ValueError:  # no escape at all: for the parser to refuse
        return found.group()
    return f"\\U{ord(units.decode('utf-16-be')):08x}"


def _unreadable(error: yaml.YAMLError, text: str) -> InvalidRequestError:
    if isinstance(error, yaml.reader.ReaderError):
        return malformed(*_place(_before(error, text)), "control characters are written as escapes")
    mark = getattr(error, "problem_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    why = getattr(error, "problem", None) if _COMPILED else None
    return malformed(line, column, f"not YAML ({why})" if why else "not YAML")


def _before(error: Any, text: str) -> str:
    """What stands before the character that the reader refused; libyaml counts bytes."""
    if _COMPILED:
        return text.encode()[: error.position].decode("utf-8", "replace")
    return text[: error.position]


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
