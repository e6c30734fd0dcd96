from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from dox_core_store.cli.application import TABLE, build, run
from dox_core_store.cli.command import Command, every_command
from dox_core_store.errors import CODES

REPOSITORY = Path(__file__).parents[3]
COMMANDS = dict(every_command(TABLE))
WITHOUT_JSON = {"dev", "serve", "ledger export", "run"}
"""They run until they are stopped, or print JSON in any case; what `run` prints is another's."""


def made(name: str) -> object:
    found = typer.main.get_command(build())
    for part in name.split():
        found = found.commands[part]
    return found


@pytest.mark.parametrize(("name", "command"), COMMANDS.items(), ids=list(COMMANDS))
def test_every_command_says_what_it_does_shows_an_example_and_what_it_needs(
    name: str, command: Command
) -> None:
    assert command.summary.endswith(".")
    assert len(command.summary) <= 90
    assert f"doxstore {name}" in command.example
    assert command.needs
    assert not command.needs.endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints_the_example_line_by_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    for line in COMMANDS[name].example.splitlines():
        assert f"    {line}\n" in said
    assert "Needs: " in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_an_example_exists(name: str) -> None:
    known = {option for each in made(name).params for option in each.opts}
    for line in COMMANDS[name].example.splitlines():
        used = re.findall(r"(?<=\s)--?[a-z][a-z-]*", line.partition("doxstore")[2])
        used = [each for each in used if each != "-c"]
        assert set(used) <= known, line


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_JSON))
def test_every_command_speaks_json(name: str) -> None:
    assert "--json" in {option for each in made(name).params for option in each.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_a_value_or_a_token_as_an_argument(name: str) -> None:
    names = {each.name for each in made(name).params}
    assert not names & {"value", "token", "secret", "password", "admin_token", "service_token"}


def test_every_command_that_a_remedy_names_exists() -> None:
    named = {
        " ".join(words.split())
        for code in CODES.values()
        for words in re.findall(r"`doxstore ([a-z]+(?: [a-z-]+)*)", code.remedy)
    }
    assert named
    groups = {name.rpartition(" ")[0] for name in COMMANDS}
    assert {each for each in named if each not in COMMANDS and each not in groups} == set()


def test_the_page_says_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "cli_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section(name: str) -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^#+ doxstore {name}$", page, re.MULTILINE)) == 1
