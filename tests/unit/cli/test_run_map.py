from __future__ import annotations

import re
from pathlib import Path

import pytest

from dox_core_store.cli.run_environment import KEPT_IF_PURE, WITHHELD, child_environment
from dox_core_store.cli.run_map import KeyMap, entries_of_options, read_map, to_map
from dox_core_store.cli.run_refused import REFUSED, REFUSED_BEGINNINGS, is_refused
from dox_core_store.errors import ConfigurationError

PAGE = Path(__file__).parents[3] / "docs" / "run.md"


def read(tmp_path: Path, text: str) -> KeyMap:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    return to_map(read_map(path))


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert caught.value.code == "bad_map"
    return caught.value.detail.removeprefix(f"{tmp_path}/")


def test_a_map_names_variables_and_files(tmp_path: Path) -> None:
    text = """
        env: {STRIPE_KEY: service_keys.stripe, NO: a.b.production}
        files:
          tls/server.pem: certificates.web
          on: a.b.production
    """
    made = read(tmp_path, text)
    # NO and on are names here, not the booleans that YAML 1.1 takes them for.
    assert made.variables == {"STRIPE_KEY": "service_keys.stripe", "NO": "a.b.production"}
    assert made.files == {"tls/server.pem": "certificates.web", "on": "a.b.production"}
    assert made.key_paths == ["service_keys.stripe", "a.b.production", "certificates.web"]


@pytest.mark.parametrize("text", ["", "env:\n", "env: {}\nfiles: ~\n"])
def test_a_map_may_be_empty(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).key_paths == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("env:\n  A: a.b\n  A: a.c\n", "keys.yaml, line 3: 'A' is there twice."),
        ("env:\n  A: a.b\nenvs:\n  B: a.c\n", "keys.yaml, line 3: 'envs' is neither env nor"),
        ("env:\n  A: [a.b]\n", "keys.yaml, line 2: 'A' takes one key path."),
        ("env:\n  A: a.b\n  1A: a.b\n", "keys.yaml, line 3: '1A' is no name of a variable"),
        ("env:\n  A: a..b\n", "keys.yaml, line 2: what A is to get is not a key path."),
        ("env:\n  A:\n", "keys.yaml, line 2: what A is to get is not a key path."),
        ("env: [A]\n", "keys.yaml, line 1: takes lines like NAME: key.path"),
        ("- A\n", "keys.yaml, line 1: takes env: and files:"),
        ("env:\n  ? [A]\n  : a.b\n", "keys.yaml, line 2: a name is a text."),
        ("env: {\n", "keys.yaml, line 2: is not YAML"),
        ("a: 1\n---\nb: 2\n", "keys.yaml, line 2: is not YAML"),
        ("files:\n  ../a: a.b\n", "keys.yaml, line 2: '../a' is no name of a file"),
        ("files:\n  /etc/a: a.b\n", "keys.yaml, line 2: '/etc/a' is no name of a file"),
        ("files:\n  .doxstore-agent.json: a.b\n", "keys.yaml, line 2: "),
        ("files:\n  a//b: a.b\n", "keys.yaml, line 2: "),
        ("files:\n  a: a.b\n  a/b: a.b\n", "files: a cannot be a file and the folder of a/b."),
    ],
)
def test_one_error_says_where_a_map_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, text).startswith(said)


def test_a_map_that_is_not_there_or_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_map(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        read_map(tmp_path / "binary")


def test_what_stands_where_a_key_belongs_is_never_repeated(tmp_path: Path) -> None:
    # Somebody took NAME=KEY for NAME=VALUE.
    assert "hunter2" not in refusal(tmp_path, "env:\n  A: 'hunter2!'\n")
    with pytest.raises(ConfigurationError) as caught:
        to_map(entries_of_options("env", ["A=hunter2!"]))
    assert "hunter2" not in caught.value.detail
    with pytest.raises(ConfigurationError) as caught:
        to_map(entries_of_options("env", ["hunter2!"]))
    assert "hunter2" not in caught.value.detail


def test_options_and_map_are_one_list_in_which_a_name_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("env: {A: a.b}\n")
    with pytest.raises(ConfigurationError, match="A is there twice"):
        to_map([*entries_of_options("env", ["A=a.c"]), *read_map(path)])


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "path",
        "LD_PRELOAD",
        "ld_library_path",
        "DYLD_INSERT_LIBRARIES",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "NODE_OPTIONS",
        "RUBYOPT",
        "PERL5OPT",
        "PERL5LIB",
        "BASH_ENV",
        "ENV",
        "IFS",
        "SHELL",
        "SHELLOPTS",
        "GCONV_PATH",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_COUNT",
        "SSH_ASKPASS",
        "SERVICE_TOKEN",
        "SERVICE_KEY",
        "SERVICE_IDENTITY_TOKEN_FILE",
        "ADMIN_TOKEN",
        "KEY_SERVICE_URL",
        "DOXSTORE_DATA",
        "KEY_FILES_DIR",
    ],
)
def test_a_variable_that_changes_what_runs_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        to_map(entries_of_options("env", ["A=a.b", f"{name}=a.b"]))
    assert caught.value.code == "unsafe_variable"
    assert caught.value.detail.startswith(f"--env number 2: {name} is refused")


@pytest.mark.parametrize(
    "name", ["STRIPE_KEY", "DATABASE_URL", "GIT_TOKEN", "SERVICE_KEYS", "PGPASSWORD", "_", "a1"]
)
def test_ordinary_names_are_not(name: str) -> None:
    assert not is_refused(name)
    assert to_map(entries_of_options("env", [f"{name}=a.b"])).variables == {name: "a.b"}


def test_the_page_lists_every_name_that_is_refused() -> None:
    listed = re.search(r"^```text\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert listed
    assert set(listed[1].split()) == REFUSED | {f"{each}*" for each in REFUSED_BEGINNINGS}


# --- the environment ---------------------------------------------------------------------------


def test_a_command_gets_our_environment_without_what_speaks_for_the_service() -> None:
    ours = dict.fromkeys(WITHHELD, "x") | {"SERVICE_IDENTITY_AUDIENCE": "x", "HOME": "/h"}
    assert child_environment(ours, {"A": "ä"}) == {b"HOME": b"/h", b"A": "ä".encode()}


def test_a_pure_environment_begins_with_next_to_nothing() -> None:
    ours = dict.fromkeys([*KEPT_IF_PURE, "USER", "LD_PRELOAD"], "x")
    made = child_environment(ours, {"A": "1", "USER": "key"}, pure=True)
    assert made.keys() == {*map(str.encode, KEPT_IF_PURE), b"A", b"USER"}


def test_a_variable_that_is_set_already_is_only_replaced_where_that_was_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="A is set already"):
        child_environment({"A": "ours"}, {"A": "key"})
    assert child_environment({"A": "ours"}, {"A": "key"}, override=True) == {b"A": b"key"}


def test_a_value_with_a_nul_is_no_variable_and_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        child_environment({}, {"A": "hunter\0two"})
    assert caught.value.code == "unsafe_variable"
    assert "hunter" not in caught.value.detail
