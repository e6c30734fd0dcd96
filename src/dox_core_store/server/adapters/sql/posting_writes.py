"""The statements that write the ledger's search index, and what an index can hold.

Rows are fed as JSON to one statement: so they are bound without taking the interpreter's lock for
each.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["POSTING_WRITES", "PostingWrites", "indexable"]

_NUL, _NO_NUL = "\0", "\ufffd"
_LONGEST = 600
"""Characters of a term: a row of PostgreSQL's index has room for some 2,700 bytes."""


class PostingWrites(NamedTuple):
    """The statements. Rows are fed as JSON to one of them: they are bound without taking the GIL
    for each."""

    posting: str
    use: str
    call: str
    cursor: str


POSTING_WRITES = {
    "sqlite": PostingWrites(
        "INSERT OR REPLACE INTO ledger_posting (kind, term, first_chunk, chunks)"
        " SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3 FROM json_each(?)",
        "INSERT INTO token_use (token_id, last_used_at)"
        " SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true"
        " ON CONFLICT (token_id) DO UPDATE SET last_used_at ="
        " max(last_used_at, excluded.last_used_at)",
        "INSERT INTO service_call (path, environment, service, last_called_at)"
        " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)"
        " WHERE true ON CONFLICT (path, environment, service) DO UPDATE SET last_called_at ="
        " max(last_called_at, excluded.last_called_at)",
        "INSERT OR REPLACE INTO ledger_cursor (name, block_id) VALUES ('postings', ?)",
    ),
    "postgresql": PostingWrites(
        # Of two lists that begin alike, the longer one goes on where the other ends.
        "INSERT INTO ledger_posting (kind, term, first_chunk, chunks)"
        " SELECT value ->> 0, value ->> 1, (value ->> 2)::bigint, value ->> 3"
        " FROM json_array_elements(%s::json)"
        " ON CONFLICT (kind, term, first_chunk) DO UPDATE SET chunks = excluded.chunks"
        " WHERE length(excluded.chunks) > length(ledger_posting.chunks)",
        # A use that is not newer writes nothing: a row that is written is written as a whole.
        "INSERT INTO token_use (token_id, last_used_at)"
        " SELECT value ->> 0, (value ->> 1)::bigint FROM json_array_elements(%s::json)"
        " ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at"
        " WHERE excluded.last_used_at > token_use.last_used_at",
        "INSERT INTO service_call (path, environment, service, last_called_at)"
        " SELECT value ->> 0, value ->> 1, value ->> 2, (value ->> 3)::bigint"
        " FROM json_array_elements(%s::json)"
        " ON CONFLICT (path, environment, service) DO UPDATE SET"
        " last_called_at = excluded.last_called_at"
        " WHERE excluded.last_called_at > service_call.last_called_at",
        "INSERT INTO ledger_cursor (name, block_id) VALUES ('postings', %s)"
        " ON CONFLICT (name) DO UPDATE SET"
        " block_id = greatest(ledger_cursor.block_id, excluded.block_id)",
    ),
}


def indexable(term: str) -> str:
    """``term`` as PostgreSQL can index it: whoever is refused may have asked for anything. Terms
    that become one lead to the blocks of all of them."""
    return term[:_LONGEST].replace(_NUL, _NO_NUL)
