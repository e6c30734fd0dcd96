"""The API against its own description: whatever the document allows to be sent, the answer is one
that it describes, and never a fault of ours."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.functional.running import RunningStore

EXAMPLES = 25
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory):
    """A store of its own: this test registers, grants and revokes whatever it comes upon."""
    store = RunningStore(tmp_path_factory.mktemp("described"))
    store.init()
    store.start()
    store.put("a.b", "value")
    store.register("a", "a.b")
    yield store
    store.dispose()


def test_every_answer_is_a_described_one(described: RunningStore) -> None:
    schema = schemathesis.openapi.from_url(f"{described.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    wrong = {}
    for operation in operations:
        try:
            exercise(operation, described)
        except (FailureGroup, ExceptionGroup, AssertionError) as failure:
            wrong[operation.label] = str(failure)
    assert wrong == {}
    methods = {operation.label for operation in operations}
    assert {"GET /v1/keys/{key_path}", "POST /v1/keys/batch-get", "POST /tokens"} <= methods


def exercise(operation: Any, described: RunningStore) -> None:
    """Ask one operation in a few of the ways that the document allows."""
    headers = {"Authorization": f"Bearer {described.admin_token}"}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS)

    ask()
