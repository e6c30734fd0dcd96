"""The same operations on several stores, and what each made of them: equal, or one is wrong.

`operations` makes up a row of requests from a seed, sensible ones and others, which is the same
for every store. `played` sends them, and tells each answer without what has to differ: ids, times
and tokens. `recorded` tells what the ledger has of each request, in their order, and so also for
nodes that wrote it together. What an entry says of a value that a vault erased afterwards is left
out: it belongs to no request. No key loses its last value: a vault may then keep its name taken
for a while, as AWS does.
"""

# ruff: noqa: PLR2004 - how often what is drawn

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dox_core_store.testing.store_case import ENVIRONMENTS, PREFIX, AskedStore, Told

__all__ = ["KEYS", "Operation", "Played", "current_values", "operations", "played", "recorded"]

KEYS = ("hot", "hot.below", "warm", "cold", "kept")
"""Names under `PREFIX`. What ``kept`` keeps is set, and so it is not imported: a sweeper destroys
what is beyond, at a moment of its own."""

_VALUES = (
    "", "a", "b", "trailing\n", "{}", '{"value": 1}', "\N{GRINNING FACE}\0", "x" * 65_536,
    "x" * 65_537,
)  # fmt: skip
_LATER = "2090-01-01T00:00:00Z"
_FAILED = 400
_ODD_PATHS = (
    "not ok", f"{PREFIX}..x", f"{PREFIX}.none", f"{PREFIX}.none.x", "_store.x", "elsewhere.k",
)  # fmt: skip
_WEIGHTS = {
    "put": 8, "propose": 3, "promote": 4, "rollback": 3, "retire": 2, "revoke": 2, "destroy": 3,
    "expire": 1, "extend": 2, "describe": 1, "import": 2, "get": 8, "odd": 2, "batch": 2,
    "versions": 2, "description": 1, "list": 1, "again": 2,
}  # fmt: skip
_TIMES = frozenset({"created_at", "rotated_at", "expires_at", "touched_at"})
_IDS = re.compile(
    r"\b(?:req|imp|tok|store)_[0-9A-Za-z_]+|conformance-[0-9a-f]{8}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z|[0-9a-f]{32}"
)


class Operation(NamedTuple):
    """One request. ``target`` may name the import that was begun last as ``{import}``; ``again``:
    with the ETag that the same read had before."""

    method: str
    target: str
    body: Any = None
    by_service: bool = False
    again: bool = False

    def __str__(self) -> str:
        shown = re.sub(r"x{20,}", "x…", json.dumps(self.body))
        who = "service" if self.by_service else "operator"
        return f"{self.method} {self.target} {shown} by {who}{' again' if self.again else ''}"


class Played(NamedTuple):
    """``answers``: status, code and body of each operation; ``request_ids`` as the store named
    them."""

    answers: list[tuple[int, str | None, Any]]
    request_ids: list[str]


def operations(seed: int, count: int, root: str) -> list[Operation]:
    """At least ``count`` of them, on keys below ``root``, which lies under `PREFIX`."""
    draw = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    names, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    made: list[Operation] = []
    made += [Operation("PUT", f"/keys/{root}.{key}", {"value": "first"}) for key in KEYS[:-2]]
    for act, value in (("propose", "older"), ("propose", "newer"), ("promote", 3)):
        body = {"value" if act == "propose" else "version": value}
        made.append(Operation("POST", f"/keys/{root}.hot/{act}", body))
    made += [Operation("POST", f"/keys/{root}.hot/{each}", {}) for each in ("revoke", "promote")]
    made.append(Operation("POST", f"/keys/{root}.kept/propose", {"value": "first"}))
    made.append(Operation("POST", f"/keys/{root}.kept/describe", {"keep_versions": 2}))
    while len(made) < count:
        (name,) = draw.choices(names, weights)
        made += _drawn(draw, name, root)
    for key in KEYS:
        for environment in ENVIRONMENTS:
            made.append(Operation("GET", f"/keys/{root}.{key}/versions?environment={environment}"))
            made += [Operation("GET", f"/keys/{root}.{key}.{environment}")]
    return made


def _drawn(draw: random.Random, name: str, root: str) -> Iterator[Operation]:
    key = f"{root}.{draw.choices(KEYS, (6, 2, 3, 1, 0 if name == 'destroy' else 3))[0]}"
    environment = draw.choice((None, None, *ENVIRONMENTS))
    number = draw.choice((None, None, None, None, *range(1, 9)))
    guess = draw.choice((None, None, None, None, None, 0, 1, 2, 3, 4, 5))
    body: dict[str, Any] = {"environment": environment, "reason": draw.choice((None, "why"))}
    suffix = f".{environment}" if environment and draw.random() < 0.5 else ""
    target = f"/keys/{key}{suffix}"
    query = f"?version={number}" if number else ""
    by_service = draw.random() < 0.6
    if name == "get":
        yield Operation("GET", f"{target}{query}", by_service=by_service)
    elif name == "again":
        yield Operation("GET", target, by_service=True)
        yield Operation("GET", target, by_service=True, again=True)
    elif name == "odd":
        path = draw.choice(_ODD_PATHS).replace(" ", "%20")
        yield Operation("GET", f"/keys/{path}", by_service=by_service)
        yield Operation("PUT", f"/keys/{path}", {"value": "odd"}, by_service=True)
    elif name == "batch":
        paths = [f"{root}.{each}" for each in draw.sample(KEYS, 3)] + [draw.choice(_ODD_PATHS)]
        yield Operation("POST", "/keys/batch-get", {"key_paths": paths}, by_service=by_service)
    elif name in ("versions", "description"):
        asked = f"?environment={environment}" if environment else ""
        yield Operation("GET", f"/keys/{key}/{name}{asked}", by_service=draw.random() < 0.1)
    elif name == "list":
        yield Operation("GET", f"/keys?prefix={root}&limit={draw.choice((2, 100))}")
    elif name == "import":
        yield from _import(draw, root)
    elif name == "put":
        body |= {"value": draw.choice(_VALUES), "if_version": guess}
        body |= {"owner": draw.choice((None, "ada")), "expires_at": draw.choice((None, _LATER))}
        yield Operation("PUT", target, body)
    else:
        body |= _ACTS[name](draw, number, guess)
        yield Operation("POST", f"{target}/{name}", body)


def _one_version(_draw: random.Random, number: int | None, _guess: int | None) -> dict[str, Any]:
    return {"version": number}


_ACTS: Mapping[str, Any] = {
    "propose": lambda draw, _number, _guess: {"value": draw.choice(_VALUES)},
    "promote": lambda _draw, number, guess: {"version": number, "if_version": guess},
    "rollback": lambda _draw, number, guess: {"to_version": number, "if_version": guess},
    "retire": _one_version,
    "revoke": _one_version,
    "destroy": lambda _draw, number, _guess: {"version": max(number or 0, 2)},
    "expire": lambda *_: {},
    "extend": lambda draw, *_: {"expires_at": draw.choice((_LATER, "2001-01-01T00:00:00Z"))},
    "describe": lambda draw, *_: {"usage": draw.choice(("is read", ""))},
}
"""What each act takes beside environment and reason."""


def _import(draw: random.Random, root: str) -> Iterator[Operation]:
    yield Operation("POST", "/imports")
    for sequence in range(draw.choice((1, 1, 2))):
        keys = draw.sample(KEYS[:-1], 2)
        entries = [
            {
                "key_path": f"{root}.{key}",
                "environment": draw.choice(ENVIRONMENTS),
                "value": draw.choice(_VALUES if draw.random() < 0.3 else _VALUES[:4]),
            }
            for key in keys
        ]
        body = {"sequence": sequence, "entries": entries}
        yield Operation("POST", "/imports/{import}/entries", body)
    if draw.random() < 0.3:
        yield Operation("PUT", f"/keys/{root}.{keys[0]}", {"value": "meanwhile"})
    yield Operation("GET", f"/keys/{root}.{keys[0]}", by_service=True)
    if draw.random() < 0.8:
        yield Operation("POST", "/imports/{import}/commit", {})
    yield Operation("POST", "/imports/{import}/abort", {})
    yield Operation("GET", f"/keys/{root}.{keys[1]}", by_service=True)


def played(store: AskedStore, row: Iterable[Operation]) -> Played:
    """What ``store`` answers to ``row``."""
    result = Played([], [])
    begun, etags = "", dict[str, str]()
    for each in row:
        body = each.body
        if isinstance(body, dict):
            body = {name: value for name, value in body.items() if value is not None}
        told = store(
            each.method,
            each.target.replace("{import}", begun),
            body,
            token=store.reader if each.by_service else "",
            headers={"If-None-Match": etags.get(each.target, '"none"')} if each.again else None,
        )
        if told.code is None and each.target == "/imports":
            begun = told.json["import_id"]
        etags[each.target] = told.headers.get("etag", '"none"')
        result.request_ids.append(told.headers["x-request-id"])
        result.answers.append((told.status, told.code, _plain(told.json, begun)))
    return result


def _plain(found: Any, begun: str) -> Any:
    """``found`` without what differs from store to store."""
    if isinstance(found, dict):
        return {name: _member(name, each, begun) for name, each in found.items()}
    if isinstance(found, list):
        return [_plain(each, begun) for each in found]
    return found


def _member(name: str, found: Any, begun: str) -> Any:
    if name == "value":
        return found
    if name == "last_read_at":
        return None  # some seconds behind
    if name == "created_by":
        return "somebody"
    if name in _TIMES and found is not None and found != _LATER:
        return "a time"
    if isinstance(found, str):
        return _IDS.sub("…", found.replace(begun, "…") if begun else found)
    return _plain(found, begun)


def recorded(
    entries: Sequence[Mapping[str, Any]], request_ids: Sequence[str]
) -> list[list[tuple[Any, ...]]]:
    """For each request what the ledger has of it: action, status, path, version, reason."""
    by_request = defaultdict(list)
    for each in entries:
        reason = _IDS.sub("…", each["reason"]) if each["reason"] else None
        path = _IDS.sub("…", each["key_path"])
        by_request[each["request_id"]].append(
            (each["action"], each["status"], path, each["environment"], each["version"], reason,
             each["count"])
        )  # fmt: skip
    # A change and a refusal lie in streams of their own, whose entries have no common order.
    return [sorted(by_request[each], key=repr) for each in request_ids]


def current_values(store: AskedStore, root: str) -> dict[tuple[str, str], str | None]:
    """The value of each key that has a current version, by path and environment; None where the
    last one was revoked. Extends lives that ended, which hides no value in a vault."""
    values: dict[tuple[str, str], str | None] = {}
    for row in store("GET", f"/keys?prefix={root}&limit=500").json["items"]:
        where = row["key_path"], row["environment"]
        address = f"/keys/{'.'.join(where)}"
        if row["state"] == "revoked":
            values[where] = None
        elif row["state"] == "current":
            store("POST", f"{address}/extend", {"expires_at": _LATER})
            values[where] = _value(store("GET", address))
    return values


def _value(told: Told) -> str:
    if told.status >= _FAILED:
        raise AssertionError(f"a current version is not to be had: {told.json}")
    return str(told.json["value"])
