from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import typer

from dox_core_store.cli.value import read_value
from dox_core_store.errors import InvalidRequestError, PayloadTooLargeError


def stdin_of(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


@pytest.mark.parametrize("raw", [b"", b"plain", b"two\nlines", "größe ☃".encode(), b'"\\ \x00'])
def test_a_value_is_taken_byte_for_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raw: bytes
) -> None:
    (tmp_path / "value").write_bytes(raw)
    stdin_of(monkeypatch, raw)
    file = read_value(from_file=tmp_path / "value", stdin=False, strip_newline=False)
    piped = read_value(from_file=None, stdin=True, strip_newline=False)
    assert file.reveal().encode() == piped.reveal().encode() == raw


@pytest.mark.parametrize(
    ("raw", "kept", "stripped"),
    [
        (b"a\n", "a\n", "a"),
        (b"a\r\n", "a\r\n", "a"),
        (b"a\n\n", "a\n\n", "a\n"),
        (b"\n", "\n", ""),
        (b"a\r", "a\r", "a\r"),
    ],
)
def test_a_newline_at_the_end_is_kept_unless_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raw: bytes,
    kept: str,
    stripped: str,
) -> None:
    stdin_of(monkeypatch, raw)
    assert read_value(from_file=None, stdin=True, strip_newline=False).reveal() == kept
    assert ("--strip-newline" in capsys.readouterr().err) == raw.endswith(b"\n")
    stdin_of(monkeypatch, raw)
    assert read_value(from_file=None, stdin=True, strip_newline=True).reveal() == stripped
    assert capsys.readouterr().err == ""


def test_bytes_that_are_no_text_are_refused_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin_of(monkeypatch, b"canary\xff")
    with pytest.raises(InvalidRequestError) as caught:
        read_value(from_file=None, stdin=True, strip_newline=False)
    assert caught.value.code == "invalid_field"
    assert caught.value.__context__ is None
    assert "canary" not in str(caught.value)


def test_a_huge_input_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(PayloadTooLargeError):
        read_value(from_file=tmp_path / "value", stdin=False, strip_newline=False)


def test_where_nobody_can_type_the_source_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(monkeypatch, b"secret")
    with pytest.raises(typer.BadParameter):
        read_value(from_file=None, stdin=False, strip_newline=False)
    with pytest.raises(typer.BadParameter):
        read_value(from_file=Path("x"), stdin=True, strip_newline=False)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="No such file"):
        read_value(from_file=tmp_path / "none", stdin=False, strip_newline=False)
