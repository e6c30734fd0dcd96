"""The real ``doxstore``: what it says where it cannot print, or where an empty answer would lie."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.functional.running import DOXSTORE, RunningStore, clean_environment, run_doxstore

REFUSED, USAGE, UNREACHABLE, CONFIGURATION = 1, 2, 75, 78
SEARCH = ("ledger", "search")


def environment_of(store: RunningStore) -> dict[str, str]:
    return {"KEY_SERVICE_URL": store.url, "ADMIN_TOKEN": store.admin_token}


def cli(
    store: RunningStore, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return run_doxstore(*arguments, **(environment_of(store) | environment))


def in_shell(store: RunningStore, script: str) -> subprocess.CompletedProcess[str]:
    """``script`` in bash, with ``$doxstore``."""
    return subprocess.run(
        ["bash", "-uc", script],
        env=clean_environment(**environment_of(store), doxstore=str(DOXSTORE)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(ended: subprocess.CompletedProcess[str], exit_code: int, code: str) -> str:
    """Detail and remedy of the one error."""
    assert ended.returncode == exit_code, ended.stdout + ended.stderr
    found = re.search(rf"^error\[{code}\]: (.+\n.+)\n\Z", ended.stderr, re.MULTILINE)
    assert found, ended.stderr
    return found[1]


# --- output -----------------------------------------------------------------------------------


def test_an_export_never_replaces_what_is_no_file(
    shared_store: RunningStore, tmp_path: Path
) -> None:
    (folder := tmp_path / "folder").mkdir()
    os.mkfifo(fifo := tmp_path / "fifo")
    (aim := tmp_path / "aim").write_text("as it was")
    (link := tmp_path / "link").symlink_to(aim)
    for path in (folder, fifo, link):
        before = path.lstat().st_ino
        told = refused(cli(shared_store, "ledger", "export", "--output", path), USAGE, "usage")
        assert ("name a file" if path is folder else f"`> {path}`") in told
        assert path.lstat().st_ino == before
    assert aim.read_text() == "as it was"
    assert {each.name for each in tmp_path.iterdir()} == {"folder", "fifo", "aim", "link"}
    nowhere = cli(shared_store, "ledger", "export", "--output", tmp_path / "no" / "file")
    assert "No such file" in refused(nowhere, CONFIGURATION, "output_failed")


def test_an_export_that_finds_no_room_leaves_the_one_before(
    shared_store: RunningStore, tmp_path: Path
) -> None:
    (file := tmp_path / "ledger.jsonl").write_text("the export before")
    ended = in_shell(
        shared_store,
        f"ulimit -f 1; exec $doxstore ledger export --output {shlex.quote(str(file))}",
    )
    assert "File too large" in refused(ended, CONFIGURATION, "output_failed")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["the export before"]


@pytest.mark.parametrize(
    "command", ["--help", "env list", "env list --json", "ledger search", "ledger export"]
)
def test_a_full_output_is_one_error(shared_store: RunningStore, command: str) -> None:
    ended = in_shell(shared_store, f"exec $doxstore {command} >/dev/full")
    if "--json" in command:
        assert json.loads(ended.stderr)["error"]["code"] == "output_failed"
        assert ended.returncode == CONFIGURATION
    else:
        assert "No space left" in refused(ended, CONFIGURATION, "output_failed")


@pytest.mark.parametrize("output", [">/dev/full", "| true"])
def test_a_token_that_was_not_shown_can_be_revoked(shared_store: RunningStore, output: str) -> None:
    shared_store.register("unseen")
    ended = in_shell(shared_store, f"set -o pipefail; $doxstore token issue unseen {output}")
    assert ended.returncode == CONFIGURATION, ended.stderr
    found = re.search(r"not shown; revoke it: `doxstore (token revoke --id \S+)`", ended.stderr)
    assert found, ended.stderr
    assert cli(shared_store, *found[1].split()).returncode == 0


def test_whoever_has_enough_of_an_export_ends_it_quietly(shared_store: RunningStore) -> None:
    for number in range(40):
        shared_store.put(f"enough.key{number}", "v", usage="u" * 900)
    shared_store.put("enough.last", "v", reason="r" * 500)
    for command in ("ledger export", "ledger search --all --json"):
        ended = in_shell(shared_store, f"$doxstore {command} | head -c 40")
        assert (ended.returncode, ended.stderr, len(ended.stdout)) == (0, "", 40)


# --- filters that nothing can match -----------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        (("--action", "gett"), "There is no action 'GETT'. Nearest: GET."),
        (("--status", "denyed"), "Nearest: DENIED."),
        (("--status", "xyz"), "GRANTED, "),
        (("--address", "localhost"), "'localhost' is no address"),
        (("--address", "10.0.0.0/8"), "is no address"),
        (("--since", "1h", "--until", "2h"), "since has to be earlier than until"),
        (("--since", "2026-01-01", "--until", "2026-01-01"), "has to be earlier"),
        (("--since", "2999-01-01"), "lies in the future"),
    ],
)
def test_a_search_that_can_find_nothing_is_refused(
    shared_store: RunningStore, filters: Sequence[str], told: str
) -> None:
    said = refused(cli(shared_store, *SEARCH, *filters), REFUSED, "invalid_parameter")
    assert told in said
    assert said.endswith("See `doxstore ledger search --help`.")


def test_an_undeclared_environment_is_refused_too(shared_store: RunningStore) -> None:
    ended = cli(shared_store, *SEARCH, "-e", "produktion")
    assert "'produktion' is not declared" in refused(ended, REFUSED, "unknown_environment")


def test_a_search_that_finds_nothing_says_so(shared_store: RunningStore) -> None:
    ended = cli(shared_store, *SEARCH, "--key", "nobody.asked.for.it")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "Nothing matches.\n")
    ended = cli(shared_store, *SEARCH, "--key", "nobody.asked.for.it", "--json")
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_nobody_was_handed_a_key_in_the_future(shared_store: RunningStore) -> None:
    ended = cli(shared_store, "ledger", "since", "a.b", "--from", "2999-01-01")
    assert "lies in the future" in refused(ended, REFUSED, "invalid_parameter")


@pytest.mark.parametrize(
    "command",
    [("access", "unused", "--service"), ("token", "list", "--service"), ("grant", "list")],
    ids=" ".join,
)
def test_a_service_that_is_not_there_has_no_empty_list(
    shared_store: RunningStore, command: Sequence[str]
) -> None:
    ended = cli(shared_store, *command, "nobody")
    assert "There is no service nobody" in refused(ended, REFUSED, "service_not_found")


def test_no_grant_that_is_too_young_is_proposed_for_removal(shared_store: RunningStore) -> None:
    shared_store.register("young", "young.key")
    told = cli(shared_store, "access", "unused", "--service", "young")
    assert told.stderr == "No grant is old enough to tell.\n"
    assert "young.key" in told.stdout
    [row] = json.loads(cli(shared_store, "access", "unused", "--service", "young", "--json").stdout)
    assert (row["too_young"], row["command"]) == (True, None)


# --- ledger verify ----------------------------------------------------------------------------


def test_what_is_no_export_is_not_verified(shared_store: RunningStore, tmp_path: Path) -> None:
    key, ocsf, export = tmp_path / "key.json", tmp_path / "events.jsonl", tmp_path / "ledger.jsonl"
    key.write_bytes(shared_store.request("GET", "/.well-known/checkpoint-key.json", token="").body)
    for more in ((ocsf, "--format", "ocsf"), (export,)):
        assert cli(shared_store, "ledger", "export", "--output", *more).returncode == 0

    def verified(file: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
        return run_doxstore("ledger", "verify", "--file", file, *more)

    whole = verified(export, "--checkpoint-key", key)
    assert whole.returncode == 0, whole.stderr
    assert whole.stderr == "Whether the end was cut off does not show without --checkpoints.\n"
    assert verified(export, "--checkpoint-key", key, "--checkpoints", export).stderr == ""
    told = refused(verified(ocsf, "--checkpoint-key", key), CONFIGURATION, "bad_setting")
    assert "this is no ledger export: events of OCSF cannot be verified" in told
    told = refused(verified(DOXSTORE, "--checkpoint-key", key), CONFIGURATION, "bad_setting")
    assert "this is no ledger export" in told
    (empty := tmp_path / "empty.jsonl").touch()
    for more in ((), ("--part",)):
        ended = verified(empty, "--checkpoint-key", key, *more)
        assert (ended.returncode, "there are no entries at all" in ended.stdout) == (REFUSED, True)
    told = refused(verified(export), CONFIGURATION, "bad_setting")
    assert told.startswith("Without --checkpoint-key FILE the store is asked for it: KEY_SERVICE")


# --- words ------------------------------------------------------------------------------------


def test_errors_say_what_to_do_at_a_terminal(shared_store: RunningStore) -> None:
    store = shared_store
    told = refused(cli(store, "key", "list", ADMIN_TOKEN="junk"), CONFIGURATION, "bad_setting")
    assert "ADMIN_TOKEN is not a token" in told
    away = cli(store, "key", "list", KEY_SERVICE_URL="http://127.0.0.1:1")
    assert "doxstore doctor" in refused(away, UNREACHABLE, "connection_failed")
    limit = cli(store, "service", "limit", "nobody", "5/fortnight")
    told = refused(limit, REFUSED, "invalid_field")
    assert told.endswith("See `doxstore service limit --help`.")
    for command in (("explain", "some-service"), ("who-can",)):
        pattern = cli(store, "access", *command, "weather.*")
        assert "'weather.*' is not a key path" in refused(pattern, USAGE, "usage")
    name = ("bad name", "--url", "https://x.example", "--audience", "a")
    told = refused(cli(store, "issuer", "add", *name), REFUSED, "invalid_field")
    assert "'bad name' is not an issuer's name" in told
    told = refused(cli(store, "login"), CONFIGURATION, "sign_in_failed")
    assert "no issuer for people; see `doxstore issuer trust`" in told


def test_an_issuer_is_told_in_words_that_fit(shared_store: RunningStore) -> None:
    issuer = ("--url", "https://words.example", "--audience", "a")
    assert cli(shared_store, "issuer", "add", "words", *issuer).returncode == 0
    trust = ("issuer", "trust", "words", "--operators-by", "email", "--role", "auditor")
    told = cli(shared_store, *trust, "--claim", "hd=x", "--max", "13h")
    assert "Tokens of operators" in refused(told, REFUSED, "invalid_field")
    told = cli(shared_store, *trust, "--claim", "hd=x")
    assert re.search(r"^at most +12 h$", told.stdout, re.MULTILINE), told.stdout
    first, second = (cli(shared_store, "issuer", "disable", "words") for _ in range(2))
    assert "already" not in first.stdout
    assert "words (it was disabled already)" in second.stdout


def test_a_service_key_that_others_can_read_binds_no_token(
    shared_store: RunningStore, tmp_path: Path
) -> None:
    shared_store.register("keyed")
    file = tmp_path / "service.key"
    issue = ("token", "issue", "keyed", "--bind", "--expires-in", "1h")
    assert cli(shared_store, *issue, SERVICE_KEY_FILE=str(file)).returncode == 0
    file.chmod(0o640)
    ended = cli(shared_store, *issue, SERVICE_KEY_FILE=str(file))
    assert "chmod 600" in refused(ended, CONFIGURATION, "bad_setting")
    told = cli(shared_store, "access", "explain", "keyed", "some.key").stdout
    assert "1 live (1 needs the service's key), until 20" in told
    assert "no use known yet (some seconds behind)" in told
    assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\dZ; no use", told), told
