"""Whatever a client puts before what its proxy adds, it is nobody but itself or the proxy."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dox_core_store.server.domain.address import parse_networks
from dox_core_store.server.web.client_address import ClientAddress, peer_address

PROXY, CLIENT, CLIENT6 = "10.0.0.1", "198.51.100.7", "2001:db8::17"

spoofs = st.one_of(
    st.text(alphabet='for=by;, "\\[]:.0123456789abc_\t%', max_size=60),
    st.text(alphabet=st.characters(max_codepoint=255), max_size=40),
    st.lists(
        st.sampled_from(
            ["for=", '"', ",", ";", "1.2.3.4", "10.0.0.9", "unknown", "[::1]", "\\", "a=", " "]
        ),
        max_size=20,
    ).map("".join),
)


class Told:
    def __init__(self) -> None:
        self.doubts: list[tuple[str, str]] = []
        self.now = 0.0
        self.address = ClientAddress(
            trusted=parse_networks(["10.0.0.0/8"]),
            monotonic=lambda: self.now,
            doubt=lambda why, proxy: self.doubts.append((why, proxy)),
        )

    def __call__(self, *headers: tuple[str, str], peer: str = PROXY) -> str:
        return self.address.of(scope(peer, *headers))


def scope(peer: str | None, *headers: tuple[str, str]) -> dict[str, Any]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"client": None if peer is None else (peer, 1), "headers": raw}


@given(spoofs)
@example('a="')
@example("," * 1_000)
def test_what_is_left_of_the_client_never_counts_in_x_forwarded_for(spoof: str) -> None:
    assert Told()(("x-forwarded-for", f"{spoof}, {CLIENT}")) == CLIENT
    assert Told()(("x-forwarded-for", spoof), ("x-forwarded-for", f"{CLIENT}, 10.0.0.9")) == CLIENT


@given(spoofs, st.sampled_from([f"for={CLIENT}", f'for="[{CLIENT6}]:443";proto=https']))
@example('a="', f'for="[{CLIENT6}]:443";proto=https')
@example('a="x",for=1.2.3.4;b="', f'for="[{CLIENT6}]:443";proto=https')
def test_a_spoofed_forwarded_is_the_client_or_the_proxy(spoof: str, added: str) -> None:
    assert Told()(("forwarded", f"{spoof}, {added}")) in {CLIENT, CLIENT6, PROXY}
    assert Told()(("forwarded", spoof), ("forwarded", added)) in {CLIENT, CLIENT6, PROXY}


@given(spoofs)
def test_a_header_that_the_proxy_passes_through_cannot_change_whom_the_other_names(
    spoof: str,
) -> None:
    assert Told()(("forwarded", spoof), ("x-forwarded-for", CLIENT)) in {CLIENT, PROXY}


@given(spoofs, spoofs)
def test_who_is_not_trusted_says_nothing(one: str, other: str) -> None:
    told = Told()
    assert told(("forwarded", one), ("x-forwarded-for", other), peer=CLIENT) == CLIENT
    assert not told.doubts


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        (None, ""),
    ],
)
def test_a_peer_in_its_one_spelling(peer: str | None, expected: str) -> None:
    assert peer_address(scope(peer)) == expected


def test_a_proxy_on_a_dual_stack_socket_is_known() -> None:
    assert Told()(("x-forwarded-for", CLIENT), peer="::ffff:10.0.0.1") == CLIENT


def test_without_trusted_proxies_nothing_is_looked_at() -> None:
    address = ClientAddress(
        trusted=parse_networks([]), monotonic=time.monotonic, doubt=lambda _why, _proxy: None
    )
    assert address.of is peer_address


def test_a_doubt_is_told_once_a_minute_for_each_kind() -> None:
    told = Told()
    for second in (0, 30, 59.9, 60):
        told.now = 1_000 + second
        assert told(("x-forwarded-for", "rubbish")) == PROXY
        assert told(("forwarded", "for=unknown")) == PROXY
    assert told.doubts == [("malformed", PROXY), ("hidden", PROXY)] * 2


def test_it_remembers_what_it_found_within_bounds() -> None:
    told = Told()
    for number in range(10_000):
        address = f"198.{number // 250}.{number % 250}.1"
        assert told(("x-forwarded-for", address)) == address
    assert len(told.address._remembered) <= 4_096


@pytest.mark.parametrize(
    "hostile",
    [
        f"for={CLIENT}" + " " * 7_000 + "x",
        "for=" + '"' + "\\a" * 4_000,
        "a=b;" * 2_000 + "!",
        ";" * 8_000,
        " , " * 2_600 + "x",
        "a" * 8_000,
    ],
)
def test_no_header_makes_it_try_for_long(hostile: str) -> None:
    began = time.process_time()
    assert Told()(("forwarded", hostile)) == PROXY
    assert time.process_time() - began < 0.1
