"""``spawn``: a process of its own, which makes a client of its own."""

from __future__ import annotations

import multiprocessing
import os

from spoken import say

from dox_core_store import SyncKeyClient

SERVICE = os.environ["TEST_SERVICE"]


def child() -> None:
    with SyncKeyClient(SERVICE) as client:
        say("child", client.get_key(f"{SERVICE}.a.production").value)


if __name__ == "__main__":
    client = SyncKeyClient(SERVICE)
    say("parent", client.get_key(f"{SERVICE}.a.production").value)
    for _ in range(2):
        process = multiprocessing.get_context("spawn").Process(target=child)
        process.start()
        process.join()
        say(process.exitcode)
