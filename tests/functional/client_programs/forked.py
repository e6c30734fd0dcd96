"""Forks in the midst of things. Usage: forked.py CASE; three keys of the service are ``SERVICE``'s.

Every child has ten seconds, and ends by itself with 0 if it read what it should.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from spoken import heard, say, sockets

from dox_core_store import SyncKeyClient

SERVICE = os.environ["TEST_SERVICE"]
A, B, C = (f"{SERVICE}.{name}.production" for name in "abc")


def forked(what: Callable[[], object], *, exits: bool = False) -> int:
    """The process id of a child that does ``what``."""
    child = os.fork()
    if child:
        return child
    signal.alarm(10)
    failed = 1
    try:
        what()
        failed = 0
    finally:
        if not exits:
            os._exit(failed)
    sys.exit(failed)


def joined(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_flight(client: SyncKeyClient) -> None:
    """Other threads call all the time."""
    over = threading.Event()
    failures: list[str] = []

    def call() -> None:
        while not over.is_set():
            try:
                client.get_key(A, cache_ttl=0)
            except Exception as error:  # noqa: BLE001 - told
                failures.append(repr(error))
                return

    def child() -> None:
        for key_path in (A, B, C):
            client.get_key(key_path)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for each in threads:
        each.start()
    time.sleep(0.3)
    codes = [joined(forked(child)) for _ in range(20)]
    codes += [joined(each) for each in [forked(child) for _ in range(5)]]
    over.set()
    for each in threads:
        each.join()
    say(codes, failures)


def first_call(client: SyncKeyClient) -> None:
    """Another thread makes the first call of all, which imports."""
    delay = float(sys.argv[2])
    thread = threading.Thread(target=client.get_key, args=(A,))
    thread.start()
    time.sleep(delay)
    child = forked(lambda: (client.get_key(A), client.get_key(B)))
    say(joined(child))
    thread.join()
    say(client.get_key(A).value)


def first_call_of_a_loop(_client: SyncKeyClient) -> None:
    """The same, where it is made on another thread's own event loop."""
    import asyncio

    from dox_core_store import KeyClient

    client = KeyClient(SERVICE)

    async def get() -> str:
        return (await client.get_key(A)).value

    thread = threading.Thread(target=lambda: asyncio.run(get()))
    thread.start()
    time.sleep(float(sys.argv[2]))
    child = forked(lambda: asyncio.run(get()))
    say(joined(child))
    thread.join()
    say(asyncio.run(get()))


def locked(client: SyncKeyClient) -> None:
    """Another thread is inside the cache and the counts."""
    client.get_key(A)
    reader = client._reader
    holds, over = threading.Event(), threading.Event()

    def hold() -> None:
        with reader._cache._changing, reader._tally._counting:
            holds.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    child = forked(lambda: (client.get_key(A), client.get_key(B), client.close()))
    say(joined(child))
    over.set()
    thread.join()
    say(client.get_key(C).value)


def followed(client: SyncKeyClient) -> None:
    """Parent and child each hear of changes for themselves."""
    say(client.get_key(A).value)
    heard()  # by now the parent follows
    before = sockets()

    def child() -> None:
        started_at = time.perf_counter()
        value = client.get_key(A).value
        say("child", value, time.perf_counter() - started_at)
        new = client.get_key(B).value
        say("child", new, sorted(set(sockets()) & set(before)))
        while client.get_key(A).value == value:
            time.sleep(0.02)
        say("child", client.get_key(A).value, client.health_check().changes)
        signal.alarm(0)
        client.close()

    value = client.get_key(A).value
    process = forked(child, exits="exits" in sys.argv)
    while client.get_key(A).value == value:
        time.sleep(0.02)
    say("parent", client.get_key(A).value, client.health_check().changes)
    say("ended", joined(process))
    say("sockets", sorted(set(before) - set(sockets())))
    heard()
    say("parent", client.get_key(A).value, client.health_check().changes)


def counted(client: SyncKeyClient) -> None:
    """Each process reports what it served itself: a child that exits, and one that does not."""

    def read(times: int) -> None:
        for _ in range(times):
            client.get_key(A)

    def in_child() -> None:
        read(70)
        client.get_key(B)
        client.close()

    read(50)
    child = forked(in_child)
    say(joined(child))
    process = multiprocessing.get_context("fork").Process(target=in_child)
    process.start()
    process.join()
    say(process.exitcode)
    child = forked(lambda: (read(30), client.get_key(B)), exits=True)
    say(joined(child))
    read(10)


def handed_over(client: SyncKeyClient) -> None:
    """A program that goes into the background: the child lives on, the parent ends."""
    client.get_key(A)
    time.sleep(1)  # the stream
    parent = os.getpid()
    child = os.fork()
    if child:
        say("parent", sockets())
        sys.exit(0)
    while os.getppid() == parent:
        time.sleep(0.01)
    say("child", sockets())
    say("child", client.get_key(A, cache_ttl=0).value)
    signal.alarm(10)
    heard()


def filed(client: SyncKeyClient) -> None:
    """While the client's thread writes files for an outage."""
    folder = Path(os.environ["KEY_SERVICE_OUTAGE_DIR"])
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            client.get_key(A, cache_ttl=0)

    def child() -> None:
        for _ in range(5):
            client.get_key(A, cache_ttl=0)
        client.get_key(B)
        client.close()

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.3)
    codes = [joined(each) for each in [forked(child) for _ in range(8)]]
    over.set()
    thread.join()
    client.close()
    say(codes, sorted(each.name for each in folder.iterdir()))


if __name__ == "__main__":
    globals()[sys.argv[1]](SyncKeyClient(SERVICE))
