"""What getting a key costs in the client, ours beside those of others; and how soon a thousand
connected clients have a change (`clients_push`).

Each client is measured in a process of its own, and each talks to its own server, filled with the
same keys. All servers run for the whole time; the clients take turns, so that a slow minute of the
machine hits all of them, and medians are taken over the rounds.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.clients_calls import Taken, Times, Work
from benchmarks.clients_push import Push, measure_push
from benchmarks.clients_servers import bao_site, clean_environment, moto_site, our_site
from benchmarks.clients_ways import AWS_CACHE, BOTO3, CLIENTS, HVAC, KEY_CLIENT, SYNC_KEY_CLIENT
from benchmarks.on_record import Recorded, recorded
from benchmarks.process import BenchError
from benchmarks.workload import BenchKey

__all__ = ["KEYS", "ClientCost", "measure_clients"]

KEYS = 100
"""As many as one batch of ours may ask for."""

_ROOT = Path(__file__).resolve().parent.parent
_END_SECONDS = 600


class ClientCost(NamedTuple):
    """Medians over the rounds, by client; and what became of the connected ones."""

    taken: Mapping[str, Taken]
    on_record: Recorded
    push: Push


def measure_clients(
    folder: Path,
    keys: Sequence[BenchKey],
    *,
    rounds: int,
    cached_calls: int,
    passes: int,
    rotations: int,
) -> ClientCost:
    """Measure in ``folder``: each round goes so often through all keys."""
    some = keys[:KEYS]
    work = Work(
        keys=[(list(key.segments), key.value) for key in some],
        cached_calls=cached_calls,
        passes=passes,
        batches=2 * passes,
    )
    file = folder / "clients-work.json"
    file.write_bytes(msgspec.json.encode(work))
    with contextlib.ExitStack() as stack:
        store, ours = stack.enter_context(our_site(folder / "clients-store", some))
        bao = stack.enter_context(bao_site(folder / "clients-openbao", some))
        aws = stack.enter_context(moto_site(folder / "clients-moto", some))
        sites = {KEY_CLIENT: ours, SYNC_KEY_CLIENT: ours, AWS_CACHE: aws, BOTO3: aws, HVAC: bao}
        taken: dict[str, list[Taken]] = {name: [] for name in CLIENTS}
        for number in range(rounds):
            for name in CLIENTS:
                one = _measured(name, file, {**clean_environment(folder), **sites[name]})
                taken[name].append(one)
                print(
                    f"bench: {name}, round {number + 1} of {rounds}: cold"
                    f" {one.cold.median / 1e6:.2f} ms, {KEYS} keys {one.batch.median / 1e6:.1f} ms",
                    flush=True,
                )
        values = sum(one.values for name in (KEY_CLIENT, SYNC_KEY_CLIENT) for one in taken[name])
        on_record = recorded(store, values + KEYS)  # each was read and compared once
    return ClientCost(
        taken={name: _median_of(those) for name, those in taken.items()},
        on_record=on_record,
        push=measure_push(folder, rotations=rotations),
    )


def _measured(name: str, work: Path, environment: Mapping[str, str]) -> Taken:
    os.sync()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.clients_calls", name, str(work)],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        check=False,
        timeout=_END_SECONDS,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")
        raise BenchError(f"the calls of {name} failed:\n{said[-2000:]}")
    return msgspec.json.decode(done.stdout, type=Taken)


def _median_of(rounds: Sequence[Taken]) -> Taken:
    def over(figure: Callable[[Taken], Times | None]) -> Times | None:
        return _middle(found for one in rounds if (found := figure(one)) is not None)

    cold, batch = over(lambda one: one.cold), over(lambda one: one.batch)
    assert cold is not None, "no rounds"
    assert batch is not None, "no rounds"
    return Taken(
        cached=over(lambda one: one.cached),
        cold=cold,
        anew=over(lambda one: one.anew),
        batch=batch,
        values=sum(one.values for one in rounds),
    )


def _middle(of: Iterable[Times]) -> Times | None:
    those = list(of)
    if not those:
        return None
    return Times(
        statistics.median(one.median for one in those), statistics.median(one.p99 for one in those)
    )
