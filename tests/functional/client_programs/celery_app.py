"""For celery: the client is made, and used, before the pool is forked."""

from __future__ import annotations

import os

from celery import Celery

from dox_core_store import SyncKeyClient

__all__ = ["app", "connected"]

SERVICE = os.environ.get("TEST_SERVICE", "")


def connected(folder: str) -> Celery:
    """An application whose messages and results lie in ``folder``."""
    made = Celery("celery_app", broker="filesystem://", backend=f"file://{folder}/results")
    made.conf.broker_transport_options = {
        "data_folder_in": f"{folder}/messages",
        "data_folder_out": f"{folder}/messages",
        "control_folder": f"{folder}/control",
        "polling_interval": 0.05,
    }
    made.conf.worker_prefetch_multiplier = 1
    return made


if SERVICE:
    client = SyncKeyClient(SERVICE)
    client.get_key(f"{SERVICE}.a.production")
    app = connected(os.environ["TEST_FOLDER"])

    @app.task(name="read")
    def read() -> tuple[int, str]:
        return os.getpid(), client.get_key(f"{SERVICE}.a.production").value
