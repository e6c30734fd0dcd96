"""Programs that end in one way or another. Usage: ending.py CASE."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import sys
import threading
import time
from typing import Any

from spoken import heard, say, sockets

from dox_core_store import DoxStoreError, KeyClient, SyncKeyClient

SERVICE = os.environ["TEST_SERVICE"]
A, B, C = (f"{SERVICE}.{name}.production" for name in "abc")


def sync_never_closed() -> None:
    client = SyncKeyClient(SERVICE)
    say(client.get_key(A).value)
    for _ in range(40):
        client.get_key(A)
    heard()
    say("last")


def async_never_closed() -> None:
    client = KeyClient(SERVICE)

    async def main() -> None:
        say((await client.get_key(A)).value)
        for _ in range(40):
            await client.get_key(A)

    asyncio.run(main())
    heard()
    say("last")


def in_flight() -> None:
    """The store does not answer, others wait for it, and the program ends."""
    client = SyncKeyClient(SERVICE, timeout_ms=60_000)
    say(client.get_key(A).value)
    heard()

    def get() -> None:
        try:
            client.get_key(B)
        except DoxStoreError as error:
            say(error.code)

    for _ in range(3):
        threading.Thread(target=get, daemon=True).start()
    time.sleep(0.3)
    say("last")


def away() -> None:
    """The store is not there any more."""
    client = SyncKeyClient(SERVICE)
    say(client.get_key(A).value)
    heard()
    say(client.get_key(A, cache_ttl=0).source)
    say("last")


def interrupted() -> None:
    client = SyncKeyClient(SERVICE, timeout_ms=60_000)
    say(client.get_key(A).value)
    heard()
    say("waits")
    try:
        client.get_key(B)
    except KeyboardInterrupt:
        say("last")


def terminated() -> None:
    """A handler that exits, as servers have it, in the middle of a call."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    client = SyncKeyClient(SERVICE, timeout_ms=60_000)
    say(client.get_key(A).value)
    heard()
    say("waits")
    try:
        client.get_key(B)
    finally:
        say("last")


def daemon_threads() -> None:
    """They call all the time, also while the interpreter ends."""
    client = SyncKeyClient(SERVICE)
    say(client.get_key(A).value)

    def get() -> None:
        while True:
            try:
                client.get_key(A, cache_ttl=0)
            except DoxStoreError:
                time.sleep(0.001)

    for _ in range(4):
        threading.Thread(target=get, daemon=True).start()
    heard()
    say("last")


def threads_go_on() -> None:
    """The main thread ends, and others do the work. The store has a name, to be resolved."""
    url = os.environ["KEY_SERVICE_URL"].replace("127.0.0.1", "localhost")
    client = SyncKeyClient(SERVICE, url=url)

    def work() -> None:
        threading.main_thread().join()
        say(client.get_key(A).value)
        client.close()
        say(client.get_key(B).value)
        say("last")

    threading.Thread(target=work).start()


def no_resolver() -> None:
    """Nobody answers what address the store's name has."""
    told = threading.Event()

    def getaddrinfo(*_arguments: Any, **_more: Any) -> Any:
        told.set()
        time.sleep(60)

    socket.getaddrinfo = getaddrinfo
    client = SyncKeyClient(SERVICE, url="https://store.example")
    threading.Thread(target=client.get_key, args=(A,), daemon=True).start()
    threading.excepthook = lambda _arguments: None  # the thread above hears that it is over
    told.wait()
    say("last")


def dropped() -> None:
    """A hundred clients made, used and let go."""

    def settled() -> tuple[int, int]:
        """Threads and sockets, once those that end have ended."""
        gc.collect()
        deadline = time.monotonic() + 5
        while threading.active_count() > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return threading.active_count(), len(sockets())

    def one() -> None:
        client = SyncKeyClient(SERVICE)
        client.get_key(A)

    one()
    say(*settled())
    for _ in range(100):
        one()
    say(*settled())

    async def other() -> None:
        await KeyClient(SERVICE).get_key(A)

    async def others() -> None:
        for _ in range(100):
            await other()
        gc.collect()
        await asyncio.sleep(0.1)
        say("open", len(sockets()))

    asyncio.run(others())
    say(*settled())
    say("last")


def closed_while_others_wait() -> None:
    client = SyncKeyClient(SERVICE, timeout_ms=60_000)
    say(client.get_key(A).value)
    heard()  # the store does not answer from here on
    outcomes: list[str] = []

    def get() -> None:
        try:
            outcomes.append(client.get_key(B).value)
        except DoxStoreError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=get) for _ in range(10)]
    for each in threads:
        each.start()
    time.sleep(0.3)
    closing = [threading.Thread(target=client.close) for _ in range(3)]
    for each in closing:
        each.start()
    for each in closing + threads:
        each.join()
    say(outcomes)
    heard()  # it answers again
    say(client.get_key(A).value, client.get_key(B).value)
    client.close()
    say(client.get_key(A).value)
    client.close()
    say("last")


def closed_and_used_at_once() -> None:
    """Nobody who calls while others close waits for ever."""
    client = SyncKeyClient(SERVICE)
    over = time.monotonic() + 4
    outcomes: set[str] = set()

    def call() -> None:
        while time.monotonic() < over:
            try:
                outcomes.add(client.get_key(A, cache_ttl=0).value)
            except DoxStoreError as error:
                outcomes.add(error.code)

    def close() -> None:
        while time.monotonic() < over:
            client.close()
            time.sleep(random.uniform(0, 0.1))  # noqa: S311 - to meet calls in every state

    threads = [threading.Thread(target=each) for each in (call, call, call, close, close)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    client.close()
    say(sorted(outcomes))
    say("last")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
