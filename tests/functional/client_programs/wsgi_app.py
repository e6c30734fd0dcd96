"""For gunicorn: the client is made, and used, before the workers are forked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from dox_core_store import SyncKeyClient

SERVICE = os.environ["TEST_SERVICE"]

client = SyncKeyClient(SERVICE)
client.get_key(f"{SERVICE}.a.production")


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    said = f"{os.getpid()} {client.get_key(f'{SERVICE}.a.production').value}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said]
