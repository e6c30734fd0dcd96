from __future__ import annotations

import io
import json
import re

import pytest

from dox_core_store.cli.output import (
    ExitCode,
    counted,
    exit_code_of,
    printable,
    show_error,
    show_facts,
    show_table,
)
from dox_core_store.errors import CODES


@pytest.mark.parametrize("code", CODES)
def test_every_error_has_an_exit_code_that_says_what_kind_it_is(code: str) -> None:
    expected = {
        "ConnectionFailedError": ExitCode.UNREACHABLE,
        "StoreUnavailableError": ExitCode.UNREACHABLE,
        "RateLimitError": ExitCode.UNREACHABLE,
        "AuthenticationError": ExitCode.NOT_PERMITTED,
        "UnauthorizedError": ExitCode.NOT_PERMITTED,
        "ConfigurationError": ExitCode.CONFIGURATION,
    }
    kind = CODES[code].error
    assert exit_code_of(kind(code, "x")) == expected.get(kind.__name__, ExitCode.REFUSED)


def test_an_error_is_one_line_and_its_remedy_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("key_not_found", "There is no a.b\nin production.", as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error[key_not_found]: There is no a.b\\nin production.\n{CODES['key_not_found'].remedy}\n"
    )


def test_an_error_as_json_has_code_detail_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("key_not_found", 'no "a"', as_json=True)
    assert json.loads(capsys.readouterr().err) == {
        "error": {
            "code": "key_not_found",
            "detail": 'no "a"',
            "remedy": CODES["key_not_found"].remedy,
        }
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("service_keys.jules_api", "service_keys.jules_api"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\u202eevil", "\\u202eevil"),
        ("größer", "größer"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_table_for_a_pipe_is_neither_cut_nor_coloured_nor_padded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 500
    show_table(("A", "B"), [(long, "[bold]y"), ("\x1b[2J", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["A", "B"]
    assert lines[1] == f"{long}  [bold]y"
    assert lines[2].startswith("\\x1b[2J ")
    assert all(line == line.rstrip() for line in lines)


ID = "tok_0123456789abcdefghijkl"
ROW = (ID, "2026-01-31 12:00:00Z", "k" * 60, "why it is so")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("columns", "lines", "left_out"),
    [
        (
            200,
            [["TOKEN", "WHEN", "KEY", "WHY"], [ID, *ROW[1].split(), ROW[2], *ROW[3].split()]],
            "",
        ),
        (
            80,
            [
                ["TOKEN", "WHEN", "KEY", "WHY"],
                [ID, "2026-01-31", "k" * 28, "why", "it", "is"],
                ["12:00:00Z", "k" * 28, "so"],
                ["k" * 4],
            ],
            "",
        ),
        (45, [["TOKEN", "WHEN"], [ID, "2026-01-31"], ["12:00:00Z"]], "KEY, WHY"),
        (20, [["TOKEN"], [ID[:20]], [ID[20:]]], "WHEN, KEY, WHY"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_whole_ids(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
    lines: list[list[str]],
    left_out: str,
) -> None:
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    show_table(("TOKEN", "WHEN", "KEY", "WHY"), [ROW])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert [line.split() for line in plain.splitlines()] == lines
    note = f"Too narrow for {left_out}: a wider terminal or --json shows all.\n" if left_out else ""
    assert capsys.readouterr().err == note


def test_one_is_not_many() -> None:
    assert [counted(number, "entry", "entries") for number in (0, 1, 2)] == [
        "0 entries",
        "1 entry",
        "2 entries",
    ]
    assert counted(2, "stream") == "2 streams"


def test_a_fact_is_never_broken_over_lines(capsys: pytest.CaptureFixture[str]) -> None:
    token = "t" * 900
    show_facts([("token", token), ("operator", "admin")])
    assert capsys.readouterr().out == f"token     {token}\noperator  admin\n"
