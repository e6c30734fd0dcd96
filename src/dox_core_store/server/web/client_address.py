"""Whose address a request counts under: the socket's peer, or whom a trusted proxy speaks for.

Only a peer in a trusted network is listened to. Every proxy adds what it saw at the right end, so
the right end is what a proxy of ours wrote and the left end is whatever the client wrote: hops are
counted from the right, trusted ones are passed over, and the first that is not trusted is the
client. If all are trusted, the leftmost is. Nothing to the left of the client is looked at in
``X-Forwarded-For``. ``Forwarded`` (RFC 7239) has quoted strings, in which a comma separates
nothing, so all of it has to be well formed before any of it counts.

Where the headers leave a doubt, the request counts under the proxy's own address: whoever caused
the doubt is then one with everybody who does, and nobody is taken for somebody else. The doubt is
told, once a minute for each kind. A header given in several lines is one list, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from dox_core_store.server.domain.address import Networks, canonical_address
from dox_core_store.server.web.request import Scope

__all__ = ["ClientAddress", "peer_address"]

MAX_HOPS = 20
"""Proxies that a request may have come through; real platforms have two or three."""

_TOLD_SECONDS = 60.0
_MAX_REMEMBERED = 4_096
_MAX_REMEMBERED_BYTES = 512
_MAX_FORWARDED_BYTES = 8 * 1024

_FORWARDED, _X_FORWARDED_FOR = b"forwarded", b"x-forwarded-for"
_HEADERS = frozenset({_FORWARDED, _X_FORWARDED_FOR})

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's token
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_PAIR = f"{_TOKEN}=(?:{_TOKEN}|{_QUOTED})"
_ELEMENT = re.compile(rf"[ \t]*+({_PAIR}(?:[ \t]*+;[ \t]*+{_PAIR})*+)?[ \t]*+(,|\Z)")
"""Possessive (``*+``), for what a client sends must not make it try again and again."""

_ONE_PAIR = re.compile(f"({_TOKEN})=({_TOKEN}|{_QUOTED})")

_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_WITH_PORT = re.compile(rf"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)){_PORT}", re.ASCII)
_HIDDEN = re.compile(rf"(?:unknown|_[A-Za-z0-9._-]+){_PORT}", re.IGNORECASE)


class DoubtError(Exception):
    """The headers do not say who asks; the argument is the kind of doubt."""


class ClientAddress:
    """See the module. ``doubt`` is told the kind of a doubt and the proxy's address:
    ``malformed``, ``hidden`` (the proxy does not say), ``too_many_hops``, ``disagreement``."""

    def __init__(
        self,
        *,
        trusted: Networks,
        monotonic: Callable[[], float],
        doubt: Callable[[str, str], None],
    ) -> None:
        self._trusted = trusted
        self._monotonic = monotonic
        self._doubt = doubt
        self._told: dict[str, float] = {}
        self._remembered: dict[tuple[str, bytes, bytes], str] = {}
        self.of: Callable[[Scope], str] = self._behind_proxies if trusted else peer_address
        """The address of a request's client. Without trusted proxies it costs nothing."""

    def host(self, scope: Scope) -> str | None:
        """The host that a client asked for; None behind a trusted proxy, which may tell its own."""
        if self._trusted and self._trusted.contain(peer_address(scope)):
            return None
        return next(
            (value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), ""
        )

    def _behind_proxies(self, scope: Scope) -> str:
        peer = peer_address(scope)
        said = [each for each in scope["headers"] if each[0] in _HEADERS]
        if not said or not self._trusted.contain(peer):
            return peer
        forwarded, for_list = _joined(said, _FORWARDED), _joined(said, _X_FORWARDED_FOR)
        asked = (peer, forwarded, for_list)
        known = self._remembered.get(asked)
        if known is not None:
            return known
        try:
            address = self._client(peer, forwarded, for_list)
        except DoubtError as doubt:
            self._tell(str(doubt), peer)
            return peer
        if len(forwarded) + len(for_list) <= _MAX_REMEMBERED_BYTES:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[asked] = address
        return address

    def _client(self, peer: str, forwarded: bytes, for_list: bytes) -> str:
        if len(forwarded) > _MAX_FORWARDED_BYTES:
            raise DoubtError("malformed")
        found = set()
        if forwarded:
            found.add(self._first_untrusted(_nodes(forwarded.decode("latin-1"))))
        if for_list:
            # What is further left than this is never looked at.
            listed = for_list.decode("latin-1").rsplit(",", MAX_HOPS + 1)
            found.add(self._first_untrusted([each.strip(" \t") for each in listed]))
        if len(found) > 1:
            raise DoubtError("disagreement")
        return found.pop() if found else peer

    def _first_untrusted(self, nodes: Sequence[str]) -> str:
        """From the right; the leftmost where all are trusted."""
        if not nodes:
            raise DoubtError("malformed")
        address = ""
        for hops, node in enumerate(reversed(nodes)):
            if hops == MAX_HOPS:
                raise DoubtError("too_many_hops")
            address = _address(node)
            if not self._trusted.contain(address):
                break
        return address

    def _tell(self, kind: str, peer: str) -> None:
        now = self._monotonic()
        if now - self._told.get(kind, -_TOLD_SECONDS) >= _TOLD_SECONDS:
            self._told[kind] = now
            self._doubt(kind, peer)


def peer_address(scope: Scope) -> str:
    """The address at the other end of the socket, in its one spelling."""
    client = scope["client"]
    if not client:
        return ""
    address: str = client[0]
    if ":" in address:
        return canonical_address(address) or address
    return address


def _joined(said: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    return b",".join([value for each, value in said if each == name])


def _nodes(text: str) -> list[str]:
    """The ``for`` of each element of a ``Forwarded`` header; ``unknown`` where it has none."""
    nodes = []
    for element in _elements(text):
        pairs = [(pair[1].lower(), pair[2]) for pair in _ONE_PAIR.finditer(element)]
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise DoubtError("malformed")
        node = dict(pairs).get("for", "unknown")
        if node.startswith('"'):
            node = re.sub(r"\\(.)", r"\1", node[1:-1])
        nodes.append(node)
    return nodes


def _elements(text: str) -> Iterator[str]:
    """The elements of a list, in order; empty ones count for nothing (RFC 9110, 5.6.1.2)."""
    at = 0
    while True:
        match = _ELEMENT.match(text, at)
        if match is None:
            raise DoubtError("malformed")
        if match[1]:
            yield match[1]
        if match[2] != ",":
            return
        at = match.end()


def _address(node: str) -> str:
    """The address of a node, without its port: ``192.0.2.7:4711``, ``[2001:db8::1]:4711``, or an
    address alone."""
    match = _WITH_PORT.fullmatch(node)
    address = canonical_address((match[1] or match[2]) if match else node)
    if address is None:
        raise DoubtError("hidden" if _HIDDEN.fullmatch(node) else "malformed")
    return address
