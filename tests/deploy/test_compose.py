"""The Compose file, parsed by the Compose specification's rules, and what it must not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from tests.deploy.test_chart import VALUES

from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress
from dox_core_store.server.settings import load_settings

FILE = Path(__file__).parents[2] / "deploy" / "compose" / "compose.yaml"
TEXT = FILE.read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "database"}
each_of_ours = pytest.mark.parametrize("service", OURS.values(), ids=OURS)


def test_it_is_a_compose_file() -> None:
    parsed = compose_spec.PyCompose.from_json(json.dumps(COMPOSE)).to_dict()
    assert parsed["services"].keys() == {"database", "init", "node"}


def test_a_word_that_compose_does_not_know_would_be_found() -> None:
    wrong = {**COMPOSE, "services": {"node": {**SERVICES["node"], "read_olny": True}}}
    with pytest.raises(ValueError, match="read_olny"):
        compose_spec.PyCompose.from_json(json.dumps(wrong))


@each_of_ours
def test_a_container_of_ours_can_do_no_more_than_serve(service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"nofile": 65536, "core": 0}
    assert "privileged" not in service


@each_of_ours
def test_the_server_takes_the_environment_that_its_container_is_given(
    service: dict[str, Any],
) -> None:
    settings = load_settings({}, service["environment"])
    address = DatabaseAddress(settings.database, password_file=settings.database_password_file)
    assert address.shown == "the database doxstore at /var/run/postgresql"
    mounts = [each.split(":")[1] for each in service["volumes"]]
    mounts += [each.split(":")[0] for each in service["tmpfs"]]
    assert settings.data in mounts
    assert str(Path(settings.key_file).parent) in mounts
    files = {settings.tls_certificate_file, settings.tls_key_file, settings.database_password_file}
    assert files - {""} == {f"/run/secrets/{name}" for name in service["secrets"]}


def test_nobody_reaches_the_database_but_by_its_socket_and_a_password() -> None:
    database = SERVICES["database"]
    assert database["network_mode"] == "none"
    assert "listen_addresses=" in database["command"]
    assert "ports" not in database
    given = database["environment"]
    assert "--auth-local=scram-sha-256" in given["POSTGRES_INITDB_ARGS"]
    assert given["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database-password"
    assert "POSTGRES_PASSWORD" not in given


def test_a_new_store_is_made_by_hand_and_its_token_is_in_no_log() -> None:
    assert SERVICES["init"]["profiles"] == ["init"]
    makers = [name for name, each in OURS.items() if "key:/var/lib/doxstore-key" in each["volumes"]]
    assert makers == ["init"]  # nodes cannot write where the key file lies


def test_a_node_has_longer_to_end_than_it_needs_and_listens_on_this_machine_only() -> None:
    node = SERVICES["node"]
    settings = load_settings({}, node["environment"])
    assert int(node["stop_grace_period"].removesuffix("s")) >= settings.shutdown_seconds + 10
    assert [(each["host_ip"], each["target"]) for each in node["ports"]] == [
        ("127.0.0.1", settings.port)
    ]
    assert "/v1/ready" in " ".join(node["healthcheck"]["test"])


def test_the_probe_is_a_program() -> None:
    *_, program = SERVICES["node"]["healthcheck"]["test"]
    compile(program, "healthcheck", "exec")


def test_no_secret_and_no_mutable_image_stands_in_it() -> None:
    assert "@sha256:" in SERVICES["database"]["image"]
    assert {each["image"] for each in OURS.values()} == {f"{VALUES['image']['repository']}:0.1.0"}
    assert all(each["file"].startswith("./secrets/") for each in COMPOSE["secrets"].values())
    ignored = (FILE.parent / ".gitignore").read_text(encoding="utf-8").split()
    assert ignored == ["secrets/"]
