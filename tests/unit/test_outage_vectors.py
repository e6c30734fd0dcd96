"""The outage file's specification opens the committed vectors, and so does the client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from tests.vectors import generate_outage

from dox_core_store.client.outage_seal import Namer, open_record
from dox_core_store.client.outage_secret import Principal
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import encode

REPOSITORY = Path(__file__).parents[2]
SPECIFICATION = REPOSITORY / "docs" / "spec" / "outage-file.md"
VECTORS = REPOSITORY / "tests" / "vectors" / "outage.json"


class File(msgspec.Struct, forbid_unknown_fields=True):
    """A vector with a member that no test here looks at does not load."""

    secret_is: str
    secret: str
    key_path: str
    environment: str
    value: str
    name: str
    ends_at: float
    content: str


class Vectors(msgspec.Struct, forbid_unknown_fields=True):
    about: str
    salt: str
    store_id: str
    service: str
    environment: str
    true_at: float
    written_at: float
    files: list[File]


VECTOR = msgspec.json.decode(VECTORS.read_bytes(), type=Vectors)
PRINCIPAL = Principal(VECTOR.store_id, VECTOR.service, VECTOR.environment)


@pytest.fixture(scope="module")
def specified() -> dict[str, Any]:
    """What the code on the page defines."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", SPECIFICATION.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    defined: dict[str, Any] = {}
    exec(code, defined)  # noqa: S102 - our own documentation
    return defined


def test_the_generator_writes_the_committed_vectors() -> None:
    assert generate_outage.render() == VECTORS.read_text("utf-8")


@pytest.mark.parametrize("file", VECTOR.files, ids=lambda file: file.secret_is)
def test_the_specification_names_and_opens_it(specified: dict[str, Any], file: File) -> None:
    whose = VECTOR.store_id, VECTOR.service
    named = specified["file_name"](
        bytes.fromhex(VECTOR.salt), *whose, file.key_path, file.environment
    )
    assert named == file.name
    secret, content = bytes.fromhex(file.secret), bytes.fromhex(file.content)
    opened = specified["open_file"](secret, *whose, VECTOR.environment, file.name, content)
    assert opened["key"]["value"] == file.value
    assert opened["key"]["key_path"] == file.key_path
    assert (opened["true_at"], opened["written_at"]) == (VECTOR.true_at, VECTOR.written_at)
    with pytest.raises(InvalidTag):
        specified["open_file"](secret, *whose, "staging", file.name, content)
    with pytest.raises(ValueError, match="no file of this format"):
        specified["open_file"](secret, *whose, VECTOR.environment, file.name, content + b"\0")


@pytest.mark.parametrize("file", VECTOR.files, ids=lambda file: file.secret_is)
def test_the_client_names_and_opens_it(file: File) -> None:
    namer = Namer(bytes.fromhex(VECTOR.salt), PRINCIPAL)
    assert namer.name(KeyAddress(file.key_path, file.environment)) == file.name
    record = open_record(
        bytes.fromhex(file.secret), PRINCIPAL, file.name, bytes.fromhex(file.content)
    )
    assert record is not None
    assert record.key.value.reveal() == file.value
    assert (record.true_at, record.written_at) == (VECTOR.true_at, VECTOR.written_at)
    assert record.ends_at == file.ends_at


def test_the_files_have_different_sizes_and_both_kinds_of_secret() -> None:
    assert {file.secret_is for file in VECTOR.files} == {"service key", "service token"}
    assert [len(file.content) // 2 - 29 for file in VECTOR.files] == [1024, 2048]


def test_what_the_record_says_of_a_key_is_what_the_specification_lists() -> None:
    text = SPECIFICATION.read_text("utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| `key` |")]
    sealed = json.loads(encode(generate_outage.KEYS["service key"]))
    assert set(re.findall(r"`(\w+)`", row.partition("what the store answered")[2])) == set(sealed)
