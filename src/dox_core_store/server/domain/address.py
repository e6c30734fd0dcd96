"""Network addresses: how they are spelled, and which networks they lie in.

One spelling per address, so that a limit, a ledger search and a token's binding mean the same one:
IPv4 in IPv6 (``::ffff:192.0.2.7``, which is what a dual-stack socket says of an IPv4 peer) is that
IPv4 address. A zone (``fe80::1%eth0``) is refused: it means something only on the machine that
said it. Networks are compiled once; asking is integer comparisons.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from dox_core_store.errors import InvalidRequestError

__all__ = ["Networks", "canonical_address", "counted_as", "parse_networks"]

_MAPPED_BITS = 96
"""Where IPv4 begins in an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2)."""

_MAPPED = ipaddress.IPv6Network(f"::ffff:0:0/{_MAPPED_BITS}")
_SITE_BITS = 64
"""What one IPv6 subscriber has at least (RFC 6177): its addresses are no more than one."""

_LONGEST = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Networks:
    """A set of networks. Equal where they name the same ones in the same order."""

    __slots__ = ("_texts", "_v4", "_v6")

    def __init__(self, networks: Iterable[Network]) -> None:
        kept = tuple(networks)
        self._texts = tuple(map(str, kept))
        self._v4 = _compiled(each for each in kept if each.version == 4)  # noqa: PLR2004 - IPv4
        self._v6 = _compiled(each for each in kept if each.version == 6)  # noqa: PLR2004 - IPv6

    def __bool__(self) -> bool:
        return bool(self._texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and other._texts == self._texts

    def __hash__(self) -> int:
        return hash(self._texts)

    def __repr__(self) -> str:
        return f"Networks({', '.join(self._texts)})"

    @property
    def texts(self) -> tuple[str, ...]:
        """Each in its one spelling, as it is stored and shown."""
        return self._texts

    def contain(self, address: str) -> bool:
        """Whether ``address`` lies in one of them; what is no address lies in none."""
        parsed = _parsed(address)
        if parsed is None:
            return False
        number = int(parsed)
        compiled = self._v4 if isinstance(parsed, ipaddress.IPv4Address) else self._v6
        return any(number & mask == network for network, mask in compiled)


def parse_networks(texts: Iterable[str]) -> Networks:
    """The networks that ``texts`` name: ``10.0.0.0/8``, ``2001:db8::/32``, or one address.

    Raises `InvalidRequestError` ``invalid_field``; where bits of the host are set it says what was
    probably meant, because widening a network by itself would let in whom nobody named.
    """
    return Networks([_network(text) for text in texts])


def canonical_address(text: str) -> str | None:
    """``text`` in the one spelling of its address; None where it is none, or has a zone."""
    parsed = _parsed(text)
    return None if parsed is None else str(parsed)


def counted_as(address: str) -> str:
    """Under what a limit counts ``address``: an IPv6 address with its /64, for whoever has one of
    them has all of them; everything else as it is."""
    if ":" not in address:
        return address
    parsed = _parsed(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address if parsed is None else str(parsed)
    return str(ipaddress.IPv6Network((parsed, _SITE_BITS), strict=False))


def _parsed(text: str) -> Address | None:
    if "%" in text or len(text) > _LONGEST:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(text: str) -> Network:
    base, slash, bits = text.partition("/")
    if len(text) > _LONGEST or "%" in text or (slash and not (bits.isascii() and bits.isdigit())):
        raise _no_network(text)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _no_network(text) from None
    if _parsed(base) not in (network.network_address, _parsed(str(network.network_address))):
        raise InvalidRequestError(
            "invalid_field", f"{text} has host bits set; write {network} or {base} alone."
        )
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network(f"{mapped}/{network.prefixlen - _MAPPED_BITS}")
    return network


def _compiled(networks: Iterable[Network]) -> tuple[tuple[int, int], ...]:
    """Number and mask of each: an address lies in it where the masked address is the number."""
    return tuple((int(each.network_address), int(each.netmask)) for each in networks)


def _no_network(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        "invalid_field", f"{text[:_LONGEST]!a} is no network such as 10.0.0.0/8 or 2001:db8::/32."
    )
