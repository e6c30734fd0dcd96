"""What the tests of a whole store are made of: somebody who asks it over HTTP.

Nothing of the server is imported or reached past its API, so a store is tested as what it is to
whoever uses it: a process, or several that are one store.
"""

# ruff: noqa: S101 - assert is how tests speak

from __future__ import annotations

import http.client
import itertools
import json as json_module
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

__all__ = ["ENVIRONMENTS", "PREFIX", "AskedStore", "StoreCase", "Told", "until"]

ENVIRONMENTS = ("production", "staging")
"""Which the tests use: two that every store declares."""

PREFIX = "conformance"
"""What all keys of the tests lie under."""

_TIMEOUT_SECONDS = 60
_PATIENCE_SECONDS = 30
_PAUSE_SECONDS = 0.1

Found = TypeVar("Found")


def until(look: Callable[[], Found], holds: Callable[[Found], bool]) -> Found:
    """What is found once it is as it should be; after half a minute, what is found then."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds(found := look()) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    return found


class Told(NamedTuple):
    """One answer; header names in lower case. ``json`` is None where there is no body."""

    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def code(self) -> str | None:
        """The code of a problem, else None."""
        return self.json.get("code") if isinstance(self.json, dict) else None

    @property
    def said(self) -> str:
        """The value, or the code of why there is none."""
        return str(self.json["value"] if self.status == 200 else self.json["code"])  # noqa: PLR2004


class AskedStore:
    """A running store. ``urls``: its nodes, asked in turn. ``token``: of an operator with every
    role; ``reader``: of a service that may read everything under `PREFIX` in `ENVIRONMENTS`, with
    ``production`` as its own environment and no limit in its way; made if none is given."""

    def __init__(self, *, urls: Sequence[str], token: str, reader: str = "") -> None:
        self._nodes = itertools.cycle([urlsplit(url) for url in urls])
        self.token = token
        self.reader = reader or self._registered()

    def __call__(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """One request, on a connection of its own. ``target`` is below ``/v1``."""
        node = next(self._nodes)
        of = http.client.HTTPSConnection if node.scheme == "https" else http.client.HTTPConnection
        connection = of(node.hostname or "", node.port, timeout=_TIMEOUT_SECONDS)
        sent = {"Authorization": f"Bearer {token or self.token}", **(headers or {})}
        raw = None if body is None else json_module.dumps(body).encode()
        try:
            connection.request(method, f"/v1{target}", raw, sent)
            answer = connection.getresponse()
            found = answer.read()
        finally:
            connection.close()
        names = {name.lower(): text for name, text in answer.getheaders()}
        kind = names.get("content-type", "")
        return Told(answer.status, names, json_module.loads(found) if "json" in kind else None)

    def export(self) -> list[dict[str, Any]]:
        """Every entry of the ledger, in stored order."""
        node = next(self._nodes)
        of = http.client.HTTPSConnection if node.scheme == "https" else http.client.HTTPConnection
        connection = of(node.hostname or "", node.port, timeout=_TIMEOUT_SECONDS)
        try:
            sent = {"Authorization": f"Bearer {self.token}"}
            connection.request("GET", "/v1/ledger/export", headers=sent)
            answer = connection.getresponse()
            assert answer.status == http.client.OK
            return [json_module.loads(line) for line in answer.read().splitlines()]
        finally:
            connection.close()

    def _registered(self) -> str:
        name = f"conformance-{secrets.token_hex(4)}"
        made = self("POST", "/services", {"service_name": name, "environment": "production"})
        assert made.status == http.client.CREATED, made
        assert self("PUT", f"/services/{name}/limit", {"limit": "1000000/s"}).code is None
        for environment in ENVIRONMENTS:
            grant = {"service_name": name, "pattern": f"{PREFIX}.**", "environment": environment}
            assert self("POST", "/grants", grant).code is None
        return str(self("POST", "/tokens", {"service_name": name}).json["token"])


class StoreCase:
    """A class of tests."""

    def key(self, name: str = "key") -> str:
        """A path that no other test has."""
        return f"{PREFIX}.{name}-{secrets.token_hex(6)}"

    def put(self, store: AskedStore, key: str, *values: str, **fields: Any) -> None:
        """Store ``values``, one after the other."""
        for value in values:
            told = store("PUT", f"/keys/{key}", {"value": value, **fields})
            assert told.code is None, told

    def act(self, store: AskedStore, key: str, what: str, **body: Any) -> Told:
        return store("POST", f"/keys/{key}/{what}", body)

    def read(self, store: AskedStore, key: str, version: int | None = None) -> tuple[str, str]:
        """What a service is told, and what a maintainer is: the value, or a code."""
        query = "" if version is None else f"?version={version}"
        tokens = (store.reader, store.token)
        service, maintainer = (store("GET", f"/keys/{key}{query}", token=each) for each in tokens)
        return service.said, maintainer.said

    def states(self, store: AskedStore, key: str, environment: str = "") -> dict[int, str]:
        """The versions that are listed, by number."""
        query = f"?environment={environment}" if environment else ""
        items = store("GET", f"/keys/{key}/versions{query}").json["items"]
        return {each["version"]: each["state"] for each in items}
