"""What keys cost in the client, and how soon a thousand clients have a change, as text.

The requirements stand here as constants.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

import msgspec

from benchmarks.clients import KEYS, ClientCost
from benchmarks.clients_calls import Times
from benchmarks.clients_push import CLIENTS, REAL, SERVICES, Push
from benchmarks.clients_ways import AWS_CACHE, BOTO3, HVAC, KEY_CLIENT, SYNC_KEY_CLIENT
from benchmarks.verdict import Verdict, row

__all__ = ["clients_as_json", "clients_lines", "clients_verdicts"]

_CACHED_GET_MICROSECONDS = 1.0
_ALL_HAVE_IT_SECONDS = 1.0

_ASKS = {
    KEY_CLIENT: ("dox-core-store", "1"),
    SYNC_KEY_CLIENT: ("dox-core-store", "1"),
    AWS_CACHE: ("moto", f"{2 * KEYS}"),
    BOTO3: ("moto", "5"),
    HVAC: ("OpenBao", f"{KEYS}"),
}
"""Of each client: its store, and how many requests it makes for all keys."""

_HOW_CALLS = (
    f"Each client in a process of its own, one call after the other, over {KEYS} keys of which it"
    " has none (cold), all in as few requests as it can make for them (batch), or one which it"
    " has (cached; the p99 of that counts two looks at the clock in). Asked anew is a key which it"
    " has and confirms. Connections are warm and without TLS, and client and server share the"
    " {cores} cores."
    f" «{AWS_CACHE}» asks twice for a cold secret, and has no batch; «{BOTO3}» is what lies under"
    " it: a get each, or `batch_get_secret_value` of 20 at a time. moto is a stand-in for AWS"
    " Secrets Manager, written in Python and slow in itself: cold and batch say nothing of AWS"
    " itself, whose answers come over a network, only how many requests are made; cached is the"
    " client's own."
    f" «{HVAC}» keeps nothing and has no batch; OpenBao's audit is on, its token is without the"
    " policy `default`. Ours puts each value on the ledger, synced, before it leaves."
)
_HOW_PUSH = (
    f"One node, {CLIENTS:,} clients of {SERVICES} services, each following the node's stream of"
    f" changes on a connection of its own. {REAL} are `KeyClient`; the others do the same on bare"
    " sockets in two processes. Time counts from the operator's answer on, until a client has"
    " fetched the new value, for which it waits up to 300 ms of its own so that not all ask at"
    " once; or until it was told that the value is revoked, and has let go of it. The clients share"
    " the {cores} cores with the node. The node's resident memory: {alone} MB before the clients"
    " came, {connected} MB with all connected, {after} MB after the changes."
)


def clients_verdicts(cost: ClientCost) -> list[Verdict]:
    """What is required of the client, and how it stands beside the others."""
    ours, threads, aws = (cost.taken[name] for name in (KEY_CLIENT, SYNC_KEY_CLIENT, AWS_CACHE))
    assert ours.cached is not None, "it has a cache"
    assert threads.cached is not None, "it has a cache"
    assert aws.cached is not None, "it has a cache"
    push = cost.push
    added = (push.bytes_connected - push.bytes_alone) / 1e6
    hvac = cost.taken[HVAC]
    return [
        _cached("await KeyClient.get_key", ours.cached),
        _cached("SyncKeyClient.get_key", threads.cached),
        _told(f"cached get against {AWS_CACHE}", ours.cached.median / aws.cached.median),
        _told(
            f"cold get, `{SYNC_KEY_CLIENT}`, against {HVAC}", threads.cold.median / hvac.cold.median
        ),
        _told(
            f"{KEYS} keys, `{KEY_CLIENT}`, against {HVAC}", ours.batch.median / hvac.batch.median
        ),
        _last("the last has a rotated value", push.rotations),
        _last("the last has let go of a revoked value", push.revocations),
        Verdict(
            f"{CLIENTS:,} connected clients: the node's memory for them",
            "none",
            "none",
            f"+{added:.0f} MB",
            "for information",
        ),
    ]


def clients_lines(cost: ClientCost) -> list[str]:
    """The part on clients."""
    cores = len(os.sched_getaffinity(0))
    lines = ["", "## Getting keys in the client", ""]
    lines += row(
        "client",
        "store",
        "cached µs",
        "p99",
        "cold ms",
        "p99",
        "asked anew ms",
        f"batch of {KEYS}, ms",
        "slowest",
        "requests",
    )
    lines += row("---", "---", *["--:"] * 8)
    for name, taken in cost.taken.items():
        store, requests = _ASKS[name]
        lines += row(
            name,
            store,
            *_both(taken.cached, 1e3, 2),
            *_both(taken.cold, 1e6, 2),
            "-" if taken.anew is None else f"{taken.anew.median / 1e6:.2f}",
            *_both(taken.batch, 1e6, 1),
            requests,
        )
    lines += ["", _HOW_CALLS.format(cores=cores)]
    return [*lines, *_push_lines(cost.push, cores)]


def clients_as_json(cost: ClientCost) -> dict[str, object]:
    """All of it, but of each change not every client."""
    return {
        "taken": msgspec.to_builtins(cost.taken),
        "push": {
            **cost.push._asdict(),
            "rotations": [_spread(one) for one in cost.push.rotations],
            "revocations": [_spread(one) for one in cost.push.revocations],
        },
    }


def _spread(change: Sequence[float]) -> dict[str, float]:
    """Milliseconds until that many clients had it."""
    p99 = change[len(change) * 99 // 100]
    return {"p50": statistics.median(change), "p99": p99, "last": change[-1]}


def _push_lines(push: Push, cores: int) -> list[str]:
    lines = ["", f"## {CLIENTS:,} connected clients", ""]
    lines += row("change", "times", "p50 ms", "p99 ms", "last ms", "last, worst ms")
    lines += row("---", *["--:"] * 5)
    for what, each in (("rotation", push.rotations), ("revocation", push.revocations)):
        lines += row(
            what,
            str(len(each)),
            *(
                f"{statistics.median(_spread(one)[figure] for one in each):,.0f}"
                for figure in ("p50", "p99", "last")
            ),
            f"{max(one[-1] for one in each):,.0f}",
        )
    alone, connected, after = (
        f"{each / 1e6:.0f}" for each in (push.bytes_alone, push.bytes_connected, push.bytes_after)
    )
    how = _HOW_PUSH.format(cores=cores, alone=alone, connected=connected, after=after)
    return [*lines, "", how]


def _both(times: Times | None, unit: float, digits: int) -> tuple[str, str]:
    if times is None:
        return "-", "-"
    return f"{times.median / unit:.{digits}f}", f"{times.p99 / unit:.{digits}f}"


def _cached(call: str, times: Times) -> Verdict:
    taken = times.median / 1e3
    return Verdict(
        f"cached `{call}`, beside other clients, median",
        f"≤ {_CACHED_GET_MICROSECONDS:.0f} µs",
        "none",
        f"{taken:.2f} µs",
        "met" if taken <= _CACHED_GET_MICROSECONDS else "not met",
    )


def _told(what: str, times: float) -> Verdict:
    return Verdict(what, "none", "none", f"{times:.3f}x", "for information")


def _last(what: str, changes: Sequence[Sequence[float]]) -> Verdict:
    taken = max(one[-1] for one in changes) / 1e3
    return Verdict(
        f"{CLIENTS:,} connected clients: {what}, worst of {len(changes)}",
        f"≤ {_ALL_HAVE_IT_SECONDS:.0f} s",
        "none",
        f"{taken:.2f} s",
        "met" if taken <= _ALL_HAVE_IT_SECONDS else "not met",
    )
