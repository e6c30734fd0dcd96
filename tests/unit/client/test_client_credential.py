"""`Credential`: whose token it is, when it is read again, and what is said before it expires."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

import pytest
from scripted_store import Response, ScriptedStore, token

from dox_core_store import AuthenticationError, ConfigurationError, KeyClient
from dox_core_store.client.credential import Credential
from dox_core_store.sensitive import Sensitive

JULES = "service_keys.jules_api"
DAY = 86_400


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.write_text(token(jti="one") + "\n")
    monkeypatch.setenv("SERVICE_TOKEN_FILE", str(path))
    return path


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_another_services_token_fails_at_construction() -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyClient("jules-mcp", token("dox-gtwy-main"), "https://keys.example")
    assert refused.value.code == "service_mismatch"
    assert "dox-gtwy-main" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["secret-text", "a.b.c", "a.b", token() + "\r\nX: y", "a." + "A" * 9000 + ".c", token(sub=7)],  # type: ignore[arg-type]
    ids=["opaque", "not JSON", "two parts", "line break", "too long", "number as sub"],
)
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyClient("jules-mcp", text, "https://keys.example")
    assert refused.value.code == "bad_setting"
    assert text not in str(refused.value)


def test_a_variable_that_holds_no_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "junk")
    with pytest.raises(ConfigurationError, match="SERVICE_TOKEN is not a token") as refused:
        KeyClient("jules-mcp", url="https://keys.example")
    assert "junk" not in str(refused.value)


def test_a_file_that_holds_no_token_is_named(token_file: Path) -> None:
    token_file.write_text("junk")
    with pytest.raises(ConfigurationError, match=f"in {token_file} is not") as refused:
        KeyClient("jules-mcp", url="https://keys.example")
    assert "junk" not in str(refused.value)


def test_no_token_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "")
    with pytest.raises(ConfigurationError, match="SERVICE_TOKEN or SERVICE_TOKEN_FILE"):
        KeyClient("jules-mcp", os.getenv("SERVICE_TOKEN"), "https://keys.example")


def test_an_unreadable_file_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="unreadable"):
        KeyClient("jules-mcp", url="https://keys.example")


def test_a_changed_file_is_read_again(store: ScriptedStore, token_file: Path) -> None:
    client = KeyClient("jules-mcp", url=store.url)
    asyncio.run(client.get_key(JULES, cache_ttl=0))
    second = token(jti="two")
    _replace(token_file, second)
    asyncio.run(client.get_key(JULES, cache_ttl=0))
    assert store.requests[0].headers["authorization"] != f"Bearer {second}"
    assert store.requests[1].headers["authorization"] == f"Bearer {second}"


def test_a_401_reads_the_file_again_and_asks_once_more(
    store: ScriptedStore, token_file: Path
) -> None:
    client = KeyClient("jules-mcp", url=store.url)
    before = token_file.stat()
    first, second = token(jti="one"), token(jti="two")
    assert len(first) == len(second)
    # Same inode, size and time: no look at the file's outside shows that it has changed.
    token_file.write_text(second + "\n")
    os.utime(token_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.then(store.problem(401, "token_revoked"))
    assert asyncio.run(client.get_key(JULES)).value == "value-of-jules-in-production"
    assert store.requests[1].headers["authorization"] == f"Bearer {second}"


def test_a_401_without_another_token_is_the_answer(store: ScriptedStore, token_file: Path) -> None:
    client = KeyClient("jules-mcp", url=store.url)
    store.then(store.problem(401, "token_expired"))
    with pytest.raises(AuthenticationError) as refused:
        asyncio.run(client.get_key(JULES))
    assert refused.value.code == "token_expired"
    assert len(store.requests) == 1
    assert token_file.exists()


def test_a_401_stops_serving_from_the_cache(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> None:
        await client.get_key(JULES)
        store.then(store.problem(401, "token_revoked"), store.problem(401, "token_revoked"))
        with pytest.raises(AuthenticationError):
            await client.get_key("database_connections.postgres_main")
        with pytest.raises(AuthenticationError):
            await client.get_key(JULES)

    asyncio.run(scenario())


def test_a_broken_file_leaves_the_token_in_use(
    store: ScriptedStore, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = KeyClient("jules-mcp", url=store.url)
    _replace(token_file, "half-a-tok")
    assert asyncio.run(client.get_key(JULES)).source == "service"
    token_file.unlink()
    assert asyncio.run(client.get_key(JULES, cache_ttl=0)).source == "service"
    assert "half-a-tok" not in caplog.text
    assert "stays in use" in caplog.text


def test_a_file_that_becomes_another_services_is_refused(
    store: ScriptedStore, token_file: Path
) -> None:
    client = KeyClient("jules-mcp", url=store.url)
    _replace(token_file, token("dox-gtwy-main"))
    with pytest.raises(ConfigurationError) as refused:
        asyncio.run(client.get_key(JULES))
    assert refused.value.code == "service_mismatch"
    assert store.requests == []


def test_a_token_of_another_environment_forgets_what_paths_meant(
    store: ScriptedStore, token_file: Path
) -> None:
    client = KeyClient("jules-mcp", url=store.url)
    assert asyncio.run(client.get_key(JULES)).environment == "production"
    _replace(token_file, token(env="staging"))
    store.on("GET", f"/v1/keys/{JULES}", Response(200, store.key(f"{JULES}.staging")))
    asyncio.run(client.get_key("database_connections.postgres_main"))
    assert asyncio.run(client.get_key(JULES)).environment == "staging"


def _warnings_as_days_pass(caplog: pytest.LogCaptureFixture, life_days: int) -> list[int]:
    """The days left at which something was said, of a token looked at once a day."""
    now = time.time()
    today = [now]
    text = token(iat=int(now), exp=int(now) + life_days * DAY)
    credential = Credential(Sensitive(text), wall=lambda: today[0])
    said = []
    with caplog.at_level(logging.WARNING, "dox_core_store.client"):
        for day in range(life_days + 3):
            caplog.clear()
            today[0] = now + day * DAY
            credential.current()
            credential.current()
            if caplog.records:
                assert len(caplog.records) == 1
                assert text not in caplog.text
                said.append(life_days - day)
    return said


@pytest.mark.parametrize(("life_days", "said"), [(90, [30, 7]), (14, [7]), (1, [])])
def test_expiry_is_said_thirty_and_seven_days_before(
    caplog: pytest.LogCaptureFixture, life_days: int, said: list[int]
) -> None:
    assert _warnings_as_days_pass(caplog, life_days) == said
