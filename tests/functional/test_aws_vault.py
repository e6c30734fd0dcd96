"""The AWS vault on moto over HTTP; its faults on a server in between that answers in its stead."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.functional.real_servers import Moto, serving_moto

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.vaults.address import parse_vault
from dox_core_store.server.adapters.vaults.aws import AwsVault
from dox_core_store.server.adapters.vaults.aws_errors import failure_of
from dox_core_store.server.adapters.vaults.aws_policy import assume_policy, vault_policy
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import Erasure, Home
from dox_core_store.testing.vault_conformance import (
    VaultConformance,
    about,
    next_version,
    refused_as,
)

REGION = "eu-central-1"
PREFIX = "team/doxstore"
SECONDS = 8.0
CANARY = "canary-5f1e-value"


class AwsTools:
    """What somebody does with AWS's own command line."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def name(self, binding: Binding) -> str:
        return f"{PREFIX}/{binding.environment}/{binding.key_path.replace('.', '/')}"

    def text(self, name: str, stage: str = "AWSCURRENT") -> str | None:
        try:
            got = self.client.get_secret_value(SecretId=name, VersionStage=stage)
        except self.client.exceptions.ClientError:
            return None
        return str(got["SecretString"])

    def stages(self, binding: Binding) -> dict[str, set[str]]:
        found = self.client.describe_secret(SecretId=self.name(binding))["VersionIdsToStages"]
        return {version: set(labels) for version, labels in found.items() if labels}

    def shows(self, binding: Binding) -> bytes | None:
        text = self.text(self.name(binding))
        return None if text is None or "doxstore:withdrawn" in text else text.encode()

    def change(self, binding: Binding, value: bytes) -> None:
        self._put(self.name(binding), value.decode())

    def delete(self, binding: Binding) -> None:
        self.client.delete_secret(SecretId=self.name(binding), RecoveryWindowInDays=7)

    def recreate(self, binding: Binding, value: bytes) -> None:
        self.client.delete_secret(SecretId=self.name(binding), ForceDeleteWithoutRecovery=True)
        self.client.create_secret(Name=self.name(binding), SecretString=value.decode())

    def put(self, path: str, fields: Mapping[str, str]) -> None:
        self._put(f"{PREFIX}/{path}", json.dumps(fields))

    def fields(self, path: str) -> Mapping[str, str]:
        return json.loads(self.text(f"{PREFIX}/{path}") or "null")  # type: ignore[no-any-return]

    def _put(self, name: str, text: str) -> None:
        """As ``put-secret-value`` does it in AWS. In moto that loses the labels of the version
        before, and where AWSCURRENT was, once it has been moved."""
        try:
            self.client.create_secret(Name=name, SecretString=text)
        except self.client.exceptions.ResourceExistsException:
            found = self.client.describe_secret(SecretId=name)["VersionIdsToStages"]
            (before,) = [each for each, labels in found.items() if "AWSCURRENT" in labels]
            made = self.client.put_secret_value(
                SecretId=name, SecretString=text, VersionStages=["made"]
            )
            move = self.client.update_secret_version_stage
            move(
                SecretId=name,
                VersionStage="AWSCURRENT",
                RemoveFromVersionId=before,
                MoveToVersionId=made["VersionId"],
            )
            move(SecretId=name, VersionStage="made", RemoveFromVersionId=made["VersionId"])


@pytest.fixture
def tools(moto: Moto) -> AwsTools:
    return AwsTools(moto.client("secretsmanager", REGION))


@pytest.fixture
def vault(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> AwsVault:
    return vault_at(moto, monkeypatch)


def vault_at(
    moto: Moto,
    monkeypatch: pytest.MonkeyPatch,
    url: str = "",
    *,
    seconds: float = SECONDS,
    **more: str,
) -> AwsVault:
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    options = {"endpoint": url or moto.url, **more}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return AwsVault(
        address=parse_vault(f"aws://{REGION}/{PREFIX}?{query}"), timeout_seconds=seconds
    )


def binding() -> Binding:
    return VaultConformance().binding()


def kept(vault: AwsVault, key: Binding, value: bytes, number: int) -> tuple[Binding, bytes]:
    """A promoted version of ``key`` and its place."""
    version = next_version(key)
    stored = vault.store(version, value, about(number))
    return version, vault.promote(version, stored, about(number))


class TestAwsVault(VaultConformance):
    """The contract."""


# What AWS makes of it


def test_aws_knows_versions_by_our_ids_and_whose_a_secret_is(
    vault: AwsVault, tools: AwsTools
) -> None:
    first, _ = kept(vault, binding(), b"one", 1)
    second, _ = kept(vault, first, b"two", 2)
    assert tools.stages(first) == {
        first.version_id: {"AWSPREVIOUS", f"doxstore-1-{first.version_id[:8]}"},
        second.version_id: {"AWSCURRENT", f"doxstore-2-{second.version_id[:8]}"},
    }
    said = tools.client.describe_secret(SecretId=tools.name(first))
    assert {each["Key"]: each["Value"] for each in said["Tags"]} == {
        "doxstore:store": first.store_id,
        "doxstore:key": first.key_path,
        "doxstore:environment": "production",
        "doxstore:managed": "true",
    }
    assert "Owner: payments. Usage: charges cards" in said["Description"]


def test_a_new_owner_is_told_to_aws(vault: AwsVault, tools: AwsTools) -> None:
    first, _ = kept(vault, binding(), b"one", 1)
    second = next_version(first)
    said = about(2)._replace(owner="search")
    vault.promote(second, vault.store(second, b"two", said), said)
    described = tools.client.describe_secret(SecretId=tools.name(first))
    assert "Owner: search." in described["Description"]
    assert tools.shows(first) == b"two"
    assert {each["Key"] for each in described["Tags"]} >= {"doxstore:store", "doxstore:managed"}


def test_what_waits_for_promotion_has_no_place_under_the_keys_name(
    vault: AwsVault, tools: AwsTools
) -> None:
    key = binding()
    place = vault.store(key, b"one", about(1))
    assert tools.text(tools.name(key)) is None
    apart = f"{PREFIX}/.versions/{key.version_id}"
    assert tools.text(apart) == "one"
    vault.promote(key, place, about(1))
    assert tools.text(apart) is None


def test_a_rejected_version_is_erased_for_good(vault: AwsVault) -> None:
    key = binding()
    assert vault.erase(key, vault.store(key, b"one", about(1))) is Erasure.ERASED


@pytest.mark.parametrize(
    "value", [b"", b"x", b"k" * 65_536, "ä€\U0001f511".encode() * 7000, b"\xff"]
)
def test_values_of_any_size_come_back(vault: AwsVault, value: bytes) -> None:
    key, place = kept(vault, binding(), value, 1)
    assert vault.open(key, place) == (value, False)
    head = vault.head(key, None)
    assert head is not None
    assert head.value == value


def test_what_aws_would_not_take_is_too_large(vault: AwsVault, tools: AwsTools) -> None:
    key = binding()
    with refused_as("value_too_large"):
        vault.store(key, b"k" * 65_537, about(1))
    path = f"adopted/{secrets.token_hex(6)}"
    tools.put(path, {"token": "theirs"})
    home = Home(path=path, field="token", shared=False)
    place = vault.store(key, b'"' * 40_000, about(1, home))
    with refused_as("value_too_large"):
        vault.promote(key, place, about(1, home))
    assert tools.fields(path) == {"token": "theirs"}


def test_labels_stay_within_aws_limit_and_no_version_is_lost(
    vault: AwsVault, tools: AwsTools
) -> None:
    key = binding()
    versions = []
    for number in range(1, 24):
        key, place = kept(vault, key, f"value {number}".encode(), number)
        versions.append((key, place))
    stages = tools.stages(key)
    assert sum(len(labels) for labels in stages.values()) <= 20
    assert len(stages) < len(versions)
    for number, (version, place) in enumerate(versions, start=1):
        assert vault.open(version, place) == (f"value {number}".encode(), False)
    oldest, place = versions[0]
    vault.erase(oldest, place)
    with refused_as("vault_value_missing"):
        vault.open(oldest, place)


def test_other_peoples_labels_leave_less_room(vault: AwsVault, tools: AwsTools) -> None:
    key, first = kept(vault, binding(), b"one", 1)
    for number in range(13):
        tools.client.update_secret_version_stage(
            SecretId=tools.name(key), VersionStage=f"x{number}", MoveToVersionId=key.version_id
        )
    last = key
    for number in range(2, 8):
        last, _ = kept(vault, last, b"%d" % number, number)
    assert sum(len(labels) for labels in tools.stages(key).values()) <= 20
    assert tools.shows(key) == b"7"
    assert vault.open(key, first).value == b"one"


# Taking away


def test_a_withdrawn_version_is_shown_neither_as_current_nor_as_previous(
    vault: AwsVault, tools: AwsTools
) -> None:
    first, old = kept(vault, binding(), b"one", 1)
    second, new = kept(vault, first, b"two", 2)
    vault.withdraw(first, old)
    assert tools.text(tools.name(first), "AWSPREVIOUS") is None
    vault.withdraw(second, new)
    assert tools.shows(first) is None
    assert "revoked" in (tools.text(tools.name(first)) or "")
    assert tools.text(tools.name(first), "AWSPREVIOUS") is None
    assert vault.head(first, None) is None
    assert vault.open(second, new) == (b"two", False), "it is revoked in the catalog, not here"


@pytest.mark.parametrize("act", ["withdraw", "erase"])
@pytest.mark.parametrize("heard", [True, False])
def test_taking_away_that_was_killed_anywhere_is_finished_by_the_next(
    moto: Moto, tools: AwsTools, monkeypatch: pytest.MonkeyPatch, heard: bool, act: str
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        for killed in range(1, 8):
            first, old = kept(vault, binding(), b"one", 1)
            second, new = kept(vault, first, b"two", 2)
            proxy.faults[:] = [None] * (killed - 1)
            proxy.faults.append(says(400, "AccessDeniedException") if heard else does_it_unheard)
            for _ in range(2):
                with contextlib.suppress(DoxStoreError):
                    getattr(vault, act)(second, new)
                proxy.faults.clear()
            stages = tools.stages(first)
            assert not stages.get(second.version_id, set()) & {"AWSCURRENT", "AWSPREVIOUS"}
            assert (second.version_id in stages) == (act == "withdraw")
            assert tools.shows(first) is None
            assert vault.open(first, old) == (b"one", False)


def test_a_withdrawn_field_leaves_the_others(vault: AwsVault, tools: AwsTools) -> None:
    key, path = binding(), f"adopted/{secrets.token_hex(6)}"
    tools.put(path, {"token": "theirs"})
    home = Home(path=path, field="token", shared=False)
    place = vault.promote(key, vault.store(key, b"ours", about(1, home)), about(1, home))
    tools.put(path, {"token": "ours", "user": "u"})
    later = next_version(key)
    place = vault.promote(later, vault.store(later, b"next", about(2, home)), about(2, home))
    assert tools.fields(path) == {"token": "next", "user": "u"}
    vault.withdraw(later, place)
    assert tools.fields(path) == {"user": "u"}
    assert vault.head(key, home) is None
    assert vault.erase(later, place) is Erasure.UNLINKED
    assert tools.fields(path) == {"user": "u"}


def test_nothing_of_an_entry_that_is_shared_is_written(vault: AwsVault, tools: AwsTools) -> None:
    key, path = binding(), f"adopted/{secrets.token_hex(6)}"
    tools.put(path, {"user": "u", "password": "p"})
    home = Home(path=path, field="password", shared=True)
    head = vault.head(key, home)
    assert head is not None
    before = tools.client.describe_secret(SecretId=f"{PREFIX}/{path}")
    assert vault.promote(key, head.place, about(1, home)) == head.place
    vault.withdraw(key, head.place)
    assert vault.erase(key, head.place) is Erasure.UNLINKED
    after = tools.client.describe_secret(SecretId=f"{PREFIX}/{path}")
    assert after["VersionIdsToStages"] == before["VersionIdsToStages"]
    assert "Tags" not in after


def test_the_last_version_goes_with_its_secret_and_its_name_stays_taken(
    vault: AwsVault, tools: AwsTools
) -> None:
    first, old = kept(vault, binding(), b"one", 1)
    second, new = kept(vault, first, b"two", 2)
    assert vault.erase(first, old) is Erasure.UNLINKED
    assert tools.shows(first) == b"two"
    assert vault.erase(second, new) is Erasure.UNLINKED
    deleted = tools.client.describe_secret(SecretId=tools.name(first))["DeletedDate"]
    assert 6 < (deleted.timestamp() - time.time()) / 86_400 <= 7
    assert vault.erase(second, new) is Erasure.UNLINKED
    third = next_version(first)
    with refused_as("vault_conflict"):
        vault.store(third, b"three", about(3))
    assert vault.head(first, None) is None
    tools.client.restore_secret(SecretId=tools.name(first))
    place = vault.promote(third, vault.store(third, b"three", about(3)), about(3))
    assert vault.open(third, place) == (b"three", False)


def test_a_promotion_does_not_write_over_a_deletion(vault: AwsVault, tools: AwsTools) -> None:
    first, _ = kept(vault, binding(), b"one", 1)
    second = next_version(first)
    stored = vault.store(second, b"two", about(2))
    tools.delete(first)
    with refused_as("vault_conflict"):
        vault.promote(second, stored, about(2))
    assert second.version_id not in tools.stages(first)
    assert vault.open(second, stored).value == b"two"


def test_the_recovery_window_is_as_long_as_it_says(
    moto: Moto, tools: AwsTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_at(moto, monkeypatch, recovery_days="30")
    key, place = kept(vault, binding(), b"one", 1)
    vault.erase(key, place)
    deleted = tools.client.describe_secret(SecretId=tools.name(key))["DeletedDate"]
    assert 29 < (deleted.timestamp() - time.time()) / 86_400 <= 30


def test_somebody_elses_change_is_not_deleted_with_our_last_version(
    vault: AwsVault, tools: AwsTools
) -> None:
    key, place = kept(vault, binding(), b"ours", 1)
    tools.change(key, b"theirs")
    assert vault.erase(key, place) is Erasure.UNLINKED
    assert tools.shows(key) == b"theirs"


def test_a_home_of_another_key_is_a_conflict(vault: AwsVault, tools: AwsTools) -> None:
    path = f"adopted/{secrets.token_hex(6)}"
    tools.put(path, {"token": "theirs"})
    home = Home(path=path, field="token", shared=False)
    key = binding()
    vault.promote(key, vault.store(key, b"ours", about(1, home)), about(1, home))
    with refused_as("vault_conflict"):
        vault.store(binding(), b"another", about(1, home))
    assert tools.fields(path) == {"token": "ours"}


def test_a_field_cannot_be_written_where_there_are_no_fields(
    vault: AwsVault, tools: AwsTools
) -> None:
    path = f"adopted/{secrets.token_hex(6)}"
    tools.client.create_secret(Name=f"{PREFIX}/{path}", SecretString="plain")
    key, home = binding(), Home(path=path, field="token", shared=False)
    place = vault.store(key, b"ours", about(1, home))
    with refused_as("vault_conflict"):
        vault.promote(key, place, about(1, home))
    assert tools.text(f"{PREFIX}/{path}") == "plain"


def test_an_entry_without_fields_is_adopted_as_it_is(vault: AwsVault, tools: AwsTools) -> None:
    path = f"adopted/{secrets.token_hex(6)}"
    tools.client.create_secret(Name=f"{PREFIX}/{path}", SecretString="plain")
    assert [each for each in vault.entries() if each.path == path] == [(path, (None,), False)]
    first, home = binding(), Home(path=path, field=None, shared=False)
    head = vault.head(first, home)
    assert head is not None
    assert head.value == b"plain"
    old = vault.promote(first, head.place, about(1, home))
    second = next_version(first)
    new = vault.promote(second, vault.store(second, b"", about(2, home)), about(2, home))
    assert vault.open(first, old) == (b"plain", False)
    assert vault.open(second, new) == (b"", False)
    said = tools.client.describe_secret(SecretId=f"{PREFIX}/{path}")
    assert {"Key": "doxstore:key", "Value": first.key_path} in said["Tags"]


@pytest.mark.parametrize("heard", [True, False])
def test_a_promotion_that_was_killed_anywhere_is_finished_by_the_next(
    moto: Moto, tools: AwsTools, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        proxy.asked.clear()
        key, _ = kept(vault, binding(), b"0", 1)
        kept(vault, key, b"0", 2)
        steps = len(proxy.asked)
        for killed in range(1, steps):
            key, number = binding(), 0
            for value in (b"one", b"two"):
                key, number = next_version(key), number + 1
                stored = vault.store(key, value, about(number))
                proxy.faults[:] = [None] * (killed - 1)
                proxy.faults.append(
                    says(400, "AccessDeniedException") if heard else does_it_unheard
                )
                with contextlib.suppress(DoxStoreError):
                    vault.promote(key, stored, about(number))
                proxy.faults.clear()
                place = vault.promote(key, stored, about(number))
                assert vault.open(key, place) == (value, False)
                assert vault.open(key, stored) == (value, False)
                assert tools.shows(key) == value
                assert tools.text(f"{PREFIX}/.versions/{key.version_id}") is None


def test_a_key_of_another_store_is_a_conflict(vault: AwsVault) -> None:
    key, _ = kept(vault, binding(), b"one", 1)
    with refused_as("vault_conflict"):
        vault.store(next_version(key)._replace(store_id="sto_other"), b"two", about(2))


def test_another_value_under_the_same_version_id_is_a_conflict(vault: AwsVault) -> None:
    key = binding()
    vault.store(key, b"one", about(1))
    with refused_as("vault_conflict"):
        vault.store(key, b"another", about(1))


def test_two_nodes_that_promote_at_once_end_with_the_higher_number(
    moto: Moto, tools: AwsTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [vault_at(moto, monkeypatch) for _ in range(2)]
    key, _ = kept(nodes[0], binding(), b"one", 1)
    bindings = [next_version(key) for _ in nodes]
    stored = [
        node.store(each, b"%d" % number, about(number))
        for number, (node, each) in enumerate(zip(nodes, bindings, strict=True), start=2)
    ]

    def promote(index: int) -> bytes:
        return nodes[index].promote(bindings[index], stored[index], about(index + 2))

    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(promote, range(2)))
    assert tools.shows(key) == b"3"
    for index in range(2):
        assert nodes[index].open(bindings[index], places[index]) == (b"%d" % (index + 2), False)
    current = [each for each, labels in tools.stages(key).items() if "AWSCURRENT" in labels]
    assert current == [bindings[1].version_id]


# Many at a time


def test_many_are_opened_with_few_requests(
    moto: Moto, tools: AwsTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        places = [kept(vault, binding(), f"value {each}".encode(), 1) for each in range(21)]
        late, waiting = binding(), binding()
        places.append((waiting, vault.store(waiting, b"value 21", about(1))))
        gone, place = kept(vault, late, b"gone", 1)
        tools.delete(gone)
        places.append((gone, place))
        proxy.asked.clear()
        found = vault.open_many(places)
    assert [each and each.value for each in found[:-1]] == [
        f"value {each}".encode() for each in range(22)
    ]
    assert found[-1] is None
    assert proxy.asked.count("BatchGetSecretValue") == 2
    assert proxy.asked.count("GetSecretValue") <= 4


# Faults


class Between(NamedTuple):
    """A server between the vault and moto. ``faults`` are what the next requests meet, None
    is moto; ``always`` what all after them do; ``asked`` are the operations that came."""

    url: str
    faults: list[Callable[[BaseHTTPRequestHandler], None] | None]
    asked: list[str]
    always: list[Callable[[BaseHTTPRequestHandler], None]]


def says(status: int, code: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"__type": code, "message": f"no: {CANARY}"}).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/x-amz-json-1.1")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def does_it_unheard(handler: Any) -> None:
    handler.forwarded()
    hangs_up(handler)


def talks_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5")
    handler.end_headers()
    handler.wfile.write(b"<html")


@contextlib.contextmanager
def between(moto: Moto) -> Iterator[Between]:
    faults: list[Callable[[BaseHTTPRequestHandler], None] | None] = []
    always: list[Callable[[BaseHTTPRequestHandler], None]] = []
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked.append(self.headers.get("X-Amz-Target", "").rpartition(".")[2])
            fault = faults.pop(0) if faults else always[0] if always else None
            if fault is not None:
                fault(self)
                return
            status, raw = self.forwarded()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def forwarded(self) -> tuple[int, bytes]:
            request = urllib.request.Request(
                moto.url, data=self.body, headers=dict(self.headers.items()), method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Between(f"http://127.0.0.1:{server.server_port}", faults, asked, always)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "fault",
    [
        says(400, "ThrottlingException"),
        says(429, "TooManyRequestsException"),
        says(500, "InternalServiceError"),
        says(503, "ServiceUnavailable"),
        hangs_up,
    ],
)
def test_what_passes_in_a_moment_is_tried_again(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, fault: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        key = binding()
        proxy.faults[:] = [fault]
        stored = vault.store(key, b"one", about(1))
        proxy.faults[:] = [fault, fault]
        place = vault.promote(key, stored, about(1))
        proxy.faults[:] = [fault]
        assert vault.open(key, place) == (b"one", False)


@pytest.mark.parametrize(
    "fault",
    [
        says(400, "ThrottlingException"),
        says(503, "ServiceUnavailable"),
        says(400, "LimitExceededException"),
        hangs_up,
        talks_nonsense,
    ],
)
def test_what_does_not_pass_is_an_outage_with_few_tries_and_it_recovers(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, fault: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        key, place = kept(vault, binding(), b"one", 1)
        proxy.asked.clear()
        proxy.always.append(fault)
        with pytest.raises(DoxStoreError) as raised:
            vault.open(key, place)
        assert raised.value.code == "vault_unavailable"
        assert CANARY not in str(raised.value)
        assert len(proxy.asked) <= 3
        proxy.always.clear()
        assert vault.open(key, place) == (b"one", False)


def test_tries_have_a_budget_that_all_threads_share(
    moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        key, place = kept(vault, binding(), b"one", 1)
        proxy.asked.clear()
        proxy.always.append(says(503, "ServiceUnavailable"))

        def read(_: int) -> str:
            with pytest.raises(DoxStoreError) as raised:
                vault.open(key, place)
            return raised.value.code

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(read, range(64))) == {"vault_unavailable"}
        assert len(proxy.asked) <= 64 + 20


@pytest.mark.parametrize("act", ["open", "promote", "store", "check"])
def test_a_vault_that_is_silent_is_given_up_within_the_timeout(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    released = threading.Event()
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url, seconds=1.2)
        key, place = kept(vault, binding(), b"one", 1)
        later = next_version(key)
        stored = vault.store(later, b"two", about(2))
        acts = {
            "open": lambda: vault.open(key, place),
            "promote": lambda: vault.promote(later, stored, about(2)),
            "store": lambda: vault.store(next_version(key), b"three", about(3)),
            "check": vault.check,
        }
        proxy.always.append(lambda _: released.wait(20))
        began = time.monotonic()
        with refused_as("vault_unavailable"):
            acts[act]()
        assert time.monotonic() - began < 4, "a silent server would have kept it for 20 s"
        released.set()


@pytest.mark.parametrize(
    "code",
    [
        "AccessDeniedException",
        "UnrecognizedClientException",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "DecryptionFailure",
        "EncryptionFailure",
        "ValidationException",
        "SomethingNew",
    ],
)
def test_a_refusal_is_said_at_once(moto: Moto, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        key, place = kept(vault, binding(), b"one", 1)
        proxy.asked.clear()
        proxy.faults.append(says(400, code))
        with pytest.raises(DoxStoreError) as raised:
            vault.open(key, place)
        assert raised.value.code == "vault_refused"
        assert CANARY not in str(raised.value)
        assert len(proxy.asked) == 1
        assert vault.open(key, place) == (b"one", False)


def test_every_error_of_the_library_is_one_of_ours() -> None:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from botocore.session import get_session

    codes = {"vault_unavailable", "vault_refused", "vault_value_missing", "vault_conflict"}
    model = get_session().get_service_model("secretsmanager")
    for shape in model.error_shapes:
        said = {"Error": {"Code": shape.name, "Message": CANARY}}
        failure = failure_of(exceptions.ClientError(said, "GetSecretValue"), "a/b")
        assert failure.error.code in codes
        assert CANARY not in str(failure.error)
    kinds = [
        each
        for each in vars(exceptions).values()
        if isinstance(each, type) and issubclass(each, exceptions.BotoCoreError)
    ]
    for kind in [*kinds, ResponseParserError, OSError, ValueError, RuntimeError]:
        failure = failure_of(kind.__new__(kind), "a/b")
        assert failure.error.code in codes, kind


def test_without_credentials_it_is_refused_and_they_are_looked_for_again(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    vault = vault_at(moto, monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with refused_as("vault_refused"):
        vault.check()
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = made-up\n"
    )
    vault.check()


def test_a_closed_port_is_an_outage(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = vault_at(moto, monkeypatch, "http://127.0.0.1:1", seconds=3)
    with refused_as("vault_unavailable"):
        vault.check()


# Roles and policies


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """A moto that looks at IAM, once `strictly` was called."""
    with serving_moto(tmp_path_factory.mktemp("strict")) as aws:
        yield aws


@contextlib.contextmanager
def strictly(moto: Moto) -> Iterator[None]:
    def set_free(calls: str) -> None:
        request = urllib.request.Request(
            f"{moto.url}/moto-api/reset-auth", method="POST", data=calls.encode()
        )
        request.add_header("Content-Type", "text/plain")
        with urllib.request.urlopen(request, timeout=30):
            pass

    set_free("0")
    try:
        yield
    finally:
        set_free("inf")


def user_with(moto: Moto, name: str, policy: str) -> dict[str, str]:
    """The environment of a new user who may do what ``policy`` says."""
    iam = moto.client("iam", "us-east-1")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="vault", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def left_by_others(moto: Moto) -> str:
    path = f"adopted/{secrets.token_hex(6)}"
    AwsTools(moto.client("secretsmanager", REGION)).put(path, {"token": "theirs"})
    return path


def all_acts(vault: AwsVault, path: str) -> None:
    """Everything that the vault does, each with the rights that it takes; ``path`` is of an entry
    to adopt."""
    vault.check()
    adopted, home = binding(), Home(path=path, field="token", shared=False)
    head = vault.head(adopted, home)
    assert head is not None
    vault.promote(adopted, head.place, about(1, home))
    first, old = kept(vault, binding(), b"one", 1)
    second, new = kept(vault, first, b"two", 2)
    assert vault.open_many([(second, new)]) == [(b"two", False)]
    assert vault.open(first, old) == (b"one", False)
    assert not vault.superseded(first, old)
    assert vault.head(first, None) is not None
    assert vault.find(second) is not None
    third = next_version(first)
    said = about(3)._replace(owner="search")
    place = vault.promote(third, vault.store(third, b"three", said), said)
    assert [each.path for each in vault.entries()]
    vault.withdraw(third, place)
    for each, where in ((first, old), (second, new), (third, place)):
        assert vault.erase(each, where) is Erasure.UNLINKED


def anywhere(policy: str) -> str:
    """``policy`` as moto can check it: its IAM asks for actions on ``*``, and knows no
    conditions."""
    document = json.loads(policy)
    for statement in document["Statement"]:
        statement["Resource"] = "*"
        statement.pop("Condition", None)
    return json.dumps(document)


@pytest.mark.parametrize("kms", ["", "alias/vault"])
def test_the_policy_allows_each_act_of_the_vault(
    strict: Moto, monkeypatch: pytest.MonkeyPatch, kms: str
) -> None:
    more = {"kms_key": kms} if kms else {}
    address = parse_vault(f"aws://{REGION}/{PREFIX}" + (f"?kms_key={kms}" if kms else ""))
    keys = user_with(strict, f"u{secrets.token_hex(4)}", anywhere(vault_policy(address)))
    vault = vault_at(Moto(strict.url, {**strict.environment, **keys}), monkeypatch, **more)
    path = left_by_others(strict)
    with strictly(strict):
        all_acts(vault, path)


@pytest.mark.parametrize(
    "action",
    sorted(
        {
            action
            for each in json.loads(vault_policy(parse_vault(f"aws://{REGION}/{PREFIX}")))[
                "Statement"
            ]
            for action in each["Action"]
        }
    ),
)
def test_no_action_of_the_policy_is_idle(
    strict: Moto, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    address = parse_vault(f"aws://{REGION}/{PREFIX}")
    document = json.loads(anywhere(vault_policy(address)))
    for statement in document["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != action] or ["x:y"]
    keys = user_with(strict, f"u{secrets.token_hex(4)}", json.dumps(document))
    vault = vault_at(Moto(strict.url, {**strict.environment, **keys}), monkeypatch)
    path = left_by_others(strict)
    with strictly(strict), refused_as("vault_refused"):
        all_acts(vault, path)


def test_the_policy_names_region_prefix_key_and_role() -> None:
    role = "arn:aws:iam::123456789012:role/doxstore"
    address = parse_vault(
        f"aws://{REGION}/{PREFIX}?kms_key=0f1e2d3c-1111-2222-3333-444455556666&role_arn={role}"
    )
    statements = {
        each["Sid"]: each for each in json.loads(vault_policy(address, "123456789012"))["Statement"]
    }
    start = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:{PREFIX}"
    assert statements["Keys"]["Resource"] == f"{start}/*"
    assert statements["DeleteApart"]["Resource"] == f"{start}/.versions/*"
    window = statements["DeleteKeysWithRecovery"]["Condition"]["BoolIfExists"]
    assert window == {"secretsmanager:ForceDeleteWithoutRecovery": "false"}
    assert statements["Kms"]["Resource"].endswith(":key/0f1e2d3c-1111-2222-3333-444455556666")
    assert statements["Kms"]["Condition"]["StringEquals"] == {
        "kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"
    }
    (assume,) = json.loads(assume_policy(address) or "")["Statement"]
    assert (assume["Action"], assume["Resource"]) == (["sts:AssumeRole"], role)
    assert assume_policy(parse_vault(f"aws://{REGION}")) is None


def test_a_role_is_taken_and_its_credentials_are_used(
    strict: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"doxstore-{secrets.token_hex(4)}"
    address = parse_vault(f"aws://{REGION}/{PREFIX}")
    iam = strict.client("iam", "us-east-1")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    arn = iam.create_role(
        RoleName=role,
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )["Role"]["Arn"]
    iam.put_role_policy(
        RoleName=role, PolicyName="vault", PolicyDocument=anywhere(vault_policy(address))
    )
    taking = assume_policy(parse_vault(f"aws://{REGION}?role_arn={arn}")) or ""
    keys = user_with(strict, f"u{secrets.token_hex(4)}", anywhere(taking))
    environment = {**strict.environment, **keys}
    path = left_by_others(strict)
    with strictly(strict):
        all_acts(vault_at(Moto(strict.url, environment), monkeypatch, role_arn=arn), path)
        with refused_as("vault_refused"):
            vault_at(Moto(strict.url, environment), monkeypatch).check()
        stranger = user_with_no_rights(strict)
        with refused_as("vault_refused"):
            vault_at(
                Moto(strict.url, {**environment, **stranger}), monkeypatch, role_arn=arn
            ).check()


def user_with_no_rights(moto: Moto) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7NOBODY0", "AWS_SECRET_ACCESS_KEY": "made-up"}


def test_where_deleting_for_good_is_forbidden_it_is_deleted_with_its_window(
    moto: Moto, tools: AwsTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    with between(moto) as proxy:
        vault = vault_at(moto, monkeypatch, proxy.url)
        key = binding()
        place = vault.store(key, b"one", about(1))
        proxy.faults.append(says(400, "AccessDeniedException"))
        vault.erase(key, place)
    said = tools.client.describe_secret(SecretId=f"{PREFIX}/.versions/{key.version_id}")
    assert "DeletedDate" in said
    with refused_as("vault_value_missing"):
        vault_at(moto, monkeypatch).open(key, place)


@pytest.mark.parametrize(
    "options",
    ["recovery_days=6", "recovery_days=31", "recovery_days=x", "role_arn=mine"],
)
def test_options_that_aws_would_not_take_are_refused_at_once(options: str) -> None:
    with refused_as("bad_setting"):
        AwsVault(address=parse_vault(f"aws://{REGION}/p?{options}"), timeout_seconds=1)


def test_no_value_is_in_a_log_or_a_repr(
    vault: AwsVault, tools: AwsTools, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, place = kept(vault, binding(), CANARY.encode(), 1)
    vault.open(key, place)
    vault.open_many([(key, place)])
    assert CANARY not in caplog.text
    assert CANARY not in repr(vault)
    assert hashlib.sha256(CANARY.encode()).hexdigest() in place.decode(), "places are sealed"
