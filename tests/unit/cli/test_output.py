from __future__ import annotations

import json

import pytest

from dox_core_store.cli.output import (
    ExitCode,
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


def test_a_fact_is_never_broken_over_lines(capsys: pytest.CaptureFixture[str]) -> None:
    token = "t" * 900
    show_facts([("token", token), ("operator", "admin")])
    assert capsys.readouterr().out == f"token     {token}\noperator  admin\n"
