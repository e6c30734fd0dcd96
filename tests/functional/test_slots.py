"""Slots for real: three ways into one store, OpenBao's Transit, AWS's KMS, and what is refused."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.functional.real_servers import Moto, OpenBao
from tests.functional.running import (
    DOXSTORE,
    RunningStore,
    clean_environment,
    free_port,
    run_doxstore,
)

REFUSED, USAGE, UNREACHABLE, NOT_PERMITTED, CONFIGURATION = 1, 2, 75, 77, 78
PASSPHRASE = "canary seven grey Geese müde"
VALUE = "canary-of-slots-71c2"
KEY = "service_keys.slots.production"


class Three(NamedTuple):
    """A store with a key file, a passphrase and 2-of-3 shares; not served."""

    store: RunningStore
    shares: list[str]
    slots: dict[str, str]

    def copy(self, folder: Path) -> RunningStore:
        copied = RunningStore(folder)
        copied.copy_of(self.store)
        return copied

    def words(self, kind: str) -> str:
        """What is typed to open it by ``kind``."""
        return {
            "passphrase": f"{PASSPHRASE}\n",
            "shares": "\n".join(self.shares[1:]),
            "key-file": "",
        }[kind]


def seal(*arguments: str | Path, stdin: str = "", **environment: str) -> Any:
    """What a ``seal slots`` command that works says."""
    done = run_doxstore("seal", "slots", *arguments, "--json", stdin=stdin, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(
    code: str, exit_code: int, *arguments: str | Path, stdin: str = "", **environment: str
) -> str:
    """The detail of the one error that a ``seal slots`` command ends with."""
    done = run_doxstore("seal", "slots", *arguments, "--json", stdin=stdin, **environment)
    error = json.loads(done.stderr)["error"]
    assert (error["code"], done.returncode) == (code, exit_code), error
    assert error["remedy"]
    assert done.stdout == ""
    return str(error["detail"])


def slots_of(store: RunningStore) -> dict[str, str]:
    return {each["kind"]: each["slot_id"] for each in seal("list", "--data", store.data)}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("three")
    store = RunningStore(folder / "store")
    store.copy_of(made_store)
    store.start()
    store.put(KEY, VALUE)
    store.stop()
    given = ("--data", store.data, "--key-file", store.key_file)
    seal("add", "passphrase", "--stdin", "--label", "safe", *given, stdin=f"{PASSPHRASE}\n")
    seal("add", "shares", "--threshold", "2", "--shares", "3", "--shares-dir", folder / "s", *given)
    files = sorted((folder / "s").iterdir())
    assert [each.stat().st_mode & 0o777 for each in files] == [0o600] * 3
    yield Three(store, [each.read_text().strip() for each in files], slots_of(store))
    store.dispose()


def read_with_a_new_key_file(store: RunningStore, kind: str, words: str) -> str:
    """Open ``store`` by ``kind`` alone, add a key file, serve with that, and read the value."""
    new = store.folder / f"{kind}.key"
    opened = ["--key-file", store.key_file] if kind == "key-file" else []
    seal(
        *("add", "key-file", "--new-key-file", new, "--data", store.data, "--unseal-with", kind),
        *opened,
        stdin=words,
    )
    store.key_file = new
    store.start()
    token = store.issue("reader", KEY)
    value: str = store.get(KEY, token).json["value"]
    store.stop()
    return value


@pytest.mark.parametrize("kind", ["key-file", "passphrase", "shares"])
def test_each_of_three_slots_alone_opens_a_copy(three: Three, tmp_path: Path, kind: str) -> None:
    copied = three.copy(tmp_path / "copy")
    if kind != "key-file":
        copied.key_file.unlink()
    assert read_with_a_new_key_file(copied, kind, three.words(kind)) == VALUE


def test_with_the_file_slot_removed_and_its_file_deleted_two_shares_open_the_store(
    three: Three, tmp_path: Path
) -> None:
    copied = three.copy(tmp_path / "copy")
    given = ("--data", copied.data, "--key-file", copied.key_file)
    done = run_doxstore("seal", "slots", "remove", three.slots["key-file"], "--yes", *given)
    assert done.returncode == 0, done.stderr
    assert "older copy of the database" in done.stderr
    refused("slot_needed", CONFIGURATION, "test", "--unseal-with", "key-file", *given)
    copied.key_file.unlink()
    assert read_with_a_new_key_file(copied, "shares", three.words("shares")) == VALUE
    copied.start()
    changes = [e for e in copied.verified_export() if e["action"] in {"ADD_SLOT", "REMOVE_SLOT"}]
    assert [(e["action"], e["reason"]) for e in changes] == [
        ("ADD_SLOT", "passphrase"),
        ("ADD_SLOT", "shares"),
        ("REMOVE_SLOT", "key-file"),
        ("ADD_SLOT", "key-file"),
    ]
    assert changes[2]["key_path"] == f"_store.slots.{three.slots['key-file']}"
    assert changes[2]["service_name"].startswith("local:")
    copied.stop()


def test_a_slot_may_be_removed_and_the_keys_renewed_in_one_go(three: Three, tmp_path: Path) -> None:
    older, copied = three.copy(tmp_path / "older"), three.copy(tmp_path / "copy")
    given = ("--data", copied.data, "--key-file", copied.key_file)
    removed = ("remove", three.slots["passphrase"], "--yes", "--rekey", *given)
    assert seal(*removed)["new_keys"] == "enrolling"  # the shares' holders are not here
    opened = ("--data", copied.data, "--unseal-with", "shares")
    words = three.words("shares")
    rotated = run_doxstore("seal", "rotate-root", *opened, "--json", stdin=words)
    assert json.loads(rotated.stdout)["status"] == "finished", rotated.stderr
    own = run_doxstore(
        *("seal", "slots", "remove", three.slots["shares"], "--yes", "--rekey", *opened),
        stdin=words,
    )
    assert own.returncode == USAGE
    assert (
        seal("remove", three.slots["shares"], "--yes", "--rekey", *given)["new_keys"] == "complete"
    )
    assert seal("test", *given)["kind"] == "key-file"
    # What was removed opens the older copy still, and not with its slot put into the newer one.
    seal("test", "--data", older.data, "--unseal-with", "shares", stdin=words)
    with sqlite3.connect(copied.data / "store.db") as database:
        database.execute("ATTACH ? AS older", (str(older.data / "store.db"),))
        database.execute("INSERT INTO seal_slot SELECT * FROM older.seal_slot WHERE kind='shares'")
    database.close()
    refused("store_damaged", CONFIGURATION, "test", *opened, stdin=words)
    assert read_with_a_new_key_file(copied, "key-file", "") == VALUE


def test_every_command_on_the_store_opens_by_what_people_know(three: Three) -> None:
    done = run_doxstore(
        *("doctor", "--data", three.store.data, "--json"),
        stdin=three.words("shares"),
        DOXSTORE_UNSEAL_WITH="shares",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] in {"ok", "warning"}


def test_each_slot_can_be_tested_by_its_id(three: Three) -> None:
    for kind in ("passphrase", "shares"):
        told = seal(
            *("test", three.slots[kind], "--data", three.store.data, "--unseal-with", kind),
            stdin=three.words(kind),
        )
        assert (told["slot_id"], told["opened"]) == (three.slots[kind], True)
    given = ("--data", three.store.data, "--key-file", three.store.key_file)
    assert seal("test", three.slots["key-file"], *given)["kind"] == "key-file"
    assert "slot_gone" in refused("slot_not_found", REFUSED, "test", "slot_gone", *given)
    assert "passphrase" in refused(
        "slot_needed", CONFIGURATION, "test", three.slots["passphrase"], *given
    )


def test_the_slots_are_listed_without_opening_anything(three: Three) -> None:
    listed = seal("list", "--data", three.store.data)
    assert [(each["kind"], each["label"], each["opens"]) for each in listed] == [
        ("key-file", None, "by itself: key_file"),
        ("passphrase", "safe", "a person"),
        ("shares", None, "several people"),
    ]


def share_lines(three: Three, *numbers: int) -> str:
    return "\n".join(three.shares[number - 1] for number in numbers)


def mistyped(three: Three) -> str:
    words = three.shares[0].split()
    other = "academic" if words[7] != "academic" else "zero"
    return " ".join([*words[:7], other, *words[8:]])


@pytest.mark.parametrize(
    ("lines", "code", "exit_code", "says"),
    [
        (lambda three: share_lines(three, 1), "slot_needed", CONFIGURATION, "share 2 of 2"),
        ("", "slot_needed", CONFIGURATION, "share 1 of 2"),
        (lambda three: share_lines(three, 3, 3), "share_repeated", REFUSED, "Share 3"),
        ("correct horse", "malformed_share", REFUSED, "33 words; these are 2"),
        (mistyped, "malformed_share", REFUSED, "checksum"),
        (
            lambda three: three.shares[0].replace(three.shares[0].split()[4], "swordfish", 1),
            "malformed_share",
            REFUSED,
            "Word 5",
        ),
    ],
    ids=["too few", "none", "repeated", "no share", "mistyped", "not a word"],
)
def test_shares_that_are_not_enough_or_not_right_are_refused(
    three: Three, lines: Any, code: str, exit_code: int, says: str
) -> None:
    given = ("test", "--unseal-with", "shares", "--data", three.store.data)
    stdin = lines if isinstance(lines, str) else lines(three)
    detail = refused(code, exit_code, *given, stdin=stdin)
    assert says in detail
    assert not set(detail.lower().split()) & set(three.shares[0].split()[6:20])


def test_a_share_of_another_set_is_refused_when_it_is_entered(three: Three, tmp_path: Path) -> None:
    copied = three.copy(tmp_path / "copy")
    given = ("--data", copied.data, "--key-file", copied.key_file)
    others = seal("add", "shares", *given)["shares"]
    opened = ("test", three.slots["shares"], "--unseal-with", "shares", "--data", copied.data)
    mixed = f"{three.shares[0]}\n{others[1]}\n"
    assert three.slots["shares"] in refused("wrong_share", NOT_PERMITTED, *opened, stdin=mixed)
    # Of two sets of the same store either opens it, whichever is entered.
    anyone = ("test", "--unseal-with", "shares", "--data", copied.data)
    assert seal(*anyone, stdin="\n".join(others[:2]))["opened"]
    assert seal(*anyone, stdin=share_lines(three, 1, 3))["opened"]


def test_shares_may_be_written_in_capitals_and_with_many_spaces(three: Three) -> None:
    lines = f"  {three.shares[0].upper()}\n{three.shares[2].replace(' ', '    ')}  \r\n"
    assert seal("test", "--unseal-with", "shares", "--data", three.store.data, stdin=lines)


def test_a_passphrase_is_the_same_however_its_accents_were_typed(three: Three) -> None:
    given = ("test", "--unseal-with", "passphrase", "--data", three.store.data)
    assert seal(*given, stdin=PASSPHRASE.replace("ü", "u\N{COMBINING DIAERESIS}"))["opened"]
    refused("wrong_passphrase", NOT_PERMITTED, *given, stdin=PASSPHRASE.upper())
    refused("wrong_passphrase", NOT_PERMITTED, *given, stdin="\n")
    refused("slot_needed", CONFIGURATION, *given)


def test_a_short_passphrase_is_refused_and_nothing_added(three: Three, tmp_path: Path) -> None:
    copied = three.copy(tmp_path / "copy")
    given = ("--data", copied.data, "--key-file", copied.key_file)
    detail = refused(
        "invalid_field", REFUSED, "add", "passphrase", "--stdin", *given, stdin="short"
    )
    assert "12 characters" in detail
    for wanted in (("1", "3"), ("4", "3"), ("2", "17")):
        made = ("add", "shares", "--threshold", wanted[0], "--shares", wanted[1])
        refused("invalid_field", REFUSED, *made, *given)
    assert slots_of(copied) == three.slots


def test_shares_are_not_written_over_others(three: Three, tmp_path: Path) -> None:
    copied = three.copy(tmp_path / "copy")
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "share-2.txt").write_text("somebody else's")
    given = ("--data", copied.data, "--key-file", copied.key_file)
    refused("bad_setting", CONFIGURATION, "add", "shares", "--shares-dir", folder, *given)
    assert [each.name for each in folder.iterdir()] == ["share-2.txt"]
    assert slots_of(copied) == three.slots


def test_the_last_slot_cannot_be_removed(idle_store: RunningStore) -> None:
    given = ("--yes", "--data", idle_store.data, "--key-file", idle_store.key_file)
    (only,) = slots_of(idle_store).values()
    refused("last_slot", REFUSED, "remove", only, *given)
    refused("slot_not_found", REFUSED, "remove", "slot_0000000000000000", *given)
    assert list(slots_of(idle_store).values()) == [only]


def test_a_key_file_in_the_stores_folder_is_refused(idle_store: RunningStore) -> None:
    given = ("--data", idle_store.data, "--key-file", idle_store.key_file)
    new = ("add", "key-file", "--new-key-file", idle_store.data / "second.key")
    refused("bad_setting", CONFIGURATION, *new, *given)
    done = run_doxstore("seal", "slots", "add", "key-file", *given)
    assert done.returncode == USAGE


def test_where_nothing_opens_it_the_error_says_all_that_was_tried(
    three: Three, tmp_path: Path
) -> None:
    given = ("test", "--data", three.store.data, "--key-file", tmp_path / "gone.key")
    detail = refused("key_file_missing", CONFIGURATION, *given)
    assert "gone.key" in detail
    assert "Not tried, as nothing was given for it: passphrase, shares." in detail
    detail = refused("slot_needed", CONFIGURATION, "test", "--data", three.store.data)
    assert "key-file, passphrase, shares" in detail


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("passphrase", {"memory_kib": 64 * 1024 * 1024}),
        ("shares", {"threshold": 1}),
    ],
)
def test_parameters_changed_in_the_database_are_refused_at_once(
    three: Three, tmp_path: Path, kind: str, parameters: dict[str, Any]
) -> None:
    copied = three.copy(tmp_path / "copy")
    change_parameters(copied, three.slots[kind], parameters)
    given = ("test", "--data", copied.data)
    began = time.monotonic()
    refused(
        *("store_damaged", CONFIGURATION, *given, "--unseal-with", kind), stdin=three.words(kind)
    )
    assert time.monotonic() - began < 20
    assert seal(*given, "--key-file", copied.key_file)["opened"]  # another slot is not harmed


def test_commitments_changed_in_the_database_let_no_other_share_in(
    three: Three, tmp_path: Path
) -> None:
    copied = three.copy(tmp_path / "copy")
    parameters = read_parameters(copied, three.slots["shares"])
    checks = dict(zip(parameters["checks"], reversed(parameters["checks"].values()), strict=True))
    change_parameters(copied, three.slots["shares"], {"checks": checks})
    given = ("test", "--unseal-with", "shares", "--data", copied.data)
    refused("wrong_share", NOT_PERMITTED, *given, stdin=share_lines(three, 1, 3))


def read_parameters(store: RunningStore, slot_id: str) -> dict[str, Any]:
    with sqlite3.connect(store.data / "store.db") as database:
        query = "SELECT parameters FROM seal_slot WHERE slot_id = ?"
        parameters: dict[str, Any] = json.loads(database.execute(query, (slot_id,)).fetchone()[0])
    database.close()
    return parameters


def change_parameters(store: RunningStore, slot_id: str, parameters: dict[str, Any]) -> None:
    changed = json.dumps({**read_parameters(store, slot_id), **parameters})
    with sqlite3.connect(store.data / "store.db") as database:
        database.execute(
            "UPDATE seal_slot SET parameters = ? WHERE slot_id = ?", (changed, slot_id)
        )
    database.close()


def test_nothing_that_opens_the_store_is_written_anywhere(three: Three, tmp_path: Path) -> None:
    copied = three.copy(tmp_path / "copy")
    said = []
    for kind in ("passphrase", "shares"):
        for words in (three.words(kind), three.words(kind).replace("e", "a")):
            done = run_doxstore(
                *("seal", "slots", "test", "--data", copied.data, "--unseal-with", kind),
                stdin=words,
            )
            said.append(done.stdout + done.stderr)
    copied.start()
    said.append(json.dumps(copied.export()))
    copied.stop()
    said.append(copied.log_text())
    secrets = [PASSPHRASE, *(" ".join(share.split()[8:12]) for share in three.shares)]
    key = copied.key_file.read_text().split()[1]
    everywhere = "\n".join(said)
    assert [each for each in (*secrets, key) if each in everywhere] == []
    files = b"".join(path.read_bytes() for path in copied.data.rglob("*") if path.is_file())
    assert [each for each in (*secrets, key) if each.encode() in files] == []


# --- making a store ---------------------------------------------------------------------------


def test_a_store_may_begin_with_shares_and_without_any_key_file(tmp_path: Path) -> None:
    made = run_doxstore(
        *("init", "--data", tmp_path / "d", "--slot", "shares", "--threshold", "3"),
        *("--shares", "5"),
    )
    assert made.returncode == 0, made.stderr
    shares = [line.split(": ")[1] for line in made.stdout.splitlines() if line.startswith("share ")]
    assert len(shares) == 5
    opened = ("test", "--data", tmp_path / "d", "--unseal-with", "shares")
    assert seal(*opened, stdin="\n".join(shares[2:]))["kind"] == "shares"
    refused("slot_needed", CONFIGURATION, *opened, stdin="\n".join(shares[3:]))


def test_a_store_may_begin_with_a_passphrase(tmp_path: Path) -> None:
    made = run_doxstore(
        *("init", "--data", tmp_path / "d", "--slot", "passphrase", "--stdin", "--json"),
        stdin=f"{PASSPHRASE}\n",
    )
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert "key_file" not in told
    done = run_doxstore(
        *("operator", "list", "--data", tmp_path / "d", "--json"),
        stdin=PASSPHRASE,
        DOXSTORE_UNSEAL_WITH="passphrase",
    )
    assert json.loads(done.stdout)[0]["name"] == told["operator"]


def test_a_slot_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    done = run_doxstore("init", "--data", tmp_path / "d", "--slot", "fingerprint")
    assert done.returncode == USAGE
    assert not (tmp_path / "d").exists()


def test_shares_that_cannot_be_kept_make_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    made = run_doxstore(
        *("init", "--data", tmp_path / "d", "--slot", "shares", "--shares-dir", tmp_path / "file")
    )
    assert made.returncode == CONFIGURATION
    assert not (tmp_path / "d" / "store.db").exists()


# --- a terminal ---------------------------------------------------------------------------------


def on_terminal(arguments: list[str | Path], *typed: tuple[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own, typing an answer at each prompt."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(  # noqa: S606 - in a child of its own, with a terminal of its own
            DOXSTORE, [str(DOXSTORE), *map(str, arguments)], clean_environment()
        )
    seen = shown = ""
    try:
        for prompt, answer in typed:
            while prompt not in shown:
                more = read_some(terminal)
                assert more, f"it ended before {prompt!r}: {shown}"
                shown += more
            os.write(terminal, f"{answer}\n".encode())
            said, _, shown = shown.partition(prompt)
            seen += said
        while more := read_some(terminal):
            shown += more
        _, status = os.waitpid(child, 0)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen + shown


def read_some(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode()
    except OSError:  # what Linux says at the end
        return ""


def test_on_a_terminal_one_is_asked_and_may_mistype(three: Three) -> None:
    code, shown = on_terminal(
        ["seal", "slots", "test", "--data", three.store.data],
        ("go on without): ", ""),
        ("Share 1 of 2", "correct horse"),
        ("Share 1 of 2", three.shares[2]),
        ("Share 2 of 2", three.shares[0]),
    )
    assert code == 0, shown
    assert "opened" in shown
    assert three.shares[0] not in shown


def test_a_new_passphrase_is_asked_for_twice_and_never_shown(three: Three, tmp_path: Path) -> None:
    copied = three.copy(tmp_path / "copy")
    added = ["seal", "slots", "add", "passphrase", "--data", copied.data]
    added += ["--key-file", copied.key_file]
    code, shown = on_terminal(
        added, ("New pass", "another long one"), ("Again", "another lung one")
    )
    assert code == USAGE, shown
    assert slots_of(copied) == three.slots
    code, shown = on_terminal(
        added, ("New pass", "another long one"), ("Again", "another long one")
    )
    assert code == 0, shown
    assert "another" not in shown
    opened = ("test", "--unseal-with", "passphrase", "--data", copied.data)
    assert seal(*opened, stdin="another long one")["opened"]


# --- OpenBao ------------------------------------------------------------------------------------


@pytest.fixture
def transit(openbao: OpenBao, idle_store: RunningStore) -> dict[str, str]:
    """What opens ``idle_store`` by Transit, where its key file is gone."""
    token_file = idle_store.folder / "token"
    token_file.write_text(f"{openbao.transit_token()}\n")
    environment = {
        "DOXSTORE_TRANSIT_ADDRESS": openbao.url,
        "DOXSTORE_TRANSIT_TOKEN_FILE": str(token_file),
    }
    seal(
        *("add", "transit", "--data", idle_store.data, "--key-file", idle_store.key_file),
        **environment,
    )
    idle_store.key_file.unlink()
    return environment


def test_a_store_opens_by_transit_and_serves(
    idle_store: RunningStore, transit: dict[str, str]
) -> None:
    assert seal("test", "--data", idle_store.data, **transit)["kind"] == "transit"
    idle_store.environment.update(transit)
    idle_store.start()
    idle_store.put(KEY, VALUE)
    assert idle_store.get(KEY, idle_store.issue("reader", KEY)).json["value"] == VALUE
    idle_store.stop()


def test_the_usual_variables_of_openbao_are_enough(
    idle_store: RunningStore, transit: dict[str, str], openbao: OpenBao
) -> None:
    token = Path(transit["DOXSTORE_TRANSIT_TOKEN_FILE"]).read_text().strip()
    for prefix in ("BAO", "VAULT"):
        usual = {f"{prefix}_ADDR": openbao.url, f"{prefix}_TOKEN": token}
        assert seal("test", "--data", idle_store.data, **usual)["opened"]
    detail = refused("slot_needed", CONFIGURATION, "test", "--data", idle_store.data)
    assert "BAO_ADDR" in detail


def test_a_token_without_the_policy_is_told_what_it_needs(
    idle_store: RunningStore, transit: dict[str, str], openbao: OpenBao
) -> None:
    for token in (openbao.transit_token(acts=("encrypt",)), "s.nonsense"):
        Path(transit["DOXSTORE_TRANSIT_TOKEN_FILE"]).write_text(token)
        detail = refused(
            "slot_refused", CONFIGURATION, "test", "--data", idle_store.data, **transit
        )
        assert "transit/decrypt/doxstore" in detail
        assert token not in detail


def test_a_slot_that_would_not_open_again_is_not_added(
    idle_store: RunningStore, openbao: OpenBao
) -> None:
    before = slots_of(idle_store)
    environment = {
        "BAO_ADDR": openbao.url,
        "BAO_TOKEN": openbao.transit_token(acts=("encrypt",)),
    }
    given = ("--data", idle_store.data, "--key-file", idle_store.key_file)
    refused("slot_refused", CONFIGURATION, "add", "transit", *given, **environment)
    for name in ("mistyped", "../doxstore"):
        made = ("add", "transit", "--transit-key", name, *given)
        code = "slot_refused" if name == "mistyped" else "bad_setting"
        refused(code, CONFIGURATION, *made, **environment)
    assert slots_of(idle_store) == before


def test_a_key_of_a_kind_without_associated_data_is_refused(
    idle_store: RunningStore, openbao: OpenBao
) -> None:
    openbao.call("POST", "transit/keys/rsa", {"type": "rsa-2048"})
    detail = refused(
        *("slot_refused", CONFIGURATION, "add", "transit", "--transit-key", "rsa"),
        *("--data", idle_store.data, "--key-file", idle_store.key_file),
        BAO_ADDR=openbao.url,
        BAO_TOKEN=openbao.transit_token("rsa"),
    )
    assert "associated_data" in detail


def test_a_ciphertext_of_another_slot_is_refused_by_openbao_itself(
    idle_store: RunningStore, transit: dict[str, str], tmp_path: Path
) -> None:
    other = slots_of(idle_store)["transit"]
    seal("add", "transit", "--data", idle_store.data, **transit)
    moved = next(
        each["slot_id"]
        for each in seal("list", "--data", idle_store.data)
        if each["kind"] == "transit" and each["slot_id"] != other
    )
    change_parameters(idle_store, moved, read_parameters(idle_store, other))
    detail = refused(
        "slot_refused", CONFIGURATION, "test", moved, "--data", idle_store.data, **transit
    )
    assert "authentication failed" in detail
    change_parameters(idle_store, moved, {"mount": "../sys"})
    refused("store_damaged", CONFIGURATION, "test", moved, "--data", idle_store.data, **transit)


def test_openbao_that_is_down_sealed_or_silent_is_unreachable(
    idle_store: RunningStore, transit: dict[str, str], openbao: OpenBao
) -> None:
    tested = ("slot_unreachable", UNREACHABLE, "test", "--data", idle_store.data)
    nobody = {**transit, "DOXSTORE_TRANSIT_ADDRESS": f"http://127.0.0.1:{free_port()}"}
    assert "does not answer" in refused(*tested, **nobody)
    openbao.seal()
    try:
        assert "sealed" in refused(*tested, **transit)
    finally:
        openbao.unseal()
    os.kill(openbao.pid, signal.SIGSTOP)
    try:
        assert "Timeout" in refused(*tested, **transit)
    finally:
        os.kill(openbao.pid, signal.SIGCONT)
    assert seal("test", "--data", idle_store.data, **transit)["opened"]


def test_a_key_file_opens_the_store_while_openbao_is_down(
    openbao: OpenBao, idle_store: RunningStore
) -> None:
    environment = {"BAO_ADDR": openbao.url, "BAO_TOKEN": openbao.transit_token()}
    given = ("--data", idle_store.data, "--key-file", idle_store.key_file)
    seal("add", "transit", *given, **environment)
    environment["BAO_ADDR"] = f"http://127.0.0.1:{free_port()}"
    assert seal("test", *given, **environment)["kind"] == "key-file"
    idle_store.key_file.unlink()
    detail = refused("slot_unreachable", UNREACHABLE, "test", *given, **environment)
    assert "does not answer" in detail
    assert "key file" in detail


# --- AWS ----------------------------------------------------------------------------------------


@pytest.fixture
def kms(moto: Moto, idle_store: RunningStore) -> dict[str, str]:
    """What opens ``idle_store`` by KMS, where its key file is gone."""
    seal(
        *("add", "kms", "--kms-key", moto.kms_key()),
        *("--data", idle_store.data, "--key-file", idle_store.key_file),
        **moto.environment,
    )
    idle_store.key_file.unlink()
    return moto.environment


def test_a_store_opens_by_kms_and_serves(idle_store: RunningStore, kms: dict[str, str]) -> None:
    assert seal("test", "--data", idle_store.data, **kms)["kind"] == "kms"
    idle_store.environment.update(kms)
    idle_store.start()
    idle_store.put(KEY, VALUE)
    assert idle_store.get(KEY, idle_store.issue("reader", KEY)).json["value"] == VALUE
    idle_store.stop()


def test_a_kms_key_of_another_account_or_a_moved_ciphertext_is_refused(
    idle_store: RunningStore, kms: dict[str, str]
) -> None:
    slot_id = slots_of(idle_store)["kms"]
    stored = read_parameters(idle_store, slot_id)
    assert stored["region"] == "eu-central-1"
    tested = ("slot_refused", CONFIGURATION, "test", "--data", idle_store.data)
    account = stored["key_id"].split(":")[4]
    foreign = stored["key_id"].replace(account, "999999999999")
    change_parameters(idle_store, slot_id, {"key_id": foreign})
    assert "another key" in refused(*tested, **kms)  # AWS itself: IncorrectKeyException
    change_parameters(idle_store, slot_id, stored)
    with sqlite3.connect(idle_store.data / "store.db") as database:
        database.execute("UPDATE seal_slot SET slot_id = 'slot_moved' WHERE kind = 'kms'")
    database.close()
    assert "InvalidCiphertext" in refused(*tested, **kms)
    change_parameters(idle_store, "slot_moved", {"key_id": "http://evil"})
    refused("store_damaged", CONFIGURATION, "test", "--data", idle_store.data, **kms)


def test_kms_that_is_down_is_unreachable_and_without_credentials_says_so(
    idle_store: RunningStore, kms: dict[str, str]
) -> None:
    tested = ("test", "--data", idle_store.data)
    nobody = {**kms, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    assert "does not answer" in refused("slot_unreachable", UNREACHABLE, *tested, **nobody)
    nameless = {name: text for name, text in kms.items() if "KEY" not in name}
    nameless["AWS_SHARED_CREDENTIALS_FILE"] = "/nonexistent"
    assert "credentials" in refused("slot_needed", CONFIGURATION, *tested, **nameless)


def test_a_kms_slot_takes_an_arn(idle_store: RunningStore, moto: Moto) -> None:
    given = ("--data", idle_store.data, "--key-file", idle_store.key_file)
    added = ("add", "kms", *given, "--kms-key")
    assert "ARN" in refused("bad_setting", CONFIGURATION, *added, "mykey", **moto.environment)
    missing = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    refused("slot_refused", CONFIGURATION, *added, missing, **moto.environment)
    assert list(slots_of(idle_store)) == ["key-file"]
