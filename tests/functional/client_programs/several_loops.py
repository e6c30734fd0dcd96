"""Threads and event loops. Usage: several_loops.py CASE."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

from spoken import heard, say, sockets

from dox_core_store import KeyClient, SyncKeyClient

SERVICE = os.environ["TEST_SERVICE"]
A, B, C = (f"{SERVICE}.{name}.production" for name in "abc")


def fifty_threads() -> None:
    client = SyncKeyClient(SERVICE)
    together = threading.Barrier(50)
    values: list[str] = []

    def get() -> None:
        together.wait()
        values.append(client.get_key(A).value)

    threads = [threading.Thread(target=get) for _ in range(50)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    say(len(values), sorted(set(values)))


def loops_in_threads() -> None:
    client = KeyClient(SERVICE)
    values: list[str] = []

    async def get() -> None:
        for key_path in (A, B, C) * 5:
            values.append((await client.get_key(key_path, cache_ttl=0)).value)
            values.append((await client.get_key(key_path)).value)

    threads = [threading.Thread(target=lambda: asyncio.run(get())) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    say(len(values), sorted(set(values)))


def five_runs() -> None:
    client = KeyClient(SERVICE)

    async def get() -> str:
        return (await client.get_key(A, cache_ttl=0)).value

    say([asyncio.run(get()) for _ in range(5)])
    say(len(sockets()))


def busy_loop() -> None:
    """The program's own loop stands still for five seconds."""
    client = KeyClient(SERVICE)

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 60
        first = (await client.get_key(A)).value
        say(first)
        heard()
        changes: list[float] = []
        ended_at = time.monotonic() + 5
        while time.monotonic() < ended_at:  # blocks, as a computation would
            held = client._lookup(A, 300)
            if held is not None and held.value != first and not changes:
                changes.append(time.monotonic())
                say("changed")
        say((await client.get_key(A)).value)

    asyncio.run(main())


def rejected_while_closed() -> None:
    """Who waits while the client is closed hears of it, and is not taken for cancelled."""
    client = KeyClient(SERVICE)

    async def main() -> None:
        key = await client.get_key(A)
        say(key.value)
        heard()  # the store does not answer from here on
        waiting = asyncio.create_task(key.rejected("refused"))
        await asyncio.sleep(0.3)
        await client.aclose()
        try:
            await waiting
        except Exception as error:  # noqa: BLE001 - told
            say(type(error).__name__, getattr(error, "code", ""))
        heard()
        say((await client.get_key(A)).value)
        await client.aclose()

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
