"""Addresses in one spelling, networks without a guess."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.domain.address import (
    Networks,
    canonical_address,
    counted_as,
    parse_networks,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:C000:207", "192.0.2.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", None),
        ("192.0.2.07", None),
        ("192.0.2", None),
        ("3221225991", None),
        ("192.0.2.7/32", None),
        ("[2001:db8::1]", None),
        ("unknown", None),
        ("", None),
        (" 192.0.2.7", None),
        ("\u0661.2.3.4", None),
        ("1" * 10_000, None),
    ],
)
def test_one_spelling_or_none(text: str, expected: str | None) -> None:
    assert canonical_address(text) == expected


@given(st.ip_addresses())
def test_a_canonical_address_is_its_own(address: ipaddress.IPv4Address) -> None:
    spelled = canonical_address(str(address))
    assert spelled is not None
    assert canonical_address(spelled) == spelled


@pytest.mark.parametrize(
    ("networks", "address", "expected"),
    [
        (["10.0.0.0/8"], "10.255.255.255", True),
        (["10.0.0.0/8"], "11.0.0.0", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["192.0.2.7"], "192.0.2.7", True),
        (["192.0.2.7"], "192.0.2.8", False),
        (["2001:db8::/32"], "2001:db8:ffff::1", True),
        (["2001:db8::/32"], "2001:db9::", False),
        (["2001:db8::/32"], "fe80::1%eth0", False),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["::/0"], "192.0.2.7", False),
        (["0.0.0.0/0", "::/0"], "unknown", False),
        ([], "127.0.0.1", False),
    ],
)
def test_a_network_contains(networks: list[str], address: str, *, expected: bool) -> None:
    assert parse_networks(networks).contain(address) is expected


@given(st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), max_size=5), st.ip_addresses())
def test_it_agrees_with_the_standard_library(
    made: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    mapped = ipaddress.ip_network("::ffff:0:0/96")
    networks = [
        ipaddress.ip_network((base, bits % (base.max_prefixlen + 1)), strict=False)
        for base, bits in made
    ]
    networks = [each for each in networks if each.version == 4 or not each.overlaps(mapped)]
    if address.version == 6 and address in mapped:
        return
    expected = any(address in network for network in networks)
    assert parse_networks(map(str, networks)).contain(str(address)) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8 or 10.0.0.1 alone"),
        ("2001:db8::1/32", "write 2001:db8::/32 or 2001:db8::1 alone"),
        ("::ffff:10.0.0.1/104", "host bits set"),
        ("10.0.0.0/33", "no network"),
        ("10.0.0.0/", "no network"),
        ("10.0.0.0/-1", "no network"),
        ("10.0.0.0/255.0.0.0", "no network"),
        ("10.0.0.0/0.255.255.255", "no network"),
        ("10.0.0.0/8/8", "no network"),
        ("10.0.0.0/\u0668", "no network"),
        ("fe80::1%eth0", "no network"),
        ("proxy.example", "no network"),
        ("", "no network"),
        ("10.0.0.0/8 ", "no network"),
        ("x" * 10_000, "no network"),
    ],
)
def test_no_network(text: str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_networks(["192.0.2.0/24", text])
    assert caught.value.code == "invalid_field"
    assert told in caught.value.detail
    assert len(caught.value.detail) < 200


def test_networks_are_their_texts() -> None:
    networks = parse_networks(["::ffff:10.0.0.0/104", "192.0.2.7", "2001:DB8::/32"])
    assert networks.texts == ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")
    assert networks == parse_networks(networks.texts)
    assert hash(networks) == hash(parse_networks(networks.texts))
    assert networks
    assert not Networks([])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_a_limit_counts_ipv6_by_its_network(address: str, expected: str) -> None:
    assert counted_as(address) == expected
