"""What a syslog message is made of, how a follower goes on, and what is chosen from the ledger."""

from __future__ import annotations

import json
import re

import pytest

from dox_core_store.errors import ConfigurationError, StoreUnavailableError
from dox_core_store.server.adapters.sinks.syslog_message import octet_counted, syslog_message
from dox_core_store.server.bootstrap.shipping import destinations
from dox_core_store.server.domain.shipping import (
    BEGINNING,
    Batch,
    Place,
    Shipped,
    ShippingError,
    backoff_seconds,
    is_shipped,
)
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.shipping import LOOK_SECONDS, Follower
from dox_core_store.testing.clock import FixedClock

STORE = "store_" + "0" * 32
AT = "2026-11-25T04:00:00.123Z"


def message(entry: Shipped, **fields: object) -> str:
    given = {"host": "node-1", "process": 42, "store_id": STORE} | fields
    return syslog_message(entry, **given).decode("ascii")  # type: ignore[arg-type]


# --- syslog -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "kind"), [("CHECKPOINT", "CHECKPOINT"), ("PUT", "CHANGE"), ("REVOKE", "CHANGE")]
)
def test_a_message_is_one_of_rfc_5424(action: str, kind: str) -> None:
    made = message(Shipped(b'{"seq":1}', AT, action))
    head = f'<110>1 {AT} node-1 doxstore 42 {kind} [doxstore@32473 store="{STORE}"]'
    assert made == f'{head} {{"seq":1}}'


@pytest.mark.parametrize(
    "text",
    [
        "line\nfeed",
        "carriage\rreturn",
        "\x00\x1b[2J\x7f",
        "\u0085\u2028\u2029\u009b",
        "\u00e4 \U0001f511",
        '"] {"quoted\\',
        "1 <110>1 - - - - - -",
    ],
)
def test_no_text_in_an_entry_ends_a_record(text: str) -> None:
    raw = json.dumps({"reason": text}, ensure_ascii=False).encode()
    made = message(Shipped(raw, AT, "PUT"))
    assert re.fullmatch(r"[ -~]+", made)
    assert json.loads(made[made.index("] {") + 2 :]) == {"reason": text}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"host": ""}, f"<110>1 {AT} - doxstore"),
        ({"host": "a b\nc\u00e4"}, f"<110>1 {AT} abc doxstore"),
        ({"host": "h" * 300}, f"<110>1 {AT} {'h' * 255} doxstore"),
        ({"store_id": 'a"]\\\n'}, 'store="a\\"\\]\\\\"'),
    ],
)
def test_what_stands_in_the_head_stays_in_its_place(
    fields: dict[str, object], expected: str
) -> None:
    made = message(Shipped(b"{}", AT, "PUT"), **fields)
    assert expected in made
    assert re.fullmatch(r"[ -~]+", made)


def test_a_time_that_is_none_is_left_out() -> None:
    assert message(Shipped(b"{}", "yesterday\n<1>", "PUT")).startswith("<110>1 - node-1 ")


def test_a_frame_begins_with_the_message_s_length() -> None:
    assert octet_counted(b"<110>1 x") == b"8 <110>1 x"


# --- addresses --------------------------------------------------------------------------------

REFUSED = [
    "carrier-pigeon://loft",
    "/var/log/shipped.jsonl",
    "file://shipped.jsonl",
    "file:///var/log/",
    "file:///var/log/a%00b",
    "syslog://",
    "syslog://logs.example:99999",
    "syslog://logs.example:0",
    "syslog://logs.example/path",
    "syslog://logs example",
    "http://hooks.example/ledger",
    "https://operator:canary@hooks.example/ledger",
    "https://canary@hooks.example/ledger",
    "https://hooks.example/ledger#canary",
    "https://hooks.example\\@canary/",
    "https://hooks.example/\ncanary",
    "s3:///canary",
    "s3://Canary_Bucket/prefix",
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_none_is_refused_and_not_quoted(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        destinations(Settings(ship_to=[address]))
    assert caught.value.code == "bad_setting"
    assert "canary" not in caught.value.detail.lower()


def test_a_destination_stands_once_and_a_required_one_can_tell_that_it_took_something() -> None:
    for settings in (
        Settings(ship_to=["file:///a"], ship_required=["file:///a"]),
        Settings(ship_required=["syslog+udp://logs.example"]),
        Settings(ship_to=["https://hooks.example/"], ship_ca_file="/nonexistent"),
    ):
        with pytest.raises(ConfigurationError):
            destinations(settings)


def test_what_may_be_a_secret_in_an_address_is_not_shown() -> None:
    settings = Settings(
        ship_to=["http://127.0.0.1:81/services/canary?token=canary", "syslog://[::1]"],
        ship_required=["file:///var/log/a%20b.jsonl", "s3://some-bucket/canary/../x/"],
    )
    found = destinations(settings)
    assert [each.sink.shown for each in found] == [
        "http://127.0.0.1:81",
        "syslog://[::1]:514",
        "file:///var/log/a b.jsonl",
        "s3://some-bucket/canary/../x",
    ]
    assert [(each.number, each.required) for each in found] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
    ]
    assert re.fullmatch(r"sink:http://127\.0\.0\.1:81#[0-9a-f]{16}", found[0].name)


# --- what is shipped --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "action", "shipped"),
    [
        ("changes", "PUT", True),
        ("changes-2", "RESTORE", True),
        ("str_1", "CHECKPOINT", True),
        ("str_1", "GET", False),
        ("str_1", "OPEN", False),
        ("changes-x", "PUT", False),
    ],
)
def test_checkpoints_and_changes_are_shipped(stream: str, action: str, shipped: bool) -> None:
    assert is_shipped(stream, action) is shipped


def test_waits_double_up_to_half_a_minute() -> None:
    assert [backoff_seconds(n) for n in (1, 2, 3, 5, 6, 50)] == [1, 2, 4, 16, 30, 30]


# --- a follower -------------------------------------------------------------------------------


class FakeSource:
    """Batches of one entry each; ``place`` is what was kept."""

    def __init__(self, *ages: float, kept: Place | None = None, why: str | None = None) -> None:
        self.ages = list(ages)
        self.kept = kept
        self.why = why
        self.keeps = True

    def resume(self, name: str) -> tuple[Place | None, str | None]:
        return self.kept, self.why

    def after(self, place: Place) -> Batch:
        top = len(self.ages)
        if place.block_id >= top:
            return Batch(STORE, (), place, 0.0, True)
        at = place.block_id + 1
        entry = Shipped(b"%d" % at, AT, "PUT")
        return Batch(STORE, [entry], Place(at, f"{at:02x}"), self.ages[at - 1], at == top)

    def keep(self, name: str, place: Place) -> None:
        if not self.keeps:
            raise StoreUnavailableError("ledger_unavailable", "full")
        self.kept = place


class FakeSink:
    kind, shown = "file", "file:///shipped"

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.fault: Exception | None = None

    def send(self, batch: Batch) -> None:
        if self.fault is not None:
            raise self.fault
        self.taken += [entry.line for entry in batch.entries]


def follower(
    source: FakeSource, sink: FakeSink, clock: FixedClock, notices: list[tuple[str, str]]
) -> Follower:
    return Follower(
        name="sink:file:///shipped",
        number=1,
        required=True,
        sink=sink,
        source=source,
        clock=clock,
        notice=lambda event, _follower, detail: notices.append((event, detail)),
    )


def test_everything_is_sent_once_and_in_order_and_the_place_is_kept() -> None:
    clock, source, sink = FixedClock(), FakeSource(1, 2, 3), FakeSink()
    following = follower(source, sink, clock, [])
    assert [following.step() for _ in range(4)] == [0.0, 0.0, LOOK_SECONDS, LOOK_SECONDS]
    assert sink.taken == [b"1", b"2", b"3"]
    assert source.kept == Place(3, "03")
    assert following.behind(clock.seconds()) == 0.0
    again = follower(source, sink, clock, [])
    again.step()
    assert sink.taken == [b"1", b"2", b"3"]


def test_what_failed_is_sent_again_as_it_was_and_told_once() -> None:
    clock, sink, notices = FixedClock(), FakeSink(), []
    source = FakeSource(clock.seconds() - 100, kept=BEGINNING)
    following = follower(source, sink, clock, notices)
    sink.fault = ShippingError("it answered 500")
    assert [following.step() for _ in range(3)] == [1.0, 2.0, 4.0]
    assert notices == [("ship_failed", "it answered 500")]
    assert following.behind(clock.seconds()) == pytest.approx(100, abs=1)
    source.ages.append(clock.seconds())
    sink.fault = None
    following.step()
    following.step()
    assert sink.taken == [b"1", b"2"]
    assert notices[1:] == [("ship_recovered", "")]
    assert following.state().failures == 3


def test_shipping_goes_on_where_its_place_cannot_be_kept() -> None:
    source, sink, notices = FakeSource(1, 2), FakeSink(), []
    source.keeps = False
    following = follower(source, sink, FixedClock(), notices)
    following.step()
    following.step()
    assert (sink.taken, notices, source.kept) == ([b"1", b"2"], [], None)


def test_a_ledger_that_was_cut_is_shipped_from_its_beginning() -> None:
    source, sink, notices = FakeSource(1, why="it ends before"), FakeSink(), []
    follower(source, sink, FixedClock(), notices).step()
    assert sink.taken == [b"1"]
    assert notices == [("ship_restarted", "it ends before")]


def test_a_new_destination_has_time_for_what_was_there_before_it() -> None:
    clock, sink = FixedClock(), FakeSink()
    following = follower(FakeSource(clock.seconds() - 1_000_000), sink, clock, [])
    sink.fault = ShippingError("away")
    following.step()
    assert following.behind(clock.seconds()) < 1
    assert following.behind(clock.seconds() + 700) == pytest.approx(700, abs=1)


def test_who_does_not_look_any_more_is_behind() -> None:
    clock = FixedClock()
    following = follower(FakeSource(), FakeSink(), clock, [])
    following.step()
    assert following.behind(clock.seconds() + 5) == 0.0
    assert following.behind(clock.seconds() + 60) == pytest.approx(60, abs=1)
