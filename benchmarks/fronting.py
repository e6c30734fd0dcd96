"""Reads through a node whose values lie in OpenBao, beside reads of that OpenBao itself.

`CACHED`
    as services read: the current version, which the node keeps, sealed, after its first read.
`COLD`
    versions by their number. Those are never kept, so each read goes the whole way that the first
    read of a key goes: the row from the catalog, the value from OpenBao. That it does is checked:
    OpenBao's audit has a request for each of them.
`DIRECT`
    the same values by OpenBao's own API, with a token of the same policy as the node's.

The latter two are measured with OpenBao's audit off and on; it is one server, which reads its
configuration again in between. The node's catalog and ledger are in a file, and its token has the
policy that `doxstore vault setup openbao` prints, without the policy ``default``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.doxstore import Store, doxstore
from benchmarks.load import Measurement, measure, median_of
from benchmarks.on_record import Recorded, recorded
from benchmarks.openbao import RunningBao, running_openbao
from benchmarks.process import BenchError
from benchmarks.target import Target
from benchmarks.verdict import Verdict, row
from benchmarks.workload import BenchKey, Request, write_requests
from dox_core_store.server.adapters.vaults.openbao_policy import PENDING, policy_text

__all__ = ["Fronted", "fronting_lines", "fronting_verdicts", "measure_fronting"]

CACHED = "through a node, from its cache"
COLD = "through a node, cold"
DIRECT = "OpenBao directly"

_CONNECTIONS = 32
_WARM_UP_SECONDS = 1
_NAME = "the node in front of OpenBao"
_MOUNT, _PREFIX = "kv", "bench"
_ENVIRONMENT = "production"
_LINES_OF_A_REQUEST = 2
_HOW = (
    f"{_CONNECTIONS} connections. Cold are versions read by their number, which no node keeps: each"
    " read fetches its value from OpenBao ({cold:,} of them: OpenBao's audit has {seen:,}"
    " requests). It is one OpenBao, with its audit off and on, read with tokens of the policy that"
    " `doxstore vault setup openbao` prints and no other. Each read through the node is on its"
    " ledger, synced, before the value leaves, whether OpenBao writes an audit of its own or not;"
    " catalog and ledger are in a file."
)


class Row(NamedTuple):
    """What is read how; ``audited`` by OpenBao, None: it is not asked."""

    what: str
    audited: bool | None


_ROWS = (Row(CACHED, None), Row(COLD, audited=False), Row(DIRECT, audited=False),
         Row(COLD, audited=True), Row(DIRECT, audited=True))  # fmt: skip


class Fronted(NamedTuple):
    """Medians; ``seen`` of ``cold`` reads in OpenBao's audit."""

    measured: Mapping[Row, Measurement]
    cold: int
    seen: int
    on_record: Recorded


def measure_fronting(folder: Path, keys: list[BenchKey], *, rounds: int, seconds: int) -> Fronted:
    """Measure in ``folder``."""
    with contextlib.ExitStack() as stack:
        home = folder / "fronted-openbao"
        bao = stack.enter_context(running_openbao(folder=home, audited=False))
        bao.mount(_MOUNT)
        token = bao.token(policy_text(_MOUNT, _PREFIX), lean=True)
        token_file = home / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        at = f"openbao+http://127.0.0.1:{bao.port}/{_MOUNT}/{_PREFIX}"
        settings = {"vault": f"{at}?login=token&token_file={token_file}"}
        front = doxstore(folder=folder / "fronting", keys=keys, name=_NAME, settings=settings)
        store = stack.enter_context(front)
        bao.wait_until(lambda: not _waiting(bao))
        targets = {
            CACHED: store.target,
            COLD: _cold(store, folder / "fronting-cold.tsv"),
            DIRECT: _direct(bao, keys, token, folder / "fronting-direct.tsv"),
        }
        answers, cold, seen = len(keys), 0, 0
        taken: dict[Row, list[Measurement]] = {each: [] for each in _ROWS}
        for number in range(rounds + 1):
            for each in _ROWS:
                bao.audit(on=bool(each.audited))
                is_seen = each == Row(COLD, audited=True)
                before = _audited(bao) if is_seen else 0
                one = _load(targets[each.what], seconds if number else _WARM_UP_SECONDS)
                answers += 0 if each.what == DIRECT else one.requests
                if is_seen:
                    cold, seen = cold + one.requests, seen + _audited(bao) - before
                if number:
                    taken[each].append(one)
                    print(
                        f"bench: {each.what}{_with_audit(each)}, round {number} of {rounds}:"
                        f" {one.per_second:,.0f}/s",
                        flush=True,
                    )
        if seen < cold:
            raise BenchError(f"{cold:,} cold reads, but OpenBao was asked for {seen:,} only")
        medians = {each: median_of(those) for each, those in taken.items()}
        return Fronted(medians, cold, seen, recorded(store, answers))


def fronting_verdicts(fronted: Fronted) -> list[Verdict]:
    """What a node in front of OpenBao gains and costs; nothing is required of it."""
    direct = fronted.measured[Row(DIRECT, audited=True)].per_second
    pairs = (("from the node's cache", _ROWS[0]), ("cold", Row(COLD, audited=True)))
    return [
        Verdict(
            f"in front of OpenBao, {what}, against OpenBao directly, audited,"
            f" {_CONNECTIONS} connections",
            "none",
            "none",
            f"{fronted.measured[each].per_second / direct:.2f}x",
            "for information",
        )
        for what, each in pairs
    ]


def fronting_lines(fronted: Fronted) -> list[str]:
    """The part on vaults."""
    lines = ["", "## In front of OpenBao", ""]
    lines += row("read", "OpenBao's audit", "requests/s", "p50 ms", "p99 ms")
    lines += row("---", "---", *["--:"] * 3)
    for each, one in fronted.measured.items():
        lines += row(
            each.what,
            {None: "not asked", False: "off", True: "on"}[each.audited],
            f"{one.per_second:,.0f}",
            f"{one.p50_milliseconds:.2f}",
            f"{one.p99_milliseconds:.2f}",
        )
    return [*lines, "", _HOW.format(cold=fronted.cold, seen=fronted.seen)]


def _with_audit(each: Row) -> str:
    return "" if each.audited is None else f", audit {'on' if each.audited else 'off'}"


def _load(target: Target, seconds: int) -> Measurement:
    return measure(
        name=target.name,
        port=target.port,
        requests=target.requests,
        connections=_CONNECTIONS,
        seconds=seconds,
    )


def _waiting(bao: RunningBao) -> bool:
    """Whether something waits for promotion: until then a read asks twice."""
    path = f"{_MOUNT}/metadata/{_PREFIX}/{PENDING}"
    return bao.http.request("LIST", path).status_code != 404


def _cold(store: Store, file: Path) -> Target:
    write_requests(file, [each._replace(path=f"{each.path}?version=1") for each in store.reads])
    return Target(COLD, store.target.port, file)


def _direct(bao: RunningBao, keys: list[BenchKey], token: str, file: Path) -> Target:
    """The same values; each of them is compared once."""
    paths = [f"{_MOUNT}/data/{_PREFIX}/{_ENVIRONMENT}/{'/'.join(key.segments)}" for key in keys]
    for key, path in zip(keys, paths, strict=True):
        if bao.call("GET", path)["data"]["data"]["value"] != key.value:
            raise BenchError(f"OpenBao does not have {path} as it was stored")
    write_requests(file, [Request(f"/v1/{path}", "X-Vault-Token", token) for path in paths])
    return Target(DIRECT, bao.port, file)


def _audited(bao: RunningBao) -> int:
    """Reads of values in OpenBao's audit: a line for each request, and one for its answer."""
    if not bao.audit_file.exists():
        return 0
    place = f'"path":"{_MOUNT}/data/{_PREFIX}/{_ENVIRONMENT}/'.encode()
    with bao.audit_file.open("rb") as lines:
        return sum(place in line for line in lines) // _LINES_OF_A_REQUEST
