"""What `doxstore doctor` says of a database and its nodes."""

from __future__ import annotations

from typing import Any

from dox_core_store.cli.doctor_database import database_findings, node_findings
from dox_core_store.server.adapters.sql.place import Soundness
from dox_core_store.server.bootstrap.local import Condition, KnownNode

SOUND = Soundness(syncs=True, durability="fsync on", is_whole=True, pages="PostgreSQL 18.4")


def node(name: str, **said: Any) -> KnownNode:
    good = {
        "node_id": f"str_{name}",
        "release": "1.0.0",
        "seen": 0.4,
        "is_live": True,
        "behind": 0,
        "lag": 0.0,
        "has_ring": True,
    }
    return KnownNode(name=name, **{**good, **said})


def condition(**said: Any) -> Condition:
    good = {"schema": "0004", "known_schema": "0004", "soundness": SOUND, "ahead": 0.0}
    return Condition(**{**good, **said})


def status_of(found: Condition) -> dict[str, str]:
    return {each.check: each.status for each in database_findings(found)}


def worst(*nodes: KnownNode) -> list[str]:
    return [each.status for each in node_findings(nodes)]


def test_a_sound_database_is_found_so() -> None:
    assert set(status_of(condition()).values()) == {"ok"}
    assert "clocks" not in status_of(condition(ahead=None))


def test_what_is_wrong_with_a_database_is_a_failure() -> None:
    assert status_of(condition(schema="0003"))["schema"] == "failure"
    assert status_of(condition(soundness=SOUND._replace(syncs=False)))["durability"] == "failure"
    assert status_of(condition(soundness=SOUND._replace(is_whole=False)))["database"] == "failure"


def test_clocks_that_differ_by_more_than_a_minute_are_told_of() -> None:
    for ahead, status in ((59.0, "ok"), (-59.0, "ok"), (61.0, "warning"), (-61.0, "warning")):
        assert status_of(condition(ahead=ahead))["clocks"] == status


def test_a_node_that_is_late_is_told_of() -> None:
    assert worst(node("a"), node("b")) == ["ok", "ok", "ok"]
    assert worst(node("a", behind=3, lag=4.9)) == ["ok", "ok"]
    assert worst(node("a", behind=3, lag=5.1)) == ["ok", "warning"]
    assert worst(node("a", is_live=False, seen=12.0)) == ["ok", "warning"]
    assert worst(node("a", has_ring=False)) == ["ok", "warning"]


def test_releases_that_differ_are_told_of_where_they_run() -> None:
    newer = node("b", release="1.1.0")
    (told, *_rest) = node_findings([node("a"), newer])
    assert (told.check, told.status) == ("nodes", "warning")
    assert "1.0.0, 1.1.0" in told.detail
    (told, *_rest) = node_findings([node("a"), newer._replace(is_live=False)])
    assert told.status == "ok"
