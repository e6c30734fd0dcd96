"""The API against its own description: whatever is sent, as the document allows it or not and by
whomever, the answer is one that it describes, and never a fault of ours.

The document is made from the table of routes, so a new route is tested from its first day. Two
walks are the same in each run; a third one is new each time, and its seed is in the output.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.functional.running import RunningStore

from dox_core_store.server.bootstrap import LocalStore
from dox_core_store.server.domain.access import Role
from dox_core_store.server.settings import Settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
WALKS = {
    "as described": (GenerationMode.POSITIVE, 25, 0),
    "not as described": (GenerationMode.NEGATIVE, 12, 0),
    "new": (GenerationMode.POSITIVE, 8, secrets.randbits(32)),
}
"""What is generated, how much of it for each operation, and from which seed."""

EVENTS = "/v1/events"
SERVICES = ("service", "a stranger")


class Described(NamedTuple):
    """A store of its own: these tests register, grant and revoke whatever they come upon."""

    store: RunningStore
    bearers: dict[str, str]
    known: dict[str, list[str]]

    def operations(self) -> list[Any]:
        schema = schemathesis.openapi.from_url(f"{self.store.url}/openapi.json")
        return [result.ok() for result in schema.get_all_operations()]


@pytest.fixture(scope="module")
def described(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore
) -> Iterator[Described]:
    store = RunningStore(tmp_path_factory.mktemp("described") / "store")
    store.copy_of(made_store)
    here = LocalStore(Settings(data=str(store.data), key_file=str(store.key_file)))
    for role in Role:
        here.add_operator(f"only-{role}".replace("_", "-"), [role])
    bearers = {
        str(role): here.operator_token(f"only-{role}".replace("_", "-"), "1h") for role in Role
    }
    store.start()
    for path in ("a.b", "a.c", "a.c"):
        store.put(path, "value")
    bearers |= {
        "all": store.admin_token,
        "service": store.issue("a", "a.b"),
        "a stranger": store.issue("b"),
        "nobody": "not-a-token",
        "none": "",
    }
    grants = store.request("GET", "/v1/grants").json["items"]
    known = {
        "key_path": ["a.b", "a.c", "a.b.staging", "a.absent"],
        "service_name": ["a", "b"],
        "service": ["a", "b"],
        "grant_id": [each["grant_id"] for each in grants],
        "import_id": [store.request("POST", "/v1/imports").json["import_id"]],
    }
    yield Described(store, bearers, known)
    store.dispose()


@pytest.mark.parametrize("walk", WALKS)
def test_every_answer_is_a_described_one(described: Described, walk: str) -> None:
    mode, examples, seed = WALKS[walk]
    print(f"walk {walk!r}: seed {seed}")
    wrong = {}
    for operation in described.operations():
        try:
            exercise(operation, described, mode, examples, seed)
        except Unsatisfiable:  # nothing about it can be wrong: no parameter, no body
            assert mode is GenerationMode.NEGATIVE, operation.label
        except (FailureGroup, ExceptionGroup, AssertionError) as failure:
            wrong[operation.label] = str(failure)
    assert wrong == {}
    assert described.store.is_running
    assert "internal_error" not in described.store.log_text()


def test_every_operation_is_described_and_met(described: Described) -> None:
    """Each with each of its parameters, and each kind of caller; what is open says so."""
    labels = {operation.label for operation in described.operations()}
    assert {"GET /v1/keys/{key_path}", "POST /v1/keys/batch-get", "POST /tokens"} <= labels
    store = described.store
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        for label in labels:
            address = label.partition(" ")[2].replace("{", "").replace("}", "")
            answer = store.request(method, address, token=described.bearers["nobody"])
            is_described = f"{method} {label.partition(' ')[2]}" in labels
            # The door owns reads under its prefix by any name, and refuses others as it does them.
            if is_described or address.startswith("/v1/keys/"):
                assert answer.status != 404, (method, address)
            else:
                assert answer.status in {401, 405}, (method, address, answer)


def exercise(
    operation: Any, described: Described, mode: GenerationMode, examples: int, seed: int
) -> None:
    """Ask one operation in a few of the ways that there are: by everybody, about everything, and
    about what is there at least half of the time."""

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        bearer=st.sampled_from(["all", "all", *described.bearers]),
        choice=st.integers(0, 11),
    )
    def ask(case: Any, bearer: str, choice: int) -> None:
        for name, values in described.known.items():
            if case.path_parameters and name in case.path_parameters and choice % 2:
                case.path_parameters[name] = values[choice // 2 % len(values)]
        if operation.path == EVENTS and bearer in SERVICES:
            bearer = "none"  # what they are answered has no end: see test_events
        token = described.bearers[bearer]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        case.call_and_validate(headers=headers, checks=CHECKS)

    ask()
