"""Settings: one frozen value, precedence as promised, nothing unknown or unsafe by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.settings import Settings, load_settings


def refused(given: dict[str, Any], environ: dict[str, str], config: Path | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(given, environ, config)
    assert caught.value.code == "bad_setting"
    return caught.value.detail


def test_without_anything_the_defaults_are_safe() -> None:
    settings = load_settings({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8420)
    assert settings.allow_plain_http is False


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "doxstore.toml"
    file.write_text('port = 1\nexpiry_days = 2\nlog_level = "error"\n')
    environ = {"DOXSTORE_PORT": "3", "DOXSTORE_EXPIRY_DAYS": "4", "OTHER": "x"}
    settings = load_settings({"port": 5, "host": None}, environ, file)
    assert (settings.port, settings.expiry_days, settings.log_level) == (5, 4, "error")
    assert settings.host == "127.0.0.1"
    assert load_settings({}, {"DOXSTORE_CONFIG": str(file)}).port == 1


def test_a_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "DOXSTORE_PROT" in refused({}, {"DOXSTORE_PROT": "1"})
    refused({"prot": 1}, {})
    file = tmp_path / "doxstore.toml"
    file.write_text("prot = 1\n")
    assert "prot" in refused({}, {}, file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "x"),
        ("port", "80.5"),
        ("port", ""),
        ("expiry_days", "-1"),
        ("cache_ttl_ceiling_seconds", "-1"),
        ("log_level", "loud"),
        ("allow_plain_http", "maybe"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: str) -> None:
    refused({}, {f"DOXSTORE_{name.upper()}": value})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert load_settings({"host": host}, {}).host == host


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.evil"],  # noqa: S104 - refused
)
def test_beyond_loopback_values_never_travel_in_clear_by_accident(host: str) -> None:
    assert "TLS" in refused({"host": host}, {})
    tls = {"tls_certificate_file": "c", "tls_key_file": "k"}
    assert load_settings({"host": host, **tls}, {}).host == host
    assert load_settings({"host": host, "allow_plain_http": True}, {}).host == host


@pytest.mark.parametrize("one", ["tls_certificate_file", "tls_key_file"])
def test_tls_takes_both_files(one: str) -> None:
    assert "both or neither" in refused({one: "x"}, {})


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert "absent.toml" in refused({}, {}, tmp_path / "absent.toml")
    typo = tmp_path / "typo.toml"
    typo.write_text('databse = ""')
    assert f"{typo}: databse is not a setting" in refused({}, {}, typo)
    broken = tmp_path / "broken.toml"
    broken.write_text("port = ")
    assert "broken.toml" in refused({}, {}, broken)
    broken.write_bytes(b"\xff\xfe")
    assert "broken.toml" in refused({}, {}, broken)


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_units_are_in_the_names() -> None:
    times = [
        name
        for name in Settings.__struct_fields__
        if any(word in name for word in ("ttl", "grace", "shutdown", "expiry", "timeout"))
    ]
    assert times
    assert all(name.endswith(("_seconds", "_days", "_ms")) for name in times)
    assert msgspec.structs.fields(Settings)
