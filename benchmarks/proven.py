"""What it costs that a token is bound to a key: reads with a proof each (DPoP), against plain ones.

One store, the same keys and services, read in turns with plain tokens and with bound ones. A proof
is good for one request and carries a nonce that is good for some seconds, so those of a round are
made right before it, outside the measured time: what is measured is the server. More are made than
can be asked for; if they ran out, wrk would send one twice, and the refusal would void the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx2

from benchmarks.doxstore import DOXSTORE, Store, call, doxstore
from benchmarks.load import Measurement, measure, median_of
from benchmarks.process import BenchError
from benchmarks.verdict import Verdict, row
from benchmarks.workload import BenchKey, write_lines
from dox_core_store.client.proof import ServiceKey, service_key_from

__all__ = ["Proven", "measure_proven", "proven_lines", "proven_verdicts"]

_CONNECTIONS = 32
_WARM_UP_SECONDS = 1
_MOST_PER_SECOND = 14_000
_SHARE = 0.25


class Proven(NamedTuple):
    """Reads with plain tokens and with bound ones, medians."""

    plain: Measurement
    bound: Measurement


def measure_proven(folder: Path, keys: list[BenchKey], *, rounds: int, seconds: int) -> Proven:
    """Measure in ``folder``."""
    key = service_key_from({"SERVICE_KEY_FILE": str(folder / "service.key")}, make=True)
    if key is None:
        raise BenchError("there is no key to bind tokens to")
    with (
        doxstore(folder=folder / "proven", keys=keys) as store,
        httpx2.Client(base_url=store.url, trust_env=False, timeout=30) as http,
    ):
        tokens = _bound_tokens(http, store, keys, key)
        plain, bound = [], []
        _load_bound(http, store, keys, tokens, key, folder, _WARM_UP_SECONDS)
        _load_plain(store, _WARM_UP_SECONDS)
        for number in range(rounds):
            plain.append(_load_plain(store, seconds))
            bound.append(_load_bound(http, store, keys, tokens, key, folder, seconds))
            print(
                f"bench: bound tokens, round {number + 1} of {rounds}: plain"
                f" {plain[-1].per_second:,.0f}/s, proven {bound[-1].per_second:,.0f}/s",
                flush=True,
            )
    return Proven(median_of(plain), median_of(bound))


def proven_verdicts(proven: Proven) -> list[Verdict]:
    """What is required of proven reads."""
    share = proven.bound.per_second / proven.plain.per_second
    return [
        Verdict(
            f"reads with a proof each (DPoP) against plain tokens, {_CONNECTIONS} connections",
            f"≥ {_SHARE}x",
            "none",
            f"{share:.2f}x",
            "met" if share >= _SHARE else "not met",
        )
    ]


def proven_lines(proven: Proven) -> list[str]:
    """The part on proofs."""
    lines = ["", "## Tokens that are bound to a key", ""]
    lines += [*row("tokens", "requests/s", "p50 ms", "p99 ms"), *row("---", *["--:"] * 3)]
    for name, one in (("plain", proven.plain), ("bound, with proofs", proven.bound)):
        lines += row(
            name,
            f"{one.per_second:,.0f}",
            f"{one.p50_milliseconds:.2f}",
            f"{one.p99_milliseconds:.2f}",
        )
    return lines


def _bound_tokens(
    http: httpx2.Client, store: Store, keys: Sequence[BenchKey], key: ServiceKey
) -> dict[str, str]:
    http.headers["Authorization"] = f"Bearer {store.operator}"
    tokens = {}
    for service in {each.service for each in keys}:
        wanted = {
            "service_name": service,
            "expires_in": "12h",
            "key_thumbprint": key.thumbprint,
        }
        tokens[service] = str(call(http, "POST", "/tokens", wanted)["token"])
    del http.headers["Authorization"]
    return tokens


def _load_plain(store: Store, seconds: int) -> Measurement:
    return measure(
        name=DOXSTORE,
        port=store.target.port,
        requests=store.target.requests,
        connections=_CONNECTIONS,
        seconds=seconds,
    )


def _load_bound(
    http: httpx2.Client,
    store: Store,
    keys: Sequence[BenchKey],
    tokens: dict[str, str],
    key: ServiceKey,
    folder: Path,
    seconds: int,
) -> Measurement:
    file = folder / "proven.tsv"
    file.unlink(missing_ok=True)
    nonce = _nonce(http, store, keys[0], tokens, key)
    lines = []
    for number in range(_MOST_PER_SECOND * seconds):
        one = keys[number % len(keys)]
        path, token = f"/v1/keys/{'.'.join(one.segments)}", tokens[one.service]
        proof = _proof(store, path, token, key, nonce)
        lines.append((path, "Authorization", f"DPoP {token}", "DPoP", proof))
    write_lines(file, lines)
    return measure(
        name=f"{DOXSTORE} with proofs",
        port=store.target.port,
        requests=file,
        connections=_CONNECTIONS,
        seconds=seconds,
    )


def _nonce(
    http: httpx2.Client, store: Store, key: BenchKey, tokens: dict[str, str], held: ServiceKey
) -> str:
    path, token = f"/v1/keys/{'.'.join(key.segments)}", tokens[key.service]
    proof = _proof(store, path, token, held, None)
    answer = http.get(path, headers={"Authorization": f"DPoP {token}", "DPoP": proof})
    if "DPoP-Nonce" not in answer.headers:
        raise BenchError(f"{DOXSTORE} gives no nonce: {answer.status_code} {answer.text}")
    return str(answer.headers["DPoP-Nonce"])


def _proof(store: Store, path: str, token: str, key: ServiceKey, nonce: str | None) -> str:
    return key.proof(
        method="GET",
        url=store.url.rstrip("/") + path,
        token=token,
        nonce=nonce,
        body=None,
        now=int(time.time()),
    )
