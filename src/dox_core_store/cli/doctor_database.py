"""The database of a store, and the nodes that run on it. For `doxstore doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dox_core_store.cli.finding import FAILURE, OK, WARNING, Finding

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.local import Condition, KnownNode

__all__ = ["database_findings", "node_findings"]

_LAG_SECONDS = 5.0
_CLOCK_SECONDS = 60.0


def database_findings(condition: Condition) -> Iterator[Finding]:
    """What there is to say of the database as such."""
    found = condition.soundness
    is_known = condition.schema == condition.known_schema
    yield Finding("schema", OK if is_known else FAILURE, f"revision {condition.schema}")
    yield Finding("durability", OK if found.syncs else FAILURE, found.durability)
    yield Finding("database", OK if found.is_whole else FAILURE, found.pages)
    if condition.ahead is not None:
        yield _clocks(condition.ahead)


def node_findings(nodes: Sequence[KnownNode]) -> Iterator[Finding]:
    """What there is to say of each node, and of all together."""
    live = [node for node in nodes if node.is_live]
    if not live:
        yield Finding("nodes", OK, "none runs")
    elif len(releases := sorted({node.release for node in live})) > 1:
        told = f"{len(live)} run, of several releases ({', '.join(releases)}): upgrade the rest"
        yield Finding("nodes", WARNING, told)
    else:
        yield Finding("nodes", OK, f"{len(live)} run, of release {releases[0]}")
    yield from map(_node, nodes)


def _node(node: KnownNode) -> Finding:
    seen = f"{node.name} ({node.node_id}, release {node.release}): seen {node.seen:.0f} s ago"
    if not node.is_live:
        return Finding("node", WARNING, f"{seen}; killed, stopped or cut off")
    if node.behind and node.lag > _LAG_SECONDS:
        told = f"{node.behind} changes behind, for {node.lag:.0f} s: it reads on, and reveals late"
        return Finding("node", WARNING, f"{seen}; {told}")
    behind = f"{node.behind} changes behind" if node.behind else "has every change"
    if not node.has_ring:
        return Finding("node", WARNING, f"{seen}; {behind}; lacks the newest sealing key")
    return Finding("node", OK, f"{seen}; {behind} and the newest sealing key")


def _clocks(ahead: float) -> Finding:
    way = "ahead of" if ahead > 0 else "behind"
    told = f"the database's is {abs(ahead):.1f} s {way} this machine's"
    if abs(ahead) > _CLOCK_SECONDS:
        told += "; nodes go by the database's, so see to whichever is wrong"
        return Finding("clocks", WARNING, told)
    return Finding("clocks", OK, told)
