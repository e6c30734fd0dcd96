"""An orderly end under load: what is under way is answered, the stream is closed, exit 0."""

from __future__ import annotations

import asyncio
import socket

from tests.functional.kept_connection import connected
from tests.functional.running import Answer, RunningStore

READERS = 8


async def read_until_ended(store: RunningStore, token: str, answers: list[Answer]) -> None:
    """Read until the server closes the connection; it may do so only between two answers."""
    async with connected(store, token) as connection:
        while True:
            try:
                answers.append(await connection.get("end.key"))
            except ConnectionError as error:
                cause = error.__cause__
                assert not (isinstance(cause, asyncio.IncompleteReadError) and cause.partial)
                return


async def terminate_under_load(store: RunningStore, token: str) -> list[Answer]:
    answers: list[Answer] = []
    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(read_until_ended(store, token, answers))
        while len(answers) < 10 * READERS:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        store.terminate()
    return answers


def test_sigterm_under_load_answers_what_is_under_way_and_closes_the_stream(
    store: RunningStore,
) -> None:
    store.put("end.key", "value")
    token = store.issue("reader", "end.key")
    answers = asyncio.run(terminate_under_load(store, token))
    assert store.wait() == 0
    assert {answer.status for answer in answers} <= {200, 503}
    assert "Traceback" not in store.log_text()

    store.start()
    entries = store.verified_export()
    reads = [entry for entry in entries if entry["action"] == "GET"]
    granted = {entry["request_id"] for entry in reads if entry["status"] == "GRANTED"}
    aborted = {entry["request_id"] for entry in reads if entry["status"] == "ABORTED"}
    assert {answer.request_id for answer in answers if answer.status == 200} == granted - aborted
    streams = [entry for entry in entries if entry["stream"] != "changes"]
    (opened,) = [n for n, entry in enumerate(streams) if entry["action"] == "CLOSE"]
    first, second = streams[opened], streams[opened + 1]
    assert first["reason"] is None, "closed by itself, not by the next one"
    assert second["action"] == "OPEN"
    assert second["stream"] != first["stream"]


def test_a_stream_left_open_by_a_kill_is_closed_by_the_next_start(store: RunningStore) -> None:
    store.put("end.key", "value")
    store.get("end.key")
    store.kill()
    store.start()
    entries = store.verified_export()
    opened = [entry["stream"] for entry in entries if entry["action"] == "OPEN"]
    (closed,) = [entry for entry in entries if entry["action"] == "CLOSE"]
    assert closed["stream"] == opened[0]
    assert "without closing" in closed["reason"]


def test_half_a_request_delays_the_end_and_does_not_spoil_it(idle_store: RunningStore) -> None:
    store = idle_store
    store.environment["DOXSTORE_SHUTDOWN_SECONDS"] = "1"
    store.start()
    with socket.create_connection((store.host, store.port), 10) as half:
        half.sendall(b"GET /v1/keys/end.key HTTP/1.1\r\nHost: sto")
        assert store.get("end.key").status == 404  # by now the half was read too
        assert store.stop() == 0
    assert "error[" not in store.log_text()
