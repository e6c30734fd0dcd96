"""The client in every kind of process: forked, spawned, threaded, and ended in every way.

The programs are in ``client_programs``. Each is a process of its own against a real store, run with
every warning an error, and must end by itself, with 0 and nothing on stderr.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.functional.client_programs.celery_app import connected
from tests.functional.client_programs.started import FOLDER, Started
from tests.functional.running import RunningStore, free_port

FOLLOWED_SECONDS = 2.0
"""Within which a change is heard of."""

LAST_REPORT_SECONDS = 1.0
"""What a client spends on telling what it served."""

AT_ONCE = 1.0
"""Seconds from a program's last line to its end."""


@pytest.fixture
def service(shared_store: RunningStore) -> str:
    """A service with three keys of its own."""
    return with_keys(shared_store)


def with_keys(store: RunningStore) -> str:
    service = f"everywhere{uuid.uuid4().hex[:8]}"
    for name in "abc":
        store.put(f"{service}.{name}.production", f"{name}-1")
    store.register(service, *(f"{service}.{name}" for name in "abc"))
    return service


def rotate(store: RunningStore, service: str, *names: str, to: str) -> None:
    for name in names:
        store.put(f"{service}.{name}.production", f"{name}-{to}")


def reads(store: RunningStore, service: str) -> Counter[str]:
    """How many reads of the service the ledger knows of: answered by the store because of a
    ``call`` or a ``refresh``, or ``REPORTED``."""
    counts: Counter[str] = Counter()
    for entry in store.export():
        if (entry["service_name"], entry["action"]) == (service, "GET"):
            is_reported = entry["status"] == "REPORTED"
            counts["REPORTED" if is_reported else entry["reason"]] += entry["count"]
    return counts


@contextlib.contextmanager
def silent(store: RunningStore) -> Iterator[None]:
    """The store takes connections, and answers nothing."""
    os.kill(store.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(store.pid, signal.SIGCONT)


# --- forks ------------------------------------------------------------------------------------


def test_children_forked_while_calls_are_in_flight_make_their_own(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "forked.py", "in_flight") as program:
        assert program.says() == [[0] * 25, []]
        program.ends(AT_ONCE)


@pytest.mark.parametrize("case", ["first_call", "first_call_of_a_loop"])
@pytest.mark.parametrize("delay", ["0.01", "0.04", "0.08", "0.12"])
def test_a_child_forked_during_the_first_call_is_whole(
    shared_store: RunningStore, service: str, case: str, delay: str
) -> None:
    with Started(shared_store, service, "forked.py", case, delay) as program:
        assert program.says() == [0]
        assert program.says() == ["a-1"]
        program.ends(AT_ONCE)


def test_a_lock_that_another_thread_held_does_not_stop_the_child(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "forked.py", "locked") as program:
        assert program.says() == [0]
        assert program.says() == ["c-1"]
        program.ends(AT_ONCE)


@pytest.mark.parametrize("exits", [(), ("exits",)], ids=["leaves", "exits"])
def test_parent_and_child_each_follow_changes_by_their_own_connections(
    shared_store: RunningStore, service: str, exits: tuple[str, ...]
) -> None:
    with Started(shared_store, service, "forked.py", "followed", *exits) as program:
        assert program.says() == ["a-1"]
        time.sleep(1.5)  # until it follows
        program.tell()
        who, value, took = program.says()
        assert (who, value) == ("child", "a-1")
        assert took < 0.05, "what is held is not there at once"
        who, value, shared = program.says()
        assert (who, value) == ("child", "b-1")
        # What is left of the parent's wakes its loop up: no connection.
        assert len(shared) <= 1
        rotate(shared_store, service, "a", to="2")
        said = sorted(program.says() for _ in range(2))
        assert [each[:2] for each in said] == [["child", "a-2"], ["parent", "a-2"]]
        assert program.says() == ["ended", 0]
        assert program.says() == ["sockets", []], "the parent lost a connection"
        rotate(shared_store, service, "a", to="3")
        time.sleep(FOLLOWED_SECONDS)
        program.tell()
        assert program.says()[:2] == ["parent", "a-3"]
        program.ends(AT_ONCE)


def test_each_process_reports_what_it_served_itself(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "forked.py", "counted") as program:
        assert [program.says() for _ in range(3)] == [[0]] * 3
        program.ends(AT_ONCE)
    counts = reads(shared_store, service)
    assert counts["call"] + counts["REPORTED"] == 50 + 71 + 71 + 31 + 10


def test_what_goes_into_the_background_leaves_no_connection_of_its_parent_open(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "forked.py", "handed_over") as program:
        said = dict(program.says() for _ in range(2))
        assert said["parent"]
        # As above.
        assert len(set(said["child"]) & set(said["parent"])) <= 1
        assert program.says() == ["child", "a-1"]


def test_a_child_forked_while_files_are_written_for_an_outage(
    shared_store: RunningStore, service: str, tmp_path: Path
) -> None:
    folder = tmp_path / "outage"
    folder.mkdir(mode=0o700)
    with Started(
        shared_store, service, "forked.py", "filed", KEY_SERVICE_OUTAGE_DIR=str(folder)
    ) as program:
        codes, names = program.says()
        assert codes == [0] * 8
        assert not [name for name in names if name.endswith(".tmp")]
        assert len([name for name in names if name.endswith(".sealed")]) == 2
        program.ends(AT_ONCE)


def test_a_spawned_process_makes_its_own_client(shared_store: RunningStore, service: str) -> None:
    with Started(shared_store, service, "spawned.py") as program:
        said = [program.says() for _ in range(5)]
        assert said == [["parent", "a-1"], *[["child", "a-1"], [0]] * 2]
        program.ends(AT_ONCE)


# --- threads and loops ------------------------------------------------------------------------


def test_fifty_threads_on_one_cold_key_make_one_request(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "several_loops.py", "fifty_threads") as program:
        assert program.says() == [50, ["a-1"]]
        program.ends(AT_ONCE)
    assert reads(shared_store, service)["call"] == 1


def test_threads_with_loops_of_their_own_share_a_client(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "several_loops.py", "loops_in_threads") as program:
        assert program.says() == [8 * 30, ["a-1", "b-1", "c-1"]]
        program.ends(AT_ONCE)


def test_five_runs_with_one_client_that_nobody_closes(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "several_loops.py", "five_runs") as program:
        assert program.says() == [["a-1"] * 5]
        # The client's own thread: one connection, its stream, and two that wake it up.
        assert program.says()[0] <= 4
        program.ends(AT_ONCE)


def test_a_loop_that_stands_still_does_not_stop_changes(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "several_loops.py", "busy_loop") as program:
        assert program.says() == ["a-1"]
        time.sleep(1.5)  # until it follows
        program.tell()
        rotate(shared_store, service, "a", to="2")
        assert program.says() == ["changed"]
        assert program.says() == ["a-2"]
        program.ends(AT_ONCE)


def test_who_waits_while_the_client_is_closed_is_not_taken_for_cancelled(
    store: RunningStore,
) -> None:
    service = with_keys(store)
    with Started(store, service, "several_loops.py", "rejected_while_closed") as program:
        assert program.says() == ["a-1"]
        with silent(store):
            program.tell()
            assert program.says() == ["ConnectionFailedError", "connection_failed"]
        program.tell()
        assert program.says() == ["a-1"]
        program.ends(AT_ONCE)


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["sync_never_closed", "async_never_closed"])
def test_a_client_that_nobody_closes_ends_with_its_process_and_reports(
    shared_store: RunningStore, service: str, case: str
) -> None:
    with Started(shared_store, service, "ending.py", case) as program:
        assert program.says() == ["a-1"]
        time.sleep(1)
        program.tell()
        assert program.says() == ["last"]
        program.ends(AT_ONCE)
    counts = reads(shared_store, service)
    assert (counts["call"], counts["REPORTED"]) == (1, 40)


@pytest.mark.parametrize("away", ["in_flight", "away"])
def test_a_process_ends_at_once_although_the_store_does_not_answer(
    store: RunningStore, away: str
) -> None:
    service = with_keys(store)
    with Started(store, service, "ending.py", away) as program:
        assert program.says() == ["a-1"]
        if away == "away":
            store.kill()
            program.tell()
            assert program.says() == ["outage"]
            assert program.says() == ["last"]
            program.ends(AT_ONCE)
        else:
            with silent(store):
                program.tell()
                assert program.says() == ["last"]
                program.ends(AT_ONCE + LAST_REPORT_SECONDS)


@pytest.mark.parametrize(
    ("case", "number"), [("interrupted", signal.SIGINT), ("terminated", signal.SIGTERM)]
)
def test_a_signal_ends_a_call_at_once(
    store: RunningStore, case: str, number: signal.Signals
) -> None:
    service = with_keys(store)
    with Started(store, service, "ending.py", case) as program:
        assert program.says() == ["a-1"]
        with silent(store):
            program.tell()
            assert program.says() == ["waits"]
            time.sleep(0.3)
            program.signal(number)
            started_at = time.monotonic()
            assert program.says() == ["last"]
            assert time.monotonic() - started_at < AT_ONCE
            program.ends(AT_ONCE + LAST_REPORT_SECONDS)


def test_daemon_threads_that_call_all_the_time_do_not_hold_up_the_end(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "ending.py", "daemon_threads") as program:
        assert program.says() == ["a-1"]
        time.sleep(0.5)
        program.tell()
        assert program.says() == ["last"]
        program.ends(AT_ONCE)


def test_threads_that_go_on_behind_the_main_thread_have_a_whole_client(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "ending.py", "threads_go_on") as program:
        assert [program.says() for _ in range(3)] == [["a-1"], ["b-1"], ["last"]]
        program.ends(AT_ONCE)


def test_a_resolver_that_does_not_answer_does_not_hold_up_the_end(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "ending.py", "no_resolver") as program:
        assert program.says() == ["last"]
        program.ends(AT_ONCE)


def test_a_hundred_clients_that_are_let_go_leave_nothing(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "ending.py", "dropped") as program:
        assert program.says() == [1, 0]
        assert program.says() == [1, 0]
        _, left = program.says()
        assert left <= 6
        assert program.says() == [1, 0]
        assert program.says() == ["last"]
        program.ends(AT_ONCE)


def test_who_waits_while_others_close_hears_of_it_and_use_goes_on(store: RunningStore) -> None:
    service = with_keys(store)
    with Started(store, service, "ending.py", "closed_while_others_wait") as program:
        assert program.says() == ["a-1"]
        with silent(store):
            program.tell()
            assert program.says() == [["connection_failed"] * 10]
        program.tell()
        assert program.says() == ["a-1", "b-1"]
        assert program.says() == ["a-1"]
        assert program.says() == ["last"]
        program.ends(AT_ONCE)


def test_nobody_who_calls_while_others_close_waits_for_ever(
    shared_store: RunningStore, service: str
) -> None:
    with Started(shared_store, service, "ending.py", "closed_and_used_at_once") as program:
        [outcomes] = program.says()
        assert set(outcomes) <= {"a-1", "connection_failed"}
        assert "a-1" in outcomes
        assert program.says() == ["last"]
        program.ends(AT_ONCE)


# --- servers that fork ------------------------------------------------------------------------

ONE = ("--worker-class", "gthread", "--workers", "1", "--threads", "4")
THREE = ("--worker-class", "sync", "--workers", "3")


def answered(port: int) -> tuple[int, str]:
    """Which process of a server answers, and with what."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        process, _, value = connection.getresponse().read().decode().partition(" ")
        return int(process), value
    finally:
        connection.close()


def everyone(
    ask: Callable[[], tuple[int, str]], number: int, value: str, within: float
) -> set[int]:
    """The processes of ``number`` that answer, once each one's last answer is ``value``."""
    deadline = time.monotonic() + within
    said: dict[int, str] = {}
    while len(said) < number or set(said.values()) != {value}:
        assert time.monotonic() < deadline, said
        with contextlib.suppress(OSError, http.client.HTTPException):
            said.update([ask()])
    return set(said)


@pytest.mark.parametrize(
    ("workers", "number"), [(THREE, 3), (ONE, 1)], ids=["processes", "threads"]
)
def test_workers_of_gunicorn_share_a_client_that_was_made_before_the_fork(
    shared_store: RunningStore, service: str, workers: tuple[str, ...], number: int
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", *workers, "--chdir", str(FOLDER)]
    command += ["--bind", f"127.0.0.1:{port}", "--log-level", "warning", "wsgi_app:app"]

    def ask() -> tuple[int, str]:
        return answered(port)

    with Started(shared_store, service, *command) as server:
        before = everyone(ask, number, "a-1", 30)
        rotate(shared_store, service, "a", to="2")
        assert everyone(ask, number, "a-2", FOLLOWED_SECONDS) == before

        server.signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while before & everyone(ask, number, "a-2", 10):
            assert time.monotonic() < deadline, "the workers were not replaced"
        rotate(shared_store, service, "a", to="3")
        everyone(ask, number, "a-3", FOLLOWED_SECONDS)

        server.signal(signal.SIGTERM)
        server.ends(3)


def test_workers_of_celery_share_a_client_that_was_made_before_the_fork(
    shared_store: RunningStore, service: str, tmp_path: Path
) -> None:
    for name in ("messages", "control", "results"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "celery", "--workdir", str(FOLDER), "-A", "celery_app"]
    command += ["worker", "--pool", "prefork", "--concurrency", "3", "--loglevel", "ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    application = connected(str(tmp_path))

    def ask() -> tuple[int, str]:
        process, value = application.send_task("read").get(timeout=30, interval=0.01)
        return process, value

    with Started(shared_store, service, *command, TEST_FOLDER=str(tmp_path)) as worker:
        while "celery@" not in (worker.says() or "celery@"):
            pass
        everyone(ask, 3, "a-1", 60)
        rotate(shared_store, service, "a", to="2")
        everyone(ask, 3, "a-2", FOLLOWED_SECONDS + 1)  # and what a task takes
        worker.signal(signal.SIGTERM)
        assert worker.left(30) == 0  # celery's pool itself takes five seconds
        assert "Traceback" not in worker.errors, worker.errors
