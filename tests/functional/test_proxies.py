"""Client addresses behind proxies: whose word is taken, and that nobody can borrow another's.

The server trusts proxies in 127.0.9.0/24 and 2001:db8:9::/48; a request's socket comes from there
or from elsewhere in 127.0.0.0/8. What counts is what the ledger says, and whose limit is used up.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.functional.raw_http import ask, code_of, recorded, send_raw
from tests.functional.running import EXIT_REFUSED, Answer, RunningStore, run_doxstore

PROXY, STRANGER = "127.0.9.1", "127.0.8.8"
CLIENT = "198.51.100.7"
COUNT = itertools.count()

Headers = Iterable[tuple[str, str]]


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore
) -> Iterator[RunningStore]:
    """One server behind proxies, for all tests here."""
    store = RunningStore(
        tmp_path_factory.mktemp("proxied") / "store",
        environment={"DOXSTORE_TRUSTED_PROXIES": "127.0.9.0/24, 2001:db8:9::/48"},
    )
    store.copy_of(made_store)
    store.start()
    store.put("proxies.key", "value")
    yield store
    store.dispose()


def seen(store: RunningStore, source: str, *headers: tuple[str, str]) -> str:
    """The address that the ledger gives to an operator's read from ``source``."""
    answer = ask(store, "GET", "/v1/keys/proxies.key", headers=headers, source=source)
    assert answer.status == 200, answer
    (entry,) = recorded(store, answer)
    address: str = entry["ip_address"]
    return address


BELIEVED: dict[str, tuple[Headers, str]] = {
    "nothing said": ([], PROXY),
    "one hop": ([("X-Forwarded-For", CLIENT)], CLIENT),
    "the client through two proxies": ([("X-Forwarded-For", f"{CLIENT}, 127.0.9.2")], CLIENT),
    "a spoofed left part": ([("X-Forwarded-For", f"203.0.113.1, {CLIENT}")], CLIENT),
    "a spoofed trusted left part": ([("X-Forwarded-For", f"127.0.9.9, {CLIENT}")], CLIENT),
    "rubbish on the left": ([("X-Forwarded-For", f'x y="z, ;;, {CLIENT}')], CLIENT),
    "several lines": (
        [("X-Forwarded-For", "203.0.113.1"), ("X-Forwarded-For", f"{CLIENT},127.0.9.2")],
        CLIENT,
    ),
    "1000 spoofed hops": ([("X-Forwarded-For", ", ".join(["127.0.9.7"] * 999 + [CLIENT]))], CLIENT),
    "all trusted": ([("X-Forwarded-For", "127.0.9.5, 127.0.9.6")], "127.0.9.5"),
    "with a port": ([("X-Forwarded-For", f"{CLIENT}:4711")], CLIENT),
    "IPv6": ([("X-Forwarded-For", "2001:DB8:0::17, 2001:db8:9::1")], "2001:db8::17"),
    "IPv6 with a port": ([("X-Forwarded-For", "[2001:db8::17]:443")], "2001:db8::17"),
    "IPv4 in IPv6": ([("X-Forwarded-For", f"::ffff:{CLIENT}, ::ffff:127.0.9.2")], CLIENT),
    "Forwarded": ([("Forwarded", f"for={CLIENT};proto=https;by=127.0.9.1")], CLIENT),
    "Forwarded, spelled freely": ([("Forwarded", f'Proto=https ; FOR="{CLIENT}:80" , ')], CLIENT),
    "Forwarded with IPv6": ([("Forwarded", 'for="[2001:db8::17]:4711"')], "2001:db8::17"),
    "Forwarded through two proxies": (
        [("Forwarded", f"for=203.0.113.1, for={CLIENT}"), ("Forwarded", "for=127.0.9.2")],
        CLIENT,
    ),
    "a comma inside quotes": (
        [("Forwarded", f'for={CLIENT};host="a, for=203.0.113.1;b"')],
        CLIENT,
    ),
    "Forwarded, hidden on the left": ([("Forwarded", f"for=_gazonk, for={CLIENT}")], CLIENT),
    "both, and they agree": (
        [("X-Forwarded-For", f"203.0.113.1, {CLIENT}"), ("Forwarded", f"for={CLIENT}")],
        CLIENT,
    ),
}

DOUBTFUL: dict[str, tuple[Headers, str]] = {
    "both, and they disagree": (
        [("X-Forwarded-For", CLIENT), ("Forwarded", "for=203.0.113.1")],
        "disagreement",
    ),
    "unknown": ([("Forwarded", "for=unknown")], "hidden"),
    "hidden": ([("Forwarded", f"for={CLIENT}, for=_hidden")], "hidden"),
    "hidden with a port": ([("Forwarded", 'for="_hidden:_port"')], "hidden"),
    "no for": ([("Forwarded", "proto=https")], "hidden"),
    "for given twice": ([("Forwarded", f"for={CLIENT};for=203.0.113.1")], "malformed"),
    "a quote left open on the left": ([("Forwarded", f'for="x, for={CLIENT}')], "malformed"),
    "a quote closed by what a proxy added": (
        [("Forwarded", 'a="'), ("Forwarded", 'for="[2001:db8::17]"')],
        "malformed",
    ),
    "no pairs": ([("Forwarded", CLIENT)], "malformed"),
    "only commas": ([("Forwarded", ",,,")], "malformed"),
    "a Forwarded of 9 KB": ([("Forwarded", "for=127.0.9.7," * 640)], "malformed"),
    "blanks without end": ([("Forwarded", f"for={CLIENT}{' ' * 7_000}x")], "malformed"),
    "no address": ([("X-Forwarded-For", "client.example")], "malformed"),
    "an empty hop": ([("X-Forwarded-For", f"{CLIENT},")], "malformed"),
    "a zone": ([("X-Forwarded-For", "fe80::1%eth0")], "malformed"),
    "a number": ([("X-Forwarded-For", "3325256711")], "malformed"),
    "octal": ([("X-Forwarded-For", "0300.0.2.1")], "malformed"),
    "a network": ([("X-Forwarded-For", "198.51.100.0/24")], "malformed"),
    "not ASCII": ([("X-Forwarded-For", "\xb98.51.100.7")], "malformed"),
    "21 trusted hops": ([("X-Forwarded-For", ",".join(["127.0.9.7"] * 21))], "too_many_hops"),
}


@pytest.mark.parametrize("case", BELIEVED)
def test_a_trusted_proxy_says_who_the_client_is(proxied: RunningStore, case: str) -> None:
    headers, expected = BELIEVED[case]
    assert seen(proxied, PROXY, *headers) == expected


@pytest.mark.parametrize("case", DOUBTFUL)
def test_where_there_is_a_doubt_it_is_the_proxy_itself(proxied: RunningStore, case: str) -> None:
    headers, why = DOUBTFUL[case]
    assert seen(proxied, PROXY, *headers) == PROXY
    told = [json.loads(line) for line in proxied.log_text().splitlines() if "doubtful" in line]
    mine = [line for line in told if line["why"] == why]
    assert len(mine) == 1, "each kind is told once a minute, not at each request"
    assert mine[0]["event"] == "client_address_doubtful"
    assert mine[0]["proxy"] == PROXY


@pytest.mark.parametrize("case", BELIEVED)
def test_nobody_else_is_listened_to(proxied: RunningStore, case: str) -> None:
    assert seen(proxied, STRANGER, *BELIEVED[case][0]) == STRANGER


def test_without_trusted_proxies_no_header_counts(shared_store: RunningStore) -> None:
    shared_store.put("proxies.key", "value")
    for headers, _ in BELIEVED.values():
        assert seen(shared_store, "127.0.9.1", *headers) == "127.0.9.1"


def test_operators_routes_and_refused_tokens_have_the_client_s_address_too(
    proxied: RunningStore,
) -> None:
    said = [("X-Forwarded-For", f"203.0.113.1, {CLIENT}")]
    answers = [
        ask(
            proxied, "PUT", "/v1/keys/proxies.put", body={"value": "x"}, headers=said, source=PROXY
        ),
        ask(proxied, "GET", "/v1/services", headers=said, source=PROXY),
        ask(proxied, "GET", "/v1/keys/proxies.key", token="bad", headers=said, source=PROXY),
        ask(proxied, "GET", "/v1/services", token="", headers=said, source=PROXY),
        ask(
            proxied,
            "POST",
            "/v1/keys/batch-get",
            body={"key_paths": ["proxies.none"]},
            headers=said,
            source=PROXY,
        ),
    ]
    assert [answer.status for answer in answers] == [201, 200, 401, 401, 200]
    assert {entry["ip_address"] for entry in recorded(proxied, *answers)} == {CLIENT}


def test_a_header_cannot_be_smuggled_in(proxied: RunningStore) -> None:
    """A server that took a folded line, a NUL or a lone carriage return for the end of a header,
    where the proxy before it did not, would let a client speak as the proxy. (A lone line feed is
    such an end, to us and to the proxies that we know; RFC 9112, 2.2, allows it.)."""
    for value in (
        b"x\r\n X-Forwarded-For: 203.0.113.1",
        b"x\x00",
        b"x\rX-Forwarded-For: 203.0.113.1",
    ):
        request = (
            b"GET /v1/keys/proxies.key HTTP/1.1\r\nHost: store\r\nConnection: close\r\n"
            b"Authorization: Bearer " + proxied.admin_token.encode() + b"\r\n"
            b"X-Forwarded-For: " + CLIENT.encode() + b"\r\nX-Other: " + value + b"\r\n\r\n"
        )
        answer = send_raw(proxied, request, source=PROXY)
        assert answer.status == 400, value


def bad(store: RunningStore, token: str, said: str, source: str) -> Answer:
    headers = [("X-Forwarded-For", said)]
    return ask(store, "GET", "/v1/keys/proxies.key", token=token, headers=headers, source=source)


def tries(store: RunningStore, said: str, source: str, most: int) -> int:
    """How many bad tokens were read before one was refused unread; ``most`` if none was. ``{}`` in
    ``said`` becomes another number each time."""
    for number in range(most):
        token = f"bad.token.{next(COUNT)}"
        if code_of(bad(store, token, said.format(number % 250), source)) == "rate_limited":
            return number
    return most


def is_limited(store: RunningStore, said: str, source: str) -> bool:
    """A try comes back each tenth of a second, and a slow machine may take as long for one."""
    return tries(store, said, source, 50) < 50


def test_bad_tokens_count_for_the_client_and_never_for_whom_it_names(
    proxied: RunningStore,
) -> None:
    """One client behind the proxy uses up its tries, under ever new addresses that it claims."""
    client, other = "198.51.100.66", "198.51.100.67"
    assert 600 <= tries(proxied, f"{other}, 203.0.113.{{}}, {client}", PROXY, 3_000) < 3_000
    assert is_limited(proxied, client, PROXY)
    assert not is_limited(proxied, other, PROXY)
    assert not is_limited(proxied, f"{client}, {other}", PROXY)
    assert not is_limited(proxied, "203.0.113.1", PROXY)
    assert not is_limited(proxied, client, STRANGER)


def test_a_stranger_cannot_use_up_another_address(proxied: RunningStore) -> None:
    stranger, victim = "127.0.8.9", "198.51.100.70"
    assert 600 <= tries(proxied, victim, stranger, 3_000) < 3_000
    assert is_limited(proxied, "198.51.100.71", stranger)
    assert not is_limited(proxied, victim, PROXY)


def test_an_ipv6_client_counts_with_its_network(proxied: RunningStore) -> None:
    assert 600 <= tries(proxied, "2001:db8:77:1::{}", PROXY, 3_000) < 3_000
    assert is_limited(proxied, "2001:db8:77:1:ffff::1", PROXY)
    assert not is_limited(proxied, "2001:db8:77:2::1", PROXY)


def test_a_good_token_works_from_behind_an_address_that_sends_bad_ones(
    proxied: RunningStore,
) -> None:
    """One misconfigured service behind a NAT does not shut out the others, not even after a restart
    of theirs or ours: their tokens need not be known yet."""
    nat = "198.51.100.80"
    known = proxied.issue("nat-known", "proxies.key")
    assert bad(proxied, known, nat, PROXY).status == 200
    fresh = [proxied.issue("nat-fresh", "proxies.key") for _ in range(5)]
    for token in (known, *fresh):
        assert tries(proxied, nat, PROXY, 3_000) < 3_000
        assert bad(proxied, token, nat, PROXY).status == 200
    assert is_limited(proxied, nat, PROXY)


def test_naming_a_live_token_is_no_way_round_the_limit(proxied: RunningStore) -> None:
    nat = "198.51.100.81"
    good = proxied.issue("nat-named", "proxies.key")
    head, claims, _ = good.split(".")
    assert tries(proxied, nat, PROXY, 3_000) < 3_000
    codes = [
        code_of(bad(proxied, f"{head}.{claims}.{number:08d}", nat, PROXY)) for number in range(100)
    ]
    assert 10 <= codes.count("token_invalid") < 60
    assert codes.count("rate_limited") > 40
    assert bad(proxied, good, "198.51.100.82", PROXY).status == 200, "elsewhere it works"


@pytest.mark.parametrize(
    ("networks", "told"),
    [
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("proxy.example", "no network"),
        ("10.0.0.0/255.0.0.0", "no network"),
        ("fe80::1%eth0", "no network"),
    ],
)
def test_a_bad_network_is_refused_at_start(
    tmp_path: Path, made_store: RunningStore, networks: str, told: str
) -> None:
    store = RunningStore(tmp_path / "store")
    store.copy_of(made_store)
    place = ("--data", store.data, "--key-file", store.key_file)
    run = run_doxstore("serve", *place, DOXSTORE_TRUSTED_PROXIES=networks)
    assert run.returncode == EXIT_REFUSED
    assert "bad_setting" in run.stderr
    assert told in run.stderr
