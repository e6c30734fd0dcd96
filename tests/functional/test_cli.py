"""The real ``doxstore`` against a real server: what each command does, prints, and ends with."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.functional.running import (
    DOXSTORE,
    RunningStore,
    clean_environment,
    free_port,
    run_doxstore,
)

REFUSED, USAGE, UNREACHABLE, NOT_PERMITTED, CONFIGURATION = 1, 2, 75, 77, 78
VALUE = "canary-f0a1c2"

# Makes the terminal on stdin the controlling one, so that a hidden prompt finds it.
ON_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid();"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def operator_environment(store: RunningStore) -> dict[str, str]:
    return {
        "KEY_SERVICE_URL": store.url,
        "ADMIN_TOKEN": store.admin_token,
        "DOXSTORE_DATA": str(store.data),
        "DOXSTORE_KEY_FILE": str(store.key_file),
    }


def cli(
    store: RunningStore, *arguments: str | Path, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return run_doxstore(*arguments, stdin=stdin, **(operator_environment(store) | environment))


def done(store: RunningStore, *arguments: str | Path, stdin: str = "") -> Any:
    """The JSON that a command answers, which has to succeed and to say nothing else."""
    ended = cli(store, *arguments, "--json", stdin=stdin)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(ended: subprocess.CompletedProcess[str], exit_code: int, code: str) -> str:
    """The detail of the one clear error that ``ended`` has to have ended with."""
    assert ended.returncode == exit_code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    found = re.search(rf"^error\[{code}\]: (.+)\n\S.+$", ended.stderr, re.MULTILINE)
    assert found, ended.stderr
    return found[1]


def put(store: RunningStore, key: str, value: str, *more: str) -> Any:
    return done(store, "key", "put", key, "--stdin", *more, stdin=value)


def on_terminal(
    store: RunningStore, *arguments: str, typed: str = "", ended_by: str = ""
) -> tuple[int, str]:
    """One command on a terminal of its own: its exit code, and all that was seen there.

    ``typed`` is typed line by line, each after a prompt (something that ends in ``: ``).
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, DOXSTORE, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=clean_environment(**operator_environment(store), TERM="dumb"),
    )
    os.close(slave)
    lines, seen, asked = typed.splitlines(), b"", 0
    while True:
        try:
            piece = os.read(master, 65_536)
        except OSError:  # how a terminal ends on Linux
            break
        if not piece:
            break
        seen += piece
        if asked < len(lines) and seen.endswith(b": ") and seen.count(b": ") > asked:
            os.write(master, f"{lines[asked]}\n".encode())
            asked += 1
        if ended_by and seen.endswith(b": "):
            os.write(master, ended_by.encode())
            ended_by = ""
    os.close(master)
    return process.wait(30), seen.decode()


# --- init and serve ---------------------------------------------------------------------------


def test_init_makes_a_store_that_its_owner_alone_can_read(tmp_path: Path) -> None:
    data, key_file = tmp_path / "data", tmp_path / "keys" / "root.key"
    ended = run_doxstore("init", "--data", data, "--key-file", key_file, "--operator", "lena")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^store_id +store_[0-9a-f]{32}$", ended.stdout, re.MULTILINE)
    assert re.search(r"^operator +lena$", ended.stdout, re.MULTILINE)
    assert "roles admin, maintainer, security_team_lead, auditor" in ended.stderr
    for path, mode in ((data, 0o700), (data / "store.db", 0o600), (key_file, 0o600)):
        assert path.stat().st_mode & 0o777 == mode


def test_init_demands_a_key_file_outside_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    without = run_doxstore("init", "--data", data)
    assert "DOXSTORE_KEY_FILE" in refused(without, CONFIGURATION, "key_file_missing")
    (tmp_path / "link").symlink_to(data)
    for inside in (data / "root.key", data / "deep" / "root.key", tmp_path / "link" / "root.key"):
        ended = run_doxstore("init", "--data", data, "--key-file", inside)
        assert "lies in the store's folder" in refused(ended, CONFIGURATION, "bad_setting")
    assert not data.exists()


def test_init_leaves_a_store_alone_and_makes_no_key_for_it(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    before = (idle_store.data / "store.db").read_bytes()
    other = tmp_path / "other.key"
    ended = run_doxstore("init", "--data", idle_store.data, "--key-file", other)
    refused(ended, CONFIGURATION, "store_exists")
    assert not other.exists()
    assert (idle_store.data / "store.db").read_bytes() == before


def test_init_with_an_unknown_role_makes_no_store(tmp_path: Path) -> None:
    place = ("--data", tmp_path / "data", "--key-file", tmp_path / "root.key")
    ended = run_doxstore("init", *place, "--role", "king")
    assert "there are admin" in refused(ended, REFUSED, "invalid_field")
    assert not (tmp_path / "data" / "store.db").exists()


def test_serve_says_so_when_it_answers(idle_store: RunningStore) -> None:
    process = subprocess.Popen(
        idle_store.command(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert idle_store.request("GET", "/v1/ready", token="").status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert re.fullmatch(
        rf"dox-core-store serves store_[0-9a-f]{{32}} on {re.escape(idle_store.url)}\n", line
    )


def test_serve_refuses_a_port_that_another_server_holds(
    shared_store: RunningStore, idle_store: RunningStore
) -> None:
    idle_store.port = shared_store.port
    ended = run_doxstore(*idle_store.command()[1:])
    assert "Address already in use" in refused(ended, CONFIGURATION, "bad_setting")
    assert ended.stdout == ""


def test_serve_refuses_a_setting_that_it_does_not_know(idle_store: RunningStore) -> None:
    ended = run_doxstore(*idle_store.command()[1:], DOXSTORE_PROT="1")
    assert "DOXSTORE_PROT" in refused(ended, CONFIGURATION, "bad_setting")


@pytest.mark.parametrize("command", ["init", "serve", "doctor", "operator list"])
def test_without_the_server_extra_a_command_on_files_says_what_is_missing(
    command: str, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['granian', 'sqlalchemy', 'uvloop']));"
        "from dox_core_store.cli import main; sys.exit(main())"
    )
    place = ["--data", tmp_path / "data", "--key-file", tmp_path / "root.key"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *command.split(), *place],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    assert ended.returncode == CONFIGURATION
    assert "dox-core-store[server,cli]" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_says_how_to_serve_with_the_settings_that_it_was_given(tmp_path: Path) -> None:
    config = tmp_path / "doxstore.toml"
    config.write_text("port = 8421")
    place = ["--data", tmp_path / "data", "--key-file", tmp_path / "root.key"]
    told = run_doxstore("init", *place, "--config", config).stderr
    assert f"doxstore serve --config {config} --data" in told


def test_init_says_which_folder_it_cannot_make(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = ["--data", tmp_path / "file" / "data", "--key-file", tmp_path / "root.key"]
    detail = refused(run_doxstore("init", *place), CONFIGURATION, "store_read_only")
    assert str(tmp_path / "file" / "data") in detail
    assert not (tmp_path / "root.key").exists()


# --- keys -------------------------------------------------------------------------------------


def test_the_life_of_a_key(shared_store: RunningStore) -> None:
    store, key = shared_store, "cli.life"
    first = put(store, key, "one", "--owner", "ops", "--expires-at", "2100-01-01")
    assert (first["version"], first["expires_at"][:10]) == (1, "2100-01-01")
    assert put(store, f"{key}.production", "two", "--if-version", "1")["version"] == 2
    late = cli(store, "key", "put", key, "--stdin", "--if-version", "1", stdin="three")
    refused(late, REFUSED, "version_conflict")
    assert done(store, "key", "get", key)["value"] == "two"
    assert done(store, "key", "get", key, "--version", "1")["value"] == "one"
    assert done(store, "key", "rollback", key, "--reason", "two is bad")["version"] == 3
    assert done(store, "key", "get", key, "-e", "production")["value"] == "one"
    extended = done(store, "key", "extend", key, "--for", "400d")
    assert (extended["version"], extended["state"]) == (3, "current")
    revoked = done(store, "key", "revoke", key, "--version", "2", "--reason", "leaked")
    assert revoked["state"] == "revoked"
    asking = cli(store, "key", "destroy", key, "--version", "1")
    assert "--yes" in refused(asking, USAGE, "usage")
    assert done(store, "key", "destroy", key, "--version", "1", "--yes")["state"] == "destroyed"
    states = {each["version"]: each["state"] for each in done(store, "key", "versions", key)}
    assert states == {1: "destroyed", 2: "revoked", 3: "current"}
    (listed,) = done(store, "key", "list", "--prefix", key)
    assert (listed["key_path"], listed["version"], listed["owner"]) == (key, 3, "ops")
    assert "value" not in listed


def test_a_version_is_proposed_promoted_and_ended(shared_store: RunningStore) -> None:
    store, key = shared_store, "cli.proposed"
    put(store, key, "one")
    ended = cli(store, "key", "propose", key, "--stdin", "--json", stdin=VALUE)
    assert ended.returncode == 0
    assert VALUE not in ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["state"] == "pending"
    assert done(store, "key", "get", key)["value"] == "one"
    late = cli(store, "key", "promote", key, "--if-version", "7")
    refused(late, REFUSED, "version_conflict")
    promoted = done(store, "key", "promote", key, "--version", "2", "--if-version", "1")
    assert (promoted["version"], promoted["state"]) == (2, "current")
    assert done(store, "key", "get", key)["value"] == VALUE
    assert done(store, "key", "retire", key, "--reason", "over")["version"] == 1
    assert done(store, "key", "expire", key)["state"] == "current"
    refused(cli(store, "key", "get", key), REFUSED, "key_expired")
    done(store, "key", "extend", key, "--for", "1d")
    shown = cli(store, "key", "show", key)
    assert shown.returncode == 0
    assert "as many as the store's setting says" in shown.stdout
    assert "retired" in shown.stdout
    assert VALUE not in shown.stdout


def test_a_key_is_described_and_shown(shared_store: RunningStore) -> None:
    store, key = shared_store, "cli.described"
    for value in ("one", "two", "three", "four"):
        put(store, key, value)
    said = done(store, "key", "describe", key, "--owner", "ops", "--keep-versions", "1")
    assert (said["owner"], said["keep_versions"]) == ("ops", 1)
    assert [each["state"] for each in said["versions"]] == [
        "destroyed", "retired", "previous", "current",
    ]  # fmt: skip
    said = done(
        store, "key", "describe", f"{key}.production", "--usage", "tests",
        "--keep-versions", "default", "--verified",
    )  # fmt: skip
    assert (said["owner"], said["usage"], said["keep_versions"]) == ("ops", "tests", None)
    assert done(store, "key", "show", key) == said
    for wrong in ((), ("--keep-versions", "-1"), ("--keep-versions", "some")):
        refused(cli(store, "key", "describe", key, *wrong), USAGE, "usage")


@pytest.mark.parametrize("raw", [b"", b"a\r\nb", b"a\n", '"größe" ☃\\'.encode(), b"\x00\x1b[31m"])
def test_what_goes_in_comes_out_byte_for_byte(shared_store: RunningStore, raw: bytes) -> None:
    environment = clean_environment(**operator_environment(shared_store))
    key = [DOXSTORE, "key", "put", "cli.bytes", "--stdin"]
    subprocess.run(key, input=raw, capture_output=True, check=True, env=environment)
    read = subprocess.run(
        [DOXSTORE, "key", "get", "cli.bytes"], capture_output=True, check=True, env=environment
    )
    assert read.stdout == raw


def test_a_newline_at_the_end_is_kept_with_a_warning(
    shared_store: RunningStore, tmp_path: Path
) -> None:
    file = tmp_path / "value"
    file.write_text(f"{VALUE}\n")
    kept = cli(shared_store, "key", "put", "cli.newline", "--from-file", file)
    assert kept.returncode == 0
    assert "--strip-newline" in kept.stderr
    assert done(shared_store, "key", "get", "cli.newline")["value"] == f"{VALUE}\n"
    cli(shared_store, "key", "put", "cli.newline", "--from-file", file, "--strip-newline")
    assert done(shared_store, "key", "get", "cli.newline")["value"] == VALUE


def test_writing_a_key_prints_nothing_of_its_value(shared_store: RunningStore) -> None:
    for more in ((), ("--json",)):
        ended = cli(shared_store, "key", "put", "cli.quiet", "--stdin", *more, stdin=VALUE)
        assert ended.returncode == 0
        assert VALUE not in ended.stdout + ended.stderr
    broken = subprocess.run(
        [DOXSTORE, "key", "put", "cli.quiet", "--stdin"],
        input=VALUE.encode() + b"\xff",
        capture_output=True,
        check=False,
        env=clean_environment(**operator_environment(shared_store)),
    )
    assert broken.returncode == REFUSED
    assert VALUE.encode() not in broken.stdout + broken.stderr


def test_a_value_is_shown_on_a_terminal_only_when_asked(shared_store: RunningStore) -> None:
    shared_store.put("cli.shown", VALUE)
    for more in ((), ("--json",)):
        code, seen = on_terminal(shared_store, "key", "get", "cli.shown", *more)
        assert code == USAGE
        assert "--show" in seen
        assert VALUE not in seen
    code, seen = on_terminal(shared_store, "key", "get", "cli.shown", "--show")
    assert code == 0
    assert f"\n{VALUE}\r\n" in seen


def test_a_value_that_is_typed_is_hidden_and_typed_twice(shared_store: RunningStore) -> None:
    arguments = ("key", "put", "cli.typed")
    code, seen = on_terminal(shared_store, *arguments, typed=f"{VALUE}\n{VALUE}\n")
    assert code == 0, seen
    assert VALUE not in seen
    assert done(shared_store, "key", "get", "cli.typed")["value"] == VALUE
    code, seen = on_terminal(shared_store, *arguments, typed=f"{VALUE}\nanother\n")
    assert code == USAGE
    assert "do not match" in seen
    assert done(shared_store, "key", "get", "cli.typed")["version"] == 1


def test_what_cannot_be_undone_is_asked_for_on_a_terminal(shared_store: RunningStore) -> None:
    shared_store.put("cli.asked", VALUE)
    shared_store.put("cli.asked", "newer")
    destroy = ("key", "destroy", "cli.asked", "--version", "1")
    code, seen = on_terminal(shared_store, *destroy, typed="n\n")
    assert code == REFUSED, seen
    assert "error[aborted]" in seen
    assert shared_store.get("cli.asked", version=1).status == 200
    code, seen = on_terminal(shared_store, *destroy, typed="y\n")
    assert code == 0, seen
    assert shared_store.get("cli.asked", version=1).status == 410


def test_ctrl_c_at_a_prompt_stores_nothing(shared_store: RunningStore) -> None:
    code, seen = on_terminal(shared_store, "key", "put", "cli.interrupted", ended_by="\x03")
    assert code == 130, seen
    assert "Traceback" not in seen
    refused(cli(shared_store, "key", "get", "cli.interrupted"), REFUSED, "key_not_found")


def test_a_reader_that_has_enough_ends_the_command_quietly(shared_store: RunningStore) -> None:
    shared_store.put("cli.large", "x" * 65_000)
    process = subprocess.Popen(
        [DOXSTORE, "ledger", "export"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(**operator_environment(shared_store)),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.wait(30)
    process.stderr.close()


# --- services, grants, tokens, environments, operators ----------------------------------------


def test_a_service_gets_what_it_was_granted_and_loses_it(shared_store: RunningStore) -> None:
    store, name = shared_store, "cli-service"
    store.put("cli.granted", VALUE)
    made = done(store, "service", "register", name, "--require", "cli.granted")
    assert made["granted"] == ["cli.granted.production"]
    token = cli(store, "token", "issue", name, "--expires-in", "1h")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", token.stdout)
    assert "tok_" in token.stderr
    service = token.stdout.strip()
    assert store.get("cli.granted", service).status == 200

    assert done(store, "service", "limit", name, "1000000/s", "--burst", "7")["burst"] == 7
    (listed,) = [each for each in done(store, "service", "list") if each["service_name"] == name]
    assert (listed["limit"], listed["status"]) == ("1000000/s", "active")

    more = done(store, "grant", "add", name, "cli.more.**", "-e", "staging", "--deny")
    assert (more["effect"], more["environment"]) == ("deny", "staging")
    assert len(done(store, "grant", "list", name)) == 2
    assert done(store, "grant", "remove", more["grant_id"])["removed"] == more["grant_id"]
    done(store, "grant", "remove", name, "cli.granted.production")
    assert done(store, "grant", "list", name) == []
    again = cli(store, "grant", "remove", name, "cli.granted")
    refused(again, REFUSED, "grant_not_found")
    assert store.get("cli.granted", service).status == 403

    done(store, "token", "revoke", "--service", name, "--reason", "test")
    assert store.get("cli.granted", service).status == 401
    issued = done(store, "token", "issue", name)
    done(store, "token", "revoke", "--id", issued["token_id"])
    assert store.get("cli.granted", issued["token"]).status == 401
    refused(cli(store, "token", "revoke"), USAGE, "usage")

    ended = cli(store, "service", "decommission", name, "--reason", "test")
    assert "--yes" in refused(ended, USAGE, "usage")
    ended = done(store, "service", "decommission", name, "--reason", "test", "--yes")
    assert ended["status"] == "decommissioned"
    refused(cli(store, "token", "issue", name), REFUSED, "service_decommissioned")


def test_a_grant_that_is_meant_by_more_than_one_is_named_by_its_id(
    shared_store: RunningStore,
) -> None:
    done(shared_store, "service", "register", "cli-two")
    for environment in ("staging", "production"):
        done(shared_store, "grant", "add", "cli-two", "cli.two", "-e", environment)
    ended = cli(shared_store, "grant", "remove", "cli-two", "cli.two")
    assert ended.stderr.count("gra_") == 2
    refused(ended, USAGE, "usage")
    done(shared_store, "grant", "remove", "cli-two", "cli.two", "-e", "staging")
    (left,) = done(shared_store, "grant", "list", "cli-two")
    assert left["environment"] == "production"


def test_environments_are_listed_and_added(shared_store: RunningStore) -> None:
    assert done(shared_store, "env", "add", "cli-preview")["name"] == "cli-preview"
    listed = {each["name"]: each["is_default"] for each in done(shared_store, "env", "list")}
    assert listed["production"] is True
    assert listed["cli-preview"] is False
    shared_store.put("cli.some.where", VALUE)
    refused(cli(shared_store, "env", "add", "where"), REFUSED, "environment_in_use")


def test_operators_are_managed_beside_a_running_server(store: RunningStore) -> None:
    added = done(store, "operator", "add", "lena", "--role", "auditor")
    assert (added["status"], added["roles"]) == ("active", ["auditor"])
    token = cli(store, "operator", "token", "lena", "--expires-in", "1h").stdout.strip()
    store.put("some.key", VALUE)
    mine = cli(store, "key", "get", "some.key", ADMIN_TOKEN=token)
    assert "maintainer" in refused(mine, NOT_PERMITTED, "role_required")
    assert cli(store, "key", "list", ADMIN_TOKEN=token).returncode == 0
    assert done(store, "operator", "disable", "lena", "--reason", "left")["status"] == "disabled"
    assert {each["name"] for each in done(store, "operator", "list")} == {"admin", "lena"}
    refused(cli(store, "operator", "token", "lena"), REFUSED, "illegal_transition")
    refused(cli(store, "operator", "disable", "admin"), REFUSED, "last_admin")
    refused(cli(store, "operator", "token", "nobody"), REFUSED, "operator_not_found")
    ended = cli(store, "key", "list", ADMIN_TOKEN=token)
    refused(ended, NOT_PERMITTED, "token_revoked|token_invalid")
    (entry,) = done(store, "ledger", "search", "--action", "disable_operator")
    assert entry["service_name"].startswith("local:")
    assert entry["reason"] == "left"


# --- errors -----------------------------------------------------------------------------------


def test_how_a_command_ends_says_why(shared_store: RunningStore) -> None:
    store = shared_store
    refused(cli(store, "key", "get", "cli.nowhere"), REFUSED, "key_not_found")
    refused(cli(store, "key", "get", "a..b"), REFUSED, "malformed_path")
    refused(cli(store, "key", "list", "--prefx", "a"), USAGE, "usage")
    refused(cli(store, "key", "extend", "a.b"), USAGE, "usage")
    refused(cli(store, "key", "put", "a.b"), USAGE, "usage")
    refused(cli(store, "nothing"), USAGE, "usage")
    nowhere = f"http://127.0.0.1:{free_port()}"
    away = cli(store, "key", "list", KEY_SERVICE_URL=nowhere)
    refused(away, UNREACHABLE, "connection_failed")
    plain = cli(store, "key", "list", KEY_SERVICE_URL="http://keys.example")
    refused(plain, CONFIGURATION, "insecure_url")
    refused(cli(store, "key", "list", ADMIN_TOKEN=""), CONFIGURATION, "bad_setting")
    forged = f"{store.admin_token[:-6]}AAAAAA"
    refused(cli(store, "key", "list", ADMIN_TOKEN=forged), NOT_PERMITTED, "token_invalid")
    away = cli(store, "operator", "list", "--data", "/nowhere")
    refused(away, CONFIGURATION, "store_missing")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("key", "get", "cli.nowhere"), "key_not_found"),
        (("key", "list", "--prefx"), "usage"),
        (("operator", "list", "--data", "/nowhere"), "store_missing"),
    ],
)
def test_with_json_an_error_is_json_too(
    shared_store: RunningStore, arguments: tuple[str, ...], code: str
) -> None:
    ended = cli(shared_store, *arguments, "--json")
    assert ended.stdout == ""
    error = json.loads(ended.stderr)["error"]
    assert set(error) == {"code", "detail", "remedy"}
    assert error["code"] == code


# --- the ledger and the doctor ----------------------------------------------------------------


def test_the_ledger_is_searched_by_what_is_known(shared_store: RunningStore) -> None:
    store = shared_store
    put(store, "cli.search.one", VALUE, "--reason", "for the search")
    done(store, "key", "get", "cli.search.one")
    refused(cli(store, "key", "get", "cli.search.two"), REFUSED, "key_not_found")
    found = done(store, "ledger", "search", "--prefix", "cli.search", "--since", "1h")
    assert [(each["action"], each["status"]) for each in found] == [
        ("GET", "NOT_FOUND"),
        ("GET", "GRANTED"),
        ("PUT", "GRANTED"),
    ]
    (written,) = done(store, "ledger", "search", "--key", "cli.search.one", "--action", "put")
    assert written["reason"] == "for the search"
    same = done(store, "ledger", "search", "--request-id", written["request_id"])
    assert same == [written]
    assert done(store, "ledger", "search", "--until", "1d", "--all") == []
    (newest,) = done(store, "ledger", "search", "--limit", "1", "--address", "127.0.0.1")
    assert newest["status"] == "GRANTED"
    told = cli(store, "ledger", "search", "--prefix", "cli.search", "--status", "not_found")
    assert "cli.search.two" in told.stdout
    refused(cli(store, "ledger", "search", "--since", "yesterday"), USAGE, "usage")


def test_what_somebody_asked_for_does_not_steer_the_terminal(shared_store: RunningStore) -> None:
    shared_store.request("GET", "/v1/keys/%1b%5b31mred")
    told = cli(shared_store, "ledger", "search", "--status", "invalid", "--limit", "5")
    assert told.returncode == 0
    assert "\x1b" not in told.stdout
    assert "31mred" in told.stdout


def test_a_whole_ledger_is_verified_in_all_three_ways(store: RunningStore, tmp_path: Path) -> None:
    store.put("some.key", VALUE)
    assert store.get("some.key").status == 200
    asked = done(store, "ledger", "verify")
    assert asked["status"] == "ok"
    assert asked["entries"] >= 5
    export, key = tmp_path / "ledger.jsonl", tmp_path / "checkpoint-key.json"
    assert cli(store, "ledger", "export", "--output", export).returncode == 0
    assert export.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.glob(".ledger*")] == []
    assert VALUE not in export.read_text()
    key.write_bytes(store.request("GET", "/.well-known/checkpoint-key.json", token="").body)
    store.stop()
    by_data = done(store, "ledger", "verify", "--data", store.data)
    assert by_data["entries"] > asked["entries"]
    assert by_data["checkpoints"] >= 1
    lines = export.read_text().splitlines(keepends=True)
    by_file = run_doxstore("ledger", "verify", "--file", export, "--checkpoint-key", key)
    assert by_file.returncode == 0, by_file.stderr
    assert f"{len(lines)} in" in by_file.stdout

    for forged in (lines[3].replace("GRANTED", "DENIED"), "{}\n"):
        export.write_text("".join([*lines[:3], forged, *lines[4:]]))
        ended = run_doxstore("ledger", "verify", "--file", export, "--checkpoint-key", key)
        assert ended.returncode == REFUSED, ended.stdout
        assert re.search(r"^broken +\S+ #\d+ .+\.$", ended.stdout, re.MULTILINE)

    key.write_text(key.read_text().replace(store.store_id, "store_of_others"))
    ended = cli(store, "ledger", "verify", "--data", store.data, "--checkpoint-key", key)
    assert "is of store" in refused(ended, CONFIGURATION, "bad_setting")


def change(store: RunningStore, *statements: str) -> None:
    database = sqlite3.connect(store.data / "store.db")
    for statement in statements:
        assert database.execute(statement).rowcount == 1, statement
    database.commit()
    database.close()


def test_an_entry_that_was_changed_in_the_database_is_named(store: RunningStore) -> None:
    store.put("some.key", VALUE)
    store.stop()
    database = sqlite3.connect(store.data / "store.db")
    blocks = database.execute("SELECT block_id, first_seq, body FROM ledger_block").fetchall()
    ((block, seq, body),) = [each for each in blocks if b'"PUT"' in each[2]]
    forged = (body.replace(b"some.key", b"same.key"), block)
    database.execute("UPDATE ledger_block SET body = ? WHERE block_id = ?", forged)
    database.commit()
    database.close()
    ended = cli(store, "ledger", "verify", "--data", store.data, "--json")
    assert ended.returncode == REFUSED
    broken = json.loads(ended.stdout)
    assert (broken["status"], broken["stream"], broken["seq"]) == ("broken", "changes", seq)
    told = cli(store, "doctor")
    assert told.returncode == REFUSED
    assert re.search(rf"^ledger +failure +changes #{seq}: was changed", told.stdout, re.MULTILINE)
    store.start()
    assert cli(store, "ledger", "verify").returncode == REFUSED


def test_a_block_that_was_taken_out_of_the_database_is_missed(store: RunningStore) -> None:
    store.put("some.key", VALUE)
    store.stop()
    change(
        store, "DELETE FROM ledger_block WHERE block_id = (SELECT max(block_id) FROM ledger_block)"
    )
    ended = cli(store, "ledger", "verify", "--data", store.data)
    assert ended.returncode == REFUSED
    assert "it ends at" in ended.stdout


def checks(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
    found = {each["check"]: each["status"] for each in json.loads(ended.stdout)["checks"]}
    assert ended.returncode == (REFUSED if "failure" in found.values() else 0)
    return found


def test_the_doctor_finds_a_new_store_sound_but_with_one_slot_and_no_backup(
    store: RunningStore,
) -> None:
    settings = {"DOXSTORE_PORT": str(store.port), "DOXSTORE_BALLAST_MIB": "0"}
    found = checks(cli(store, "doctor", "--json", **settings))
    for check in ("slots", "backup", "drill", "ballast"):
        assert found.pop(check) == "warning"
    assert found.pop("disk") in {"ok", "warning"}
    assert set(found.values()) == {"ok"}
    assert set(found) == {
        "folder", "key file", "seal", "schema", "durability", "database", "records", "values",
        "ledger", "ledger and records", "sealing keys", "history", "epoch", "clock", "server",
        "room", "shipping", "tokens",
    }  # fmt: skip
    told = cli(store, "doctor", DOXSTORE_PORT=str(store.port))
    assert f"answers at {store.url}" in told.stdout


def test_the_doctor_names_a_record_that_was_changed_from_outside(idle_store: RunningStore) -> None:
    change(idle_store, """UPDATE operator SET roles = '["admin"]' WHERE name = 'admin'""")
    told = cli(idle_store, "doctor", "--json")
    assert checks(told)["records"] == "failure"
    assert "operator admin" in told.stdout


def test_the_doctor_says_what_keeps_a_store_badly(idle_store: RunningStore) -> None:
    inside = idle_store.data / "root.key"
    idle_store.key_file.rename(inside)
    idle_store.key_file = inside
    idle_store.data.chmod(0o755)
    found = checks(cli(idle_store, "doctor", "--json"))
    assert (found["folder"], found["key file"], found["seal"]) == ("warning", "warning", "ok")
    inside.chmod(0o644)
    assert checks(cli(idle_store, "doctor", "--json"))["seal"] == "failure"


def test_the_doctor_does_not_need_a_store_that_opens(tmp_path: Path) -> None:
    place = ("--data", tmp_path / "none", "--key-file", tmp_path / "none.key")
    found = checks(run_doxstore("doctor", *place, "--json"))
    assert (found["folder"], found["seal"]) == ("failure", "failure")
    assert found["key file"] == "warning"
