"""Random operations on a real embedded store, against a dict that says what must be true.

The store is one `Node` in this process, asked through its ASGI application: the door, the use
cases, SQLite and the ledger are the real ones, only the socket is missing. Imports are tidied up by
the node's own sweeper, at moments that the machine does not choose: nobody may notice.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dox_core_store.server.bootstrap import LocalStore, Node, init_store
from dox_core_store.server.domain.access import Role
from dox_core_store.server.settings import Settings

KEYS = ("one", "one.below", "two")
values = st.sampled_from(["", "a", "b", "\N{GRINNING FACE}\n"])
names = st.sampled_from(KEYS)
numbers = st.none() | st.integers(-1, 7)


class Told(NamedTuple):
    status: int
    json: Any

    @property
    def code(self) -> str:
        return str(self.json["code"])


class Asking:
    """A node, its loop and two tokens: a maintainer's and a service's."""

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        where = Settings(
            data=str(folder / "data"), key_file=str(folder / "root.key"), expiry_days=0
        )
        init_store(where, operator="root", roles=list(Role))
        self.maintainer = LocalStore(where).operator_token("root", "1h")
        self._runner = runner
        self._node = Node(where)
        runner.run(self._node.start())
        self("POST", "/v1/services", {"service_name": "model", "required_keys": ["**"]})
        self("PUT", "/v1/services/model/limit", {"limit": "1000000/s"})
        self.service = self("POST", "/tokens", {"service_name": "model"}).json["token"]

    def stop(self) -> None:
        self._runner.run(self._node.stop())

    def __call__(self, method: str, target: str, body: Any = None, token: str = "") -> Told:
        return self._runner.run(self._ask(method, target, body, token or self.maintainer))

    async def _ask(self, method: str, target: str, body: Any, token: str) -> Told:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [(b"authorization", b"Bearer " + token.encode())],
            "state": {},
        }
        raw = b"" if body is None else json.dumps(body).encode()
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        await self._node.application(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in said[1:])
        return Told(said[0]["status"], json.loads(content) if content else None)


class Version:
    def __init__(self, value: str) -> None:
        self.value = value
        self.state = "current"


class Model:
    """What one key must be like: its versions by number, its head, the last number given out."""

    def __init__(self) -> None:
        self.versions: dict[int, Version] = {}
        self.head = 0
        self.last = 0

    def promote(self, value: str) -> None:
        for version in self.versions.values():
            version.state = {"previous": "retired", "current": "previous"}.get(
                version.state, version.state
            )
        self.last += 1
        self.head = self.last
        self.versions[self.last] = Version(value)

    def read(self, number: int | None, reader: str) -> str:
        """The value, or the code of the refusal."""
        if not self.versions:
            return "key_not_found" if number is None else "version_not_found"
        version = self.versions.get(self.head if number is None else number)
        if version is None:
            return "version_not_found"
        if version.state in ("revoked", "destroyed"):
            return f"version_{version.state}"
        if version.state == "retired" and reader == "service":
            return "version_unavailable"
        return version.value


class StoreMachine(RuleBasedStateMachine):
    """Every rule does one thing to the store and to the model, and compares the answers."""

    asking: ClassVar[Asking]
    folders: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"m{next(self.folders)}"
        self.models = {name: Model() for name in KEYS}

    def ask(self, name: str, act: str, body: dict[str, Any]) -> Told:
        return self.asking("POST", f"/v1/keys/{self.prefix}.{name}/{act}", body)

    @rule(name=names, value=values, guess=st.none() | st.integers(0, 5))
    def put(self, name: str, value: str, guess: int | None) -> None:
        model = self.models[name]
        body = {"value": value} if guess is None else {"value": value, "if_version": guess}
        told = self.asking("PUT", f"/v1/keys/{self.prefix}.{name}", body)
        if guess not in (None, model.head):
            assert (told.status, told.code, told.json["actual_version"]) == (
                409,
                "version_conflict",
                model.head,
            )
            return
        model.promote(value)
        assert told.status == (201 if model.last == 1 else 200)
        assert (told.json["version"], told.json["state"]) == (model.last, "current")

    @rule(name=names, number=numbers)
    def rollback(self, name: str, number: int | None) -> None:
        model = self.models[name]
        told = self.ask(name, "rollback", {} if number is None else {"to_version": number})
        earlier = [n for n, v in model.versions.items() if v.state in ("previous", "retired")]
        target = max(earlier, default=None) if number is None else number
        if not model.versions:
            assert told.code == "key_not_found"
        elif target not in model.versions:
            assert told.code == "version_not_found"
        elif target not in earlier:
            assert told.code == "illegal_transition"
        else:
            model.promote(model.versions[target].value)
            assert (told.status, told.json["version"]) == (200, model.last)
            assert told.json["rolled_back_from"] == target

    @rule(name=names, number=numbers)
    def revoke(self, name: str, number: int | None) -> None:
        self.end(name, number, "revoke", "revoked", ("current", "previous", "retired", "revoked"))

    @rule(name=names, number=numbers)
    def destroy(self, name: str, number: int | None) -> None:
        legal = ("previous", "retired", "revoked", "destroyed")
        self.end(name, number, "destroy", "destroyed", legal)

    def end(
        self, name: str, number: int | None, act: str, state: str, legal: tuple[str, ...]
    ) -> None:
        model = self.models[name]
        told = self.ask(name, act, {} if number is None else {"version": number})
        target = model.head if number is None else number
        if not model.versions:
            assert told.code == "key_not_found"
        elif target not in model.versions:
            assert told.code == "version_not_found"
        elif model.versions[target].state not in legal:
            assert told.code == "illegal_transition"
        else:
            model.versions[target].state = state
            assert (told.status, told.json["version"], told.json["state"]) == (200, target, state)

    @rule(entries=st.dictionaries(names, values, min_size=1), commit=st.booleans())
    def import_(self, entries: dict[str, str], commit: bool) -> None:
        import_id = self.asking("POST", "/v1/imports").json["import_id"]
        slice_ = [
            {"key_path": f"{self.prefix}.{name}", "environment": "production", "value": value}
            for name, value in entries.items()
        ]
        staged = self.asking(
            "POST", f"/v1/imports/{import_id}/entries", {"sequence": 0, "entries": slice_}
        )
        counts = {"created": 0, "replaced": 0, "unchanged": 0}
        changing = []
        for name, value in entries.items():
            model = self.models[name]
            head = model.versions.get(model.head)
            if head is not None and head.state == "current" and head.value == value:
                counts["unchanged"] += 1
                continue
            counts["created" if head is None else "replaced"] += 1
            changing.append(name)
        assert (staged.status, {each: staged.json[each] for each in counts}) == (200, counts)
        self.everything_reads_as_the_model_says()
        end = "commit" if commit else "abort"
        assert self.asking("POST", f"/v1/imports/{import_id}/{end}", {}).status == 200
        for name in changing:
            model = self.models[name]
            if commit:
                model.promote(entries[name])
            elif model.versions:
                model.last += 1  # a number given out is never given out again

    @invariant()
    def everything_reads_as_the_model_says(self) -> None:
        for name, model in self.models.items():
            for number in (None, *range(1, model.last + 2)):
                query = "" if number is None else f"?version={number}"
                for reader in ("service", "maintainer"):
                    told = self.asking(
                        "GET",
                        f"/v1/keys/{self.prefix}.{name}{query}",
                        token=getattr(self.asking, reader),
                    )
                    said = told.json["value"] if told.status == 200 else told.code
                    assert said == model.read(number, reader), (name, number, reader)

    @invariant()
    def the_list_shows_what_there_is(self) -> None:
        page = self.asking("GET", f"/v1/keys?prefix={self.prefix}").json["items"]
        assert {
            row["key_path"].removeprefix(f"{self.prefix}."): row["version"] for row in page
        } == {name: model.head for name, model in self.models.items() if model.versions}


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    with asyncio.Runner() as runner:
        node = Asking(tmp_path, runner)
        yield node
        node.stop()


def test_a_store_does_what_a_dict_says(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreMachine, "asking", asking, raising=False)
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            # A failing walk is told as it was met: making it shorter takes longer than a test may.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
