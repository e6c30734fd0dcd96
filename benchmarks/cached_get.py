"""How long ``await client.get_key(...)`` takes when the client has the value in its cache.

In a process of its own, started as a service is: address and token come from the environment.
The loop around the call is counted in. Run as
``python -m benchmarks.cached_get SERVICE KEY_PATH CALLS``; prints the median in nanoseconds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from dox_core_store import KeyClient

__all__: list[str] = []

_BATCH = 1_000  # calls between two looks at the clock


async def _median_nanoseconds(service: str, key_path: str, calls: int) -> float:
    batches = []
    async with KeyClient(service_name=service) as client:
        first = await client.get_key(key_path, cache_ttl=3600)
        for _ in range(calls // _BATCH):
            began = time.perf_counter_ns()
            for _ in range(_BATCH):
                key = await client.get_key(key_path, cache_ttl=3600)
            batches.append((time.perf_counter_ns() - began) / _BATCH)
            assert key.value == first.value, "the cache gave another value"
            assert key.source == "cache", "the calls were not answered from the cache"
            await asyncio.sleep(0)  # the client's own background work gets its turn, unmeasured
    return statistics.median(batches)


if __name__ == "__main__":
    print(asyncio.run(_median_nanoseconds(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
