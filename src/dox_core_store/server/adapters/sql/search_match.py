"""Whether an entry is what a search wants: by the bytes of its line, and by its fields.

Bytes narrow, fields decide: a line that lacks a needle cannot match, and is never decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.ports import LedgerFilter

__all__ = ["Needle", "line_test", "matches", "needles_of", "spellings"]


class Needle(NamedTuple):
    """What a block's body must contain (without the first quote: there is one at every tenth byte,
    and each would be looked at), and of what a line must contain one."""

    rough: bytes
    exact: list[bytes]


def spellings(path: str, environments: frozenset[str]) -> list[str]:
    """How entries may name the key ``path``: with its environment, as asked, or in each one."""
    if path.rpartition(".")[2] in environments:
        return [path]
    return [path, *(f"{path}.{environment}" for environment in sorted(environments))]


def needles_of(wanted: LedgerFilter, environments: frozenset[str]) -> list[Needle]:
    """One for each filter, the rarest first: far cheaper than decoding."""
    encode = msgspec.json.encode
    found: list[Needle] = []
    if wanted.request_id is not None:
        found.append(_exactly(wanted.request_id))
    if wanted.key_path is not None:
        spelled = [encode(path) for path in spellings(wanted.key_path, environments)]
        found.append(Needle(spelled[0][1:-1], spelled))
    values = (wanted.token_id, wanted.ip_address, wanted.status, wanted.service_name,
              wanted.action, wanted.environment)  # fmt: skip
    found += [_exactly(value) for value in values if value is not None]
    if wanted.prefix is not None:
        begins = encode(wanted.prefix)[:-1]
        found.append(Needle(begins[1:], [begins]))
    return found


def _exactly(value: str) -> Needle:
    encoded = msgspec.json.encode(value)
    return Needle(encoded[1:], [encoded])


def line_test(wanted: LedgerFilter, some: list[Needle]) -> Callable[[bytes], bool]:
    """Whether a line may match, by its bytes. It begins with its time, which ends with a quote:
    below every character of a time, and followed by what is below 0xff."""
    since = b"" if wanted.since is None else b'["%b' % timestamp(wanted.since).encode()
    until = b"\xff" if wanted.until is None else b'["%b"\xff' % timestamp(wanted.until).encode()

    def test(line: bytes) -> bool:
        if not since <= line <= until:
            return False
        return all(any(each in line for each in needle.exact) for needle in some)

    return test


def matches(entry: Entry, wanted: LedgerFilter, environments: frozenset[str]) -> bool:
    path = entry.key_path
    return (
        wanted.service_name in (None, entry.service_name)
        and wanted.environment in (None, entry.environment)
        and wanted.action in (None, entry.action)
        and wanted.status in (None, entry.status)
        and wanted.token_id in (None, entry.token_id)
        and wanted.ip_address in (None, entry.ip_address)
        and wanted.request_id in (None, entry.request_id)
        and (wanted.key_path is None or path in spellings(wanted.key_path, environments))
        and (wanted.prefix is None or path == wanted.prefix or path.startswith(f"{wanted.prefix}."))
        and (wanted.since is None or entry.timestamp >= timestamp(wanted.since))
        and (wanted.until is None or entry.timestamp <= timestamp(wanted.until))
    )
