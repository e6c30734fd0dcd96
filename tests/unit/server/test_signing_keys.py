"""Which signing keys a node trusts, and for how long; what it believes while they change."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.domain.access import OperatorRecord, Role, TokenRecord
from dox_core_store.server.domain.address import parse_networks
from dox_core_store.server.domain.signing_key import SigningKeyRecord, signed_by
from dox_core_store.server.domain.token import Claims, Kind, invalid_token
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.principal import Authenticator, SigningKeys
from dox_core_store.server.usecases.proof import Proofs
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.usecases.signing_key import is_compromise
from dox_core_store.server.usecases.token_alarm import WINDOW_SECONDS, TokenAlarm
from dox_core_store.server.usecases.token_expiry import TokenExpiry
from dox_core_store.testing.catalog import MemoryCatalog
from dox_core_store.testing.clock import FixedClock

DAY = timedelta(days=1)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class Trusting:
    """Believes any token that is named after a key which it was given; no cryptography."""

    def __init__(self, keys: Mapping[str, Any], claims: dict[str, Claims]) -> None:
        self._keys = keys
        self._claims = claims

    def verify(self, raw: str, now: int) -> Claims:
        claims = self._claims.get(raw)
        if claims is None or claims.kid not in self._keys:
            raise invalid_token("unknown kid")
        return claims

    def jwks(self) -> dict[str, Any]:
        return {"keys": sorted(self._keys)}


class Node:
    """What a node knows of one operator, whose tokens were signed by some keys."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.catalog = MemoryCatalog()
        self.told: list[tuple[str, dict[str, object]]] = []
        self.claims: dict[str, Claims] = {}
        self.keys = SigningKeys(lambda keys: Trusting(keys, self.claims))
        registry = Registry(
            catalog=self.catalog,
            clock=self.clock,
            key_set=self.keys,
            alarm=lambda _table, _row: None,
        )
        self.feed = Feed(
            catalog=self.catalog,
            registry=registry,
            forget=lambda _path: None,
            monotonic=self.clock.monotonic,
        )
        self.alarm = TokenAlarm(clock=self.clock, notice=self.notice)
        self.authenticator = Authenticator(
            keys=self.keys,
            registry=registry,
            clock=self.clock,
            catch_up=self.feed.catch_up,
            alarm=self.alarm,
            proofs=Proofs(seconds=self.clock.seconds, monotonic=self.clock.monotonic),
        )
        self.start = self.clock.now()
        self.catalog.put(
            OperatorRecord(
                name="ada",
                roles=[Role.ADMIN],
                generation=1,
                disabled_at=None,
                created_at=self.start,
            )
        )
        self.key("old", created=self.start)

    def notice(self, event: str, **said: object) -> None:
        self.told.append((event, said))

    def key(
        self,
        kid: str,
        *,
        created: datetime,
        retired: datetime | None = None,
        compromised: datetime | None = None,
    ) -> None:
        self.catalog.put(
            SigningKeyRecord(
                kid=kid,
                public_jwk="{}",
                created_at=created,
                retired_at=retired,
                compromised_at=compromised,
            )
        )
        self.catalog.change("ROTATE_SIGNING_KEY", f"_store.signing_keys.{kid}")

    def token(self, name: str, kid: str, *, days: float, addresses: str | None = None) -> None:
        """A token called ``name``, issued now."""
        now = self.clock.now()
        seconds = int(now.timestamp())
        self.claims[name] = Claims(
            kind=Kind.OPERATOR,
            name="ada",
            token_id=f"tok_{name}",
            environment=None,
            generation=1,
            issued_at=seconds,
            not_before=seconds,
            expires_at=seconds + int(days * 86_400),
            addresses=None if addresses is None else parse_networks(addresses.split(" ")),
            kid=kid,
        )
        self.catalog.put(
            TokenRecord(
                token_id=f"tok_{name}",
                kind=Kind.OPERATOR,
                name="ada",
                environment=None,
                issued_at=now,
                expires_at=now + days * DAY,
                issued_by="t",
                revoked_at=None,
            )
        )
        self.catalog.change("ISSUE_TOKEN", f"_store.tokens.tok_{name}")

    async def answer(self, name: str, address: str = "192.0.2.7") -> str:
        """``ok``, or the code of what refuses the token."""
        raw = name.encode()
        if self.authenticator.at_hand(raw) is not None:
            return "ok"
        try:
            await self.authenticator.authenticate(raw, address)
        except AuthenticationError as error:
            return error.code
        return "ok"

    @property
    def trusted(self) -> object:
        return self.keys.jwks()["keys"]


@on_a_loop
async def test_a_retired_key_verifies_until_its_last_token_has_expired() -> None:
    node = Node()
    node.token("early", "old", days=1)
    node.token("late", "old", days=3)
    node.clock.advance(3_600)
    node.key("old", created=node.start, retired=node.clock.now())
    node.key("new", created=node.clock.now())
    node.token("young", "new", days=30)
    await node.feed.start()
    assert node.trusted == ["new", "old"]
    for name in ("early", "late", "young"):
        assert await node.answer(name) == "ok"
    node.clock.advance(2 * 86_400)
    await node.feed.drop_spent_keys()
    assert node.trusted == ["new", "old"], "one of its tokens lives"
    assert await node.answer("early") == "token_expired"
    node.clock.advance(86_400)
    await node.feed.drop_spent_keys()
    assert node.trusted == ["new"]
    assert await node.answer("late") == "token_invalid"
    assert await node.answer("young") == "ok"


@on_a_loop
async def test_a_retired_key_is_dropped_once_its_last_token_is_revoked() -> None:
    node = Node()
    node.token("one", "old", days=300)
    node.clock.advance(3_600)
    node.key("old", created=node.start, retired=node.clock.now())
    node.key("new", created=node.clock.now())
    await node.feed.start()
    node.clock.advance(3_600)
    [row] = await node.catalog.records(TokenRecord, None, 9)
    node.catalog.put(replace(row, revoked_at=node.clock.now()))
    await node.feed.drop_spent_keys()
    assert node.trusted == ["new"]


@on_a_loop
async def test_a_compromised_key_verifies_nothing_from_the_change_on() -> None:
    node = Node()
    node.token("one", "old", days=30)
    await node.feed.start()
    assert await node.answer("one") == "ok"
    node.key("old", created=node.start, compromised=node.clock.now())
    node.key("new", created=node.clock.now())
    await node.feed.catch_up()
    assert node.authenticator.at_hand(b"one") is None
    assert await node.answer("one") == "token_invalid"
    assert node.trusted == ["new"]


@on_a_loop
async def test_a_token_signed_by_a_key_younger_than_what_was_applied_is_believed_at_once() -> None:
    node = Node()
    await node.feed.start()
    node.clock.advance(1)
    node.key("new", created=node.clock.now())
    node.token("young", "new", days=1)
    assert await node.answer("young") == "ok"
    assert await node.answer("nobody") == "token_invalid"


@on_a_loop
async def test_what_was_verified_before_a_compromise_is_not_remembered_after_it() -> None:
    """The first look fails, the second waits for the feed; meanwhile the key goes, and another
    request has everything forgotten that was verified with it."""
    node = Node()
    await node.feed.start()
    node.token("one", "old", days=30)
    catch_up = node.feed.catch_up

    async def slow() -> None:
        node.authenticator._catch_up = catch_up
        await catch_up()
        node.key("old", created=node.start, compromised=node.clock.now())
        await catch_up()
        assert await node.answer("another") == "token_invalid"

    node.authenticator._catch_up = slow
    assert await node.answer("one") == "token_invalid"
    assert await node.answer("one") == "token_invalid"


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("192.0.2.7", "ok"),
        ("::ffff:192.0.2.7", "ok"),
        ("2001:db8::1", "ok"),
        ("192.0.3.7", "address_not_allowed"),
        ("2001:db9::1", "address_not_allowed"),
        ("", "address_not_allowed"),
        ("unix", "address_not_allowed"),
    ],
)
@on_a_loop
async def test_a_bound_token_is_good_from_its_networks_alone(address: str, answer: str) -> None:
    node = Node()
    node.token("bound", "old", days=1, addresses="192.0.2.0/24 2001:db8::/32")
    await node.feed.start()
    for _ in range(3):
        assert await node.answer("bound", address) == answer
    assert await node.answer("bound", "192.0.2.9") == "ok"
    assert node.alarm.count == (0 if answer == "ok" else 3)


@on_a_loop
async def test_a_token_from_elsewhere_is_told_once_for_each_token_and_hour() -> None:
    node = Node()
    for name in ("one", "two"):
        node.token(name, "old", days=9, addresses="192.0.2.0/24")
    await node.feed.start()
    for _ in range(5):
        assert await node.answer("one", "203.0.113.1") == "address_not_allowed"
    assert await node.answer("two", "203.0.113.1") == "address_not_allowed"
    assert [said["token_id"] for _, said in node.told] == ["tok_one", "tok_two"]
    assert node.told[0][1]["address"] == "203.0.113.1"
    node.clock.advance(WINDOW_SECONDS)
    assert await node.answer("one", "203.0.113.2") == "address_not_allowed"
    assert [event for event, _ in node.told] == ["token_from_elsewhere"] * 3
    assert node.alarm.count == 7


@on_a_loop
async def test_a_token_from_elsewhere_is_not_a_bad_token_of_its_address() -> None:
    node = Node()
    node.token("bound", "old", days=9, addresses="192.0.2.0/24")
    node.token("free", "old", days=9)
    await node.feed.start()
    for _ in range(1_000):
        assert await node.answer("bound", "203.0.113.1") == "address_not_allowed"
    assert await node.answer("free", "203.0.113.1") == "ok"


@on_a_loop
async def test_expiry_is_told_once_for_each_token_and_threshold() -> None:
    node = Node()
    node.token("job", "old", days=1)
    node.token("week", "old", days=8)
    node.token("year", "old", days=365)
    await node.feed.start()
    expiry = TokenExpiry(catalog=node.catalog, clock=node.clock, notice=node.notice)

    async def told_after(days: float) -> list[tuple[str, object]]:
        node.clock.advance(days * 86_400)
        node.told.clear()
        await expiry.look()
        await expiry.look()
        assert {event for event, _ in node.told} <= {"token_expiring"}
        return [(str(said["token_id"]), said["within_days"]) for _, said in node.told]

    assert await told_after(0) == []
    assert await told_after(2) == [("tok_week", 7)]
    assert expiry.counts == {30: 0, 7: 1}
    assert await told_after(334) == [("tok_year", 30)]
    assert await told_after(22.5) == [("tok_year", 7)]
    assert expiry.counts == {30: 1, 7: 1}
    assert await told_after(7) == []
    assert expiry.counts == {30: 0, 7: 0}


@on_a_loop
async def test_nobody_is_told_of_a_token_that_is_dead_already() -> None:
    node = Node()
    node.token("revoked", "old", days=60)
    [row] = await node.catalog.records(TokenRecord, None, 9)
    node.catalog.put(replace(row, revoked_at=node.clock.now()))
    node.token("compromised", "old", days=60)
    node.key("old", created=node.start, compromised=node.clock.now())
    node.clock.advance(55 * 86_400)
    expiry = TokenExpiry(catalog=node.catalog, clock=node.clock, notice=node.notice)
    await expiry.look()
    assert node.told == []


@on_a_loop
async def test_the_daily_look_is_a_daily_one() -> None:
    node = Node()
    node.token("one", "old", days=40)
    node.clock.advance(35 * 86_400)
    expiry = TokenExpiry(catalog=node.catalog, clock=node.clock, notice=node.notice)
    await expiry.look_daily()
    assert len(node.told) == 1
    node.token("two", "old", days=8)
    node.clock.advance(86_399)
    await expiry.look_daily()
    assert len(node.told) == 1
    node.clock.advance(1)
    await expiry.look_daily()
    assert [said["token_id"] for _, said in node.told] == ["tok_one", "tok_two"]


def test_a_token_was_signed_by_the_newest_key_when_it_was_entered() -> None:
    start = FixedClock().now()
    keys = [
        SigningKeyRecord(
            kid=kid, public_jwk="{}", created_at=at, retired_at=None, compromised_at=None
        )
        for kid, at in (("b", start + DAY), ("a", start), ("c", start + 2 * DAY))
    ]
    for days, kid in ((0, "a"), (0.9, "a"), (1, "b"), (1.5, "b"), (2, "c"), (99, "c")):
        key = signed_by(start + days * DAY, keys)
        assert key is not None
        assert key.kid == kid
    assert signed_by(start - DAY, keys) is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("compromised", True),
        ("compromised: lost", True),
        ("in place of x: compromised", False),
        ("compromised-looking", False),
        ("", False),
        (None, False),
    ],
)
def test_a_compromise_is_read_back_from_the_ledger(reason: str | None, *, expected: bool) -> None:
    assert is_compromise(reason) is expected
