"""Which grants are proposed for removal: those that no call used, never a deny, never a guess."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, Effect, GrantRecord, Role, ServiceRecord
from dox_core_store.server.domain.epoch import Cause, EpochRecord
from dox_core_store.server.usecases.grant_use import GrantUses, Unused
from dox_core_store.testing.catalog import MemoryCatalog
from dox_core_store.testing.clock import FixedClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=400)
AUDITOR = Caller("operator:ada", (Role.AUDITOR,), "req_1", "", "")


class Grants:
    """A catalog with grants and calls, and who asks about them."""

    def __init__(self) -> None:
        self.catalog = MemoryCatalog()
        self.clock = FixedClock(NOW)
        self.uses = GrantUses(epoch=1, catalog=self.catalog, clock=self.clock)

    def add(
        self,
        pattern: str,
        *,
        service: str = "s",
        environment: str = "production",
        effect: Effect = Effect.ALLOW,
        at: datetime = LONG_AGO,
    ) -> None:
        self.catalog.put(
            GrantRecord(
                grant_id=f"{service}:{pattern}:{environment}:{effect}",
                service=service,
                effect=effect,
                pattern=pattern,
                environment=environment,
                created_at=at,
                created_by="t",
            )
        )

    def register(self, service: str) -> None:
        self.catalog.put(
            ServiceRecord(
                name=service,
                description="",
                environment=None,
                generation=1,
                limit_count=600,
                limit_period_seconds=60,
                limit_burst=600,
                decommissioned_at=None,
                created_at=LONG_AGO,
            )
        )

    def call(
        self, path: str, days_ago: float, service: str = "s", environment: str = "production"
    ) -> None:
        at = NOW - timedelta(days=days_ago)
        self.catalog.called(service, KeyAddress(path, environment), at)

    def page(
        self, days: int = 90, service: str | None = None, after: str | None = None, limit: int = 100
    ) -> tuple[list[Unused], str | None]:
        return asyncio.run(self.uses.unused(AUDITOR, days, service, after, limit))

    def unused(self, days: int = 90, service: str | None = None) -> list[str]:
        found, more = self.page(days, service)
        assert more is None
        return [each.grant.pattern for each in found]


@pytest.fixture
def grants() -> Grants:
    return Grants()


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "a.**", "*.b", "*.*", "**"])
def test_a_grant_is_used_by_a_call_for_a_key_that_it_names(grants: Grants, pattern: str) -> None:
    grants.add(pattern)
    assert grants.unused() == [pattern]
    grants.call("a.b", days_ago=89)
    assert grants.unused() == []
    assert grants.unused(days=88) == [pattern]


@pytest.mark.parametrize("pattern", ["a.b", "a.*", "*.b"])
def test_calls_of_others_elsewhere_or_for_other_keys_do_not_count(
    grants: Grants, pattern: str
) -> None:
    grants.add(pattern)
    grants.call("a.b", days_ago=1, service="t")
    grants.call("a.b", days_ago=1, environment="staging")
    grants.call("a.b.c", days_ago=1)
    grants.call("A.b.c", days_ago=1)
    assert grants.unused() == [pattern]


def test_a_deny_is_never_proposed(grants: Grants) -> None:
    grants.add("a.b", effect=Effect.DENY)
    grants.add("**", effect=Effect.DENY)
    assert grants.unused() == []


def test_what_is_younger_than_the_time_is_said_to_be_too_young(grants: Grants) -> None:
    young = NOW - timedelta(days=10)
    grants.add("a.b", at=young)
    grants.add("a.c")
    found, _ = grants.page()
    assert {each.grant.pattern: (each.is_too_young, each.since) for each in found} == {
        "a.b": (True, young),
        "a.c": (False, NOW - timedelta(days=90)),
    }


def test_calls_from_before_a_restore_are_unknown_and_prove_nothing(grants: Grants) -> None:
    began = NOW - timedelta(days=5)
    grants.catalog.put(EpochRecord(epoch=1, cause=Cause.RESTORE, began_at=began))
    grants.add("a.b")
    grants.add("a.c")
    grants.call("a.c", days_ago=2)
    ((found,), _) = grants.page()
    assert (found.grant.pattern, found.is_too_young, found.since) == ("a.b", True, began)


def test_one_services_grants_can_be_asked_for(grants: Grants) -> None:
    grants.add("a.b")
    grants.add("c.d", service="t")
    grants.register("t")
    assert grants.unused() == ["a.b", "c.d"]
    assert grants.unused(service="t") == ["c.d"]
    with pytest.raises(DoxStoreError) as caught:
        grants.unused(service="nobody")
    assert caught.value.code == "service_not_found"


def test_pages_go_on_where_the_one_before_ended(grants: Grants) -> None:
    for number in range(7):
        grants.add(f"a.k{number}")
    grants.call("a.k3", days_ago=1)
    found: list[str] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page, after = grants.page(after=after, limit=3)
        found += [each.grant.pattern for each in page]
        pages += 1
    assert pages == 3
    assert found == [f"a.k{number}" for number in (0, 1, 2, 4, 5, 6)]


def test_a_page_that_takes_long_ends_early_and_loses_nothing(
    grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    grants.register("s")
    for number in range(4):
        grants.add(f"a.k{number}.*")
    calls = grants.catalog.calls

    def slow(*asked: object):
        grants.clock.advance(0.6)
        return calls(*asked)

    monkeypatch.setattr(grants.catalog, "calls", slow)
    first, after = grants.page(service="s")
    assert [each.grant.pattern for each in first] == ["a.k0.*", "a.k1.*"]
    second, after = grants.page(service="s", after=after)
    assert [each.grant.pattern for each in second] == ["a.k2.*", "a.k3.*"]
    assert after is None


@pytest.mark.parametrize("days", [0, 3_651])
def test_a_time_out_of_bounds_is_refused(grants: Grants, days: int) -> None:
    with pytest.raises(DoxStoreError) as caught:
        grants.page(days=days)
    assert caught.value.code == "invalid_parameter"


def test_who_may_not_list_may_not_ask(grants: Grants) -> None:
    nobody = AUDITOR._replace(roles=())
    with pytest.raises(DoxStoreError) as caught:
        asyncio.run(grants.uses.unused(nobody, 90, None, None, 10))
    assert caught.value.code == "role_required"


def test_who_called_is_asked_once_a_page_for_all_wide_grants(
    grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        grants.add("**", service=f"s{number}")
        grants.add("*.b", service=f"s{number}")
    grants.call("a.b", days_ago=1, service="s7")
    asked: list[str] = []
    walked: list[str] = []
    callers, calls = grants.catalog.callers, grants.catalog.calls
    monkeypatch.setattr(
        grants.catalog, "callers", lambda where, since: asked.append(where) or callers(where, since)
    )
    monkeypatch.setattr(
        grants.catalog, "calls", lambda name, *rest: walked.append(name) or calls(name, *rest)
    )
    found, _ = grants.page()
    assert len(found) == 38
    assert asked == ["production"]
    assert walked == ["s7"]
