"""`ExchangedCredential`: when a token is got by exchange, and what a failure of it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from scripted_store import token

from dox_core_store import KeyClient
from dox_core_store.client.exchanged import ExchangedCredential
from dox_core_store.client.identity import GitHubActions, IdentityFile, identity_from
from dox_core_store.client.protocol import Call, Reply
from dox_core_store.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    StoreUnavailableError,
)
from dox_core_store.sensitive import Sensitive

LIFE = 600


class Platform:
    def __init__(self) -> None:
        self.asked = 0

    async def token(self) -> Sensitive:
        self.asked += 1
        return Sensitive(f"platform.token.{self.asked}")


class World:
    """A credential, its clock, and a store that gives what a test wants."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0
        self.platform = Platform()
        self.calls: list[Call] = []
        self.new_principals = 0
        self.claims: dict[str, Any] = {}
        self.refuse: Callable[[], Exception] | None = None
        self.credential = ExchangedCredential(
            self.platform,
            wall=lambda: self.now,
            monotonic=lambda: self.now,
            service_name="jules-mcp",
            on_new_principal=self._new_principal,
        )

    def _new_principal(self) -> None:
        self.new_principals += 1

    async def post(self, call: Call) -> Reply:
        self.calls.append(call)
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse()
        issued_at = int(self.now)
        claims = {"iat": issued_at, "exp": issued_at + LIFE, "jti": str(len(self.calls))}
        text = token(**{**claims, **self.claims})
        body = {
            "access_token": text,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": LIFE,
            "token_id": "tok_1",
            "name": "jules-mcp",
            "environment": "production",
            "expires_at": "2030-03-17T17:56:40Z",
        }
        return Reply(status=200, content_type="application/json", body=json.dumps(body).encode())

    async def fresh(self) -> str:
        return (await self.credential.fresh(self.post)).text.reveal()


def test_it_is_got_at_the_first_call_and_again_after_four_fifths_of_its_life() -> None:
    async def use() -> None:
        world = World()
        assert (world.calls, world.credential.store_id) == ([], None)
        first = await world.fresh()
        world.now += 0.8 * LIFE - 1
        assert await world.fresh() == first
        world.now += 2
        assert await world.fresh() != first
        assert world.platform.asked == 2
        assert world.credential.store_id == "st_scripted"

    asyncio.run(use())


def test_callers_share_one_exchange_and_one_that_leaves_harms_no_other() -> None:
    async def use() -> None:
        world = World()
        callers = [asyncio.create_task(world.fresh()) for _ in range(10)]
        await asyncio.sleep(0)
        callers[0].cancel()
        texts = {text for text in await asyncio.gather(*callers, return_exceptions=True)
                 if isinstance(text, str)}  # fmt: skip
        assert len(texts) == 1
        assert len(world.calls) == 1

    asyncio.run(use())


def test_what_is_sent_is_rfc_8693_and_hides_the_token() -> None:
    world = World()
    asyncio.run(world.fresh())
    (call,) = world.calls
    assert call.content_type == "application/x-www-form-urlencoded"
    assert call.path == "/v1/token/exchange"
    assert {name: values[0] for name, values in parse_qs((call.body or b"").decode()).items()} == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "platform.token.1",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "service_name": "jules-mcp",
    }
    assert "platform.token" not in repr(call)


def test_a_failure_while_the_token_lives_changes_nothing_and_is_tried_again() -> None:
    async def use() -> None:
        world = World()
        first = await world.fresh()
        world.refuse = lambda: StoreUnavailableError("issuer_unreachable", "down")
        world.now += 0.9 * LIFE
        assert await world.fresh() == first
        assert await world.fresh() == first
        assert len(world.calls) == 2  # not at every call
        world.now += 6
        assert await world.fresh() == first
        assert len(world.calls) == 3
        world.now += LIFE
        with pytest.raises(StoreUnavailableError):
            await world.fresh()
        world.refuse = None
        assert await world.fresh() != first

    asyncio.run(use())


def test_after_a_refusal_the_platform_is_asked_again() -> None:
    async def use() -> None:
        world = World()
        refused = await world.credential.fresh(world.post)
        other = await world.credential.after_refusal(refused, world.post)
        assert other is not None
        assert other is not refused
        assert await world.credential.after_refusal(refused, world.post) is other
        world.refuse = lambda: AuthenticationError("subject_token_invalid", "no")
        with pytest.raises(AuthenticationError):
            await world.credential.after_refusal(other, world.post)

    asyncio.run(use())


def test_another_services_token_is_refused_and_another_environment_is_told() -> None:
    async def use() -> None:
        world = World()
        await world.fresh()
        world.now += LIFE
        world.claims = {"env": "staging"}
        await world.fresh()
        assert world.new_principals == 1
        world.now += 0.9 * LIFE
        world.claims = {"sub": "other"}
        with pytest.raises(ConfigurationError) as refused:
            await world.fresh()
        assert refused.value.code == "service_mismatch"

    asyncio.run(use())


def test_a_token_that_is_given_wins_over_the_platforms() -> None:
    platform = {"SERVICE_IDENTITY_TOKEN_FILE": "/var/run/token"}
    assert isinstance(identity_from(platform, None), IdentityFile)
    assert identity_from(platform, "given") is None
    assert identity_from({**platform, "SERVICE_TOKEN": "given"}, None) is None
    assert identity_from({**platform, "SERVICE_TOKEN_FILE": "given"}, None) is None
    assert identity_from({}, None) is None


def test_github_actions_needs_all_of_its_settings_and_https() -> None:
    audience = {"SERVICE_IDENTITY_AUDIENCE": "keys"}
    with pytest.raises(ConfigurationError, match="id-token: write"):
        identity_from(audience, None)
    asks = {**audience, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "t"}
    found = identity_from({**asks, "ACTIONS_ID_TOKEN_REQUEST_URL": "https://runner/x"}, None)
    assert isinstance(found, GitHubActions)
    with pytest.raises(ConfigurationError, match="https://"):
        identity_from({**asks, "ACTIONS_ID_TOKEN_REQUEST_URL": "http://runner/x"}, None)


def test_nothing_is_sent_or_read_when_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_IDENTITY_TOKEN_FILE", "/nowhere/token")
    monkeypatch.delenv("SERVICE_TOKEN", raising=False)
    monkeypatch.delenv("SERVICE_TOKEN_FILE", raising=False)
    client = KeyClient("jules-mcp", url="http://127.0.0.1:9")
    with pytest.raises((ConfigurationError, ConnectionFailedError), match="holds no token"):
        asyncio.run(client.get_key("a.b"))
