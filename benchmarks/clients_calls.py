"""How long the calls of one client take, each called as its users call it.

Run as ``python -m benchmarks.clients_calls CLIENT WORK``, in a process of its own that is started
as a service is: where its store is and who it is come from the environment. ``WORK`` is a file with
a `Work`. Prints a `Taken` as JSON.

What is measured, on connections that are warm:

cached
    the client has the value. The median counts the loop around the call in; the p99 is of single
    calls and counts two looks at the clock in.
cold
    the client has not got the value, and fetches it.
anew
    the client has it and asks all the same whether it still holds (ours only).
batch
    all keys of the work, none of which it has, in as few requests as it can.

Every value is compared.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.clients_ways import CLIENTS, Client

__all__ = ["Taken", "Times", "Work"]

_LOOP = 1_000  # cached calls between two looks at the clock
_SINGLE = 20_000  # cached calls that are timed one by one


class Work(msgspec.Struct):
    """``keys`` are segments and value of each."""

    keys: list[tuple[list[str], str]]
    cached_calls: int
    passes: int
    batches: int


class Times(msgspec.Struct):
    """Of calls, in nanoseconds; of less than a hundred the p99 is the slowest."""

    median: float
    p99: float


class Taken(msgspec.Struct):
    """``values`` left the store for good and were compared."""

    cached: Times | None
    cold: Times
    anew: Times | None
    batch: Times
    values: int


async def _measure(work: Work, client: Client) -> Taken:
    stored = {client.separator.join(segments): value for segments, value in work.keys}
    paths = list(stored)
    cold: list[int] = []
    anew: list[int] = []
    batch: list[int] = []
    await _each(client.cold, stored, [])  # warm
    cached = None if client.cached is None else await _cached(client.cached, paths[0], work)
    for _ in range(work.passes):
        await client.forget()
        await _each(client.cold, stored, cold)
        if client.anew is not None:
            await _each(client.anew, stored, anew)
    for _ in range(work.batches):
        await client.forget()
        began = time.perf_counter_ns()
        got = await client.batch(paths)
        batch.append(time.perf_counter_ns() - began)
        assert got == stored, "another value than was stored"
    return Taken(
        cached=cached,
        cold=_times(cold),
        anew=_times(anew) if anew else None,
        batch=_times(batch),
        values=(work.passes + 1 + work.batches) * len(paths),
    )


async def _each(
    ask: Callable[[str], Awaitable[str]], stored: Mapping[str, str], taken: list[int]
) -> None:
    for path, value in stored.items():
        began = time.perf_counter_ns()
        got = await ask(path)
        taken.append(time.perf_counter_ns() - began)
        assert got == value, "another value than was stored"


async def _cached(call: Callable[[str, int], Awaitable[int]], path: str, work: Work) -> Times:
    loops = []
    for _ in range(work.cached_calls // _LOOP):
        loops.append(await call(path, _LOOP) / _LOOP)
        await asyncio.sleep(0)
    single = [await call(path, 1) for _ in range(_SINGLE)]
    return Times(median=_times(loops).median, p99=_times(single).p99)


def _times(taken: Sequence[float]) -> Times:
    ordered = sorted(taken)
    return Times(ordered[len(ordered) // 2], ordered[min(len(ordered) * 99 // 100, len(taken) - 1)])


async def _main(name: str, work: Work) -> Taken:
    async with CLIENTS[name]() as client:
        return await _measure(work, client)


if __name__ == "__main__":
    given = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Work)
    print(msgspec.json.encode(asyncio.run(_main(sys.argv[1], given))).decode())
