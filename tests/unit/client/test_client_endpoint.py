"""`endpoint_from`: what of an address is accepted, and that a token never leaves in the clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from dox_core_store import ConfigurationError, KeyClient
from dox_core_store.client.endpoint import endpoint_from


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://keys.pact-platform.com", "https://keys.pact-platform.com"),
        ("https://keys.pact-platform.com/", "https://keys.pact-platform.com"),
        ("https://keys:8420/door/v2", "https://keys:8420/door/v2"),
        ("http://localhost:8420", "http://localhost:8420"),
        ("http://127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("http://127.8.9.1", "http://127.8.9.1"),
        ("http://[::1]:8420", "http://[::1]:8420"),
    ],
)
def test_a_sound_url_is_kept(url: str, kept: str) -> None:
    assert endpoint_from({"KEY_SERVICE_URL": url}).url == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.pact-platform.com",
        "http://10.0.0.1",
        "http://0.0.0.0:8420",
        "http://localhost.example.com",
        "http://127.1",
        "http://2130706433",
        "http://[2001:db8::1]",
        "http://127.0.0.1.example.com",
    ],
)
def test_http_is_for_loopback_only(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        endpoint_from({}, url=url)
    assert refused.value.code == "insecure_url"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost",
        "keys.pact-platform.com",
        "https://",
        "https://user:secret@keys.example",
        "http://127.0.0.1@evil.example",
        "http://127.0.0.1\\@evil.example",
        "http://localhost#@evil.example",
        "https://keys.example?x=1",
        "https://keys.example/../other",
        "https://keys.example//other",
        "https://keys.example:99999",
        "https://keys example",
        "https://keys.example\n",
        "https://kéys.example",
    ],
)
def test_an_ambiguous_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        endpoint_from({}, url=url)
    assert refused.value.code == "bad_setting"
    assert "secret" not in str(refused.value)


def test_a_missing_url_is_named() -> None:
    with pytest.raises(ConfigurationError, match="KEY_SERVICE_URL is not set"):
        endpoint_from({"KEY_SERVICE_URL": ""})


@pytest.mark.parametrize(
    ("variable", "argument", "seconds"),
    [(None, None, 5.0), ("", None, 5.0), ("250", None, 0.25), ("250", 1000, 1.0)],
)
def test_the_timeout_is_in_milliseconds(
    variable: str | None, argument: float | None, seconds: float
) -> None:
    environ = {"KEY_SERVICE_URL": "https://keys.example"}
    if variable is not None:
        environ["KEY_SERVICE_TIMEOUT"] = variable
    assert endpoint_from(environ, timeout_ms=argument).timeout_seconds == seconds


@pytest.mark.parametrize("variable", ["0", "-1", "5s", "5.5", "1e999", "99999999"])
def test_a_senseless_timeout_is_refused(variable: str) -> None:
    environ = {"KEY_SERVICE_URL": "https://keys.example", "KEY_SERVICE_TIMEOUT": variable}
    with pytest.raises(ConfigurationError, match="KEY_SERVICE_TIMEOUT"):
        endpoint_from(environ)


def test_a_ca_file_must_be_there_and_hold_certificates(tmp_path: Path) -> None:
    environ = {"KEY_SERVICE_URL": "https://keys.example"}
    with pytest.raises(ConfigurationError, match="there is no file"):
        endpoint_from({**environ, "KEY_SERVICE_CA_FILE": str(tmp_path / "none.pem")})
    empty = tmp_path / "empty.pem"
    empty.write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="no usable certificates"):
        endpoint_from(environ, ca_file=empty).tls_context()


@pytest.mark.parametrize(
    ("url", "proxy"),
    [("http://localhost", "http://proxy.example:3128"), ("https://keys.example", "proxy.example")],
)
def test_a_proxy_that_cannot_be_meant_is_refused(url: str, proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="proxy"):
        endpoint_from({}, url=url, proxy=proxy)


def test_a_proxys_password_is_not_shown() -> None:
    endpoint = endpoint_from({}, url="https://keys.example", proxy="http://me:secret@proxy:3128")
    assert "secret" not in repr(endpoint)


def test_the_client_refuses_before_it_sends() -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyClient("jules-mcp", "a.b.c", "http://keys.example")
    assert refused.value.code == "insecure_url"
