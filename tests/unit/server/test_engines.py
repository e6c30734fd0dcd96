"""What runs on either engine: each statement does the same, and answers the same, on both."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from tests.unit.server.engine_catalog import (
    CALLER,
    DAY,
    NOW,
    STORE,
    Catalog,
    addresses,
)

from dox_core_store.errors import ConflictError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.epochs import begin_epoch, check_epoch
from dox_core_store.server.adapters.sql.ledger_inspection import LedgerInspection
from dox_core_store.server.adapters.sql.shipping import shipped_up_to
from dox_core_store.server.adapters.sql.stream import LedgerStream, StreamLostError
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import CHANNEL
from dox_core_store.server.domain.access import TokenRecord
from dox_core_store.server.domain.epoch import Cause
from dox_core_store.server.domain.key import (
    KeyRecord,
    State,
    VersionRecord,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import TokenFilter


def token(number: int, **fields: Any) -> TokenRecord:
    given: dict[str, Any] = {
        "token_id": f"tok_{number:02}",
        "kind": "service",
        "name": f"s{number % 3}",
        "environment": None,
        "issued_at": NOW - number * DAY,
        "expires_at": NOW + (number - 5) * DAY,
        "issued_by": "local:ada",
        "revoked_at": None,
    }
    return TokenRecord(**(given | fields))


# --- transactions ---------------------------------------------------------------------------------


def test_records_are_found_as_they_were_put(catalog: Catalog) -> None:
    keys = catalog.keep(*addresses(30))
    with catalog.transaction() as tx:
        assert tx.get(KeyRecord, path="a.k07", environment="staging") == keys[15]
        assert tx.find(KeyRecord, environment="staging", limit=2) == keys[1:4:2]
        assert tx.find(KeyRecord, owner=None, limit=1) == keys[:1]
        wanted = [key.key_id for key in keys]
        found = tx.find_among(VersionRecord, "key_id", wanted, state=State.CURRENT)
        assert {each.key_id for each in found} == set(wanted)
        assert [each.number for each in tx.latest(
            VersionRecord, "number", key_id=1, state=(State.CURRENT, State.REVOKED), limit=5, skip=1
        )] == [1]  # fmt: skip
        tx.remove(VersionRecord, version_id="a.k00.production/1")
        assert tx.get(VersionRecord, version_id="a.k00.production/1") is None
        assert tx.new_key_id() == len(keys) + 1


def test_of_one_record_put_twice_the_last_one_counts(catalog: Catalog) -> None:
    (key,) = catalog.keep(KeyAddress("a", "production"))
    with catalog.transaction() as tx:
        tx.put_all([replace(key, owner="x"), replace(key, owner="y")])
        assert tx.find(KeyRecord) == [replace(key, owner="y")]


def test_names_are_spelled_in_one_way(catalog: Catalog) -> None:
    catalog.keep(KeyAddress("api.eu", "production"))
    with catalog.transaction() as tx:
        tx.spell([f"api.n{number}" for number in range(60)] + ["api"])
        with pytest.raises(ConflictError):
            tx.spell(["API"])
    with catalog.transaction() as tx:
        with pytest.raises(ConflictError):
            tx.spell(["Api"])
        tx.unspell("api.n1")
        tx.spell(["API.N1"])
        with pytest.raises(ConflictError):
            tx.add_environment("eu")
        tx.add_environment("e_")
        assert tx.environments() == {"e_"}


def test_the_end_of_a_transaction_says_where_the_feed_is(catalog: Catalog) -> None:
    listener: Any = None
    if catalog.connection.dialect.name == "postgresql":
        listener = catalog.engine.connect().connection.driver_connection
        listener.execute(f"LISTEN {CHANNEL}")
    with catalog.transaction() as tx:
        assert tx.finish() is None
        for path in ("a.b", "a.c"):
            tx.record(CALLER, {"action": Action.PUT, "key_path": path})
        block_id, entries = tx.finish() or (0, [])
    with catalog.transaction() as tx:
        tx.record(CALLER, {"action": Action.REVOKE, "key_path": "a.b"})
        later, _ = tx.finish() or (0, [])
    assert 0 < block_id < later
    assert len(entries) == 2
    assert catalog.reader.feed_head() == 3
    assert [(each.seq, each.action) for each in catalog.reader.changes(1, 10)] == [
        (2, "PUT"), (3, "REVOKE"),
    ]  # fmt: skip
    blocks = list(LedgerInspection(catalog.engine).blocks())
    assert [(each.first_seq, each.last_seq) for each in blocks] == [(1, 2), (3, 3)]
    assert blocks[0].block.head == blocks[1].block.prev
    if listener is not None:
        told = [each.payload for each in listener.notifies(timeout=10, stop_after=2)]
        assert told == ["2", "3"]


def test_what_is_rolled_back_leaves_a_gap_and_nothing_else(catalog: Catalog) -> None:
    with contextlib.suppress(ZeroDivisionError), catalog.transaction() as tx:
        tx.record(CALLER, {"action": Action.PUT, "key_path": "a.b"})
        tx.finish()
        raise ZeroDivisionError
    with catalog.transaction() as tx:
        tx.record(CALLER, {"action": Action.PUT, "key_path": "a.c"})
        tx.follow("sink:x", 7, "head")
        tx.follow("sink:x", 8, "head")
        tx.finish()
    assert [each.block.stream for each in LedgerInspection(catalog.engine).blocks()] == ["changes"]
    assert [(each.name, each.block_id) for each in shipped_up_to(catalog.connection)] == [("x", 8)]


def test_a_new_epoch_goes_on_in_a_new_stream(catalog: Catalog) -> None:
    catalog.connection.execute(
        sa.insert(tables.store).values(
            store_id=STORE, created_at=NOW, epoch=1, root_check=b"", default_environment="x"
        )
    )
    with writing(catalog.connection):
        epoch = begin_epoch(
            catalog.connection, ring=catalog.ring, cause=Cause.RESTORE, caller=CALLER, now=NOW,
            reason="restored",
        )  # fmt: skip
    assert epoch == 2
    assert check_epoch(catalog.connection) == 2
    heads = LedgerInspection(catalog.engine).heads()
    assert heads["changes-2"][0] == 1
    late = LedgerStream(
        store_id=STORE,
        changes="changes",
        actor="ada",
        checkpoint_key=Ed25519PrivateKey.generate(),
        clock=SystemClock(),
    )
    with pytest.raises(StreamLostError):  # its process had read the epoch before that
        late.open(catalog.connection)
    assert late.name not in LedgerInspection(catalog.engine).heads()


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize("prefix", [None, "a", "a.k01"])
@pytest.mark.parametrize("environment", [None, "staging"])
def test_pages_of_keys_are_all_keys(
    catalog: Catalog, limit: int, prefix: str | None, environment: str | None
) -> None:
    more = [KeyAddress(name, "production") for name in ("a", "a-b", "a.k01.x", "a.k010", "ab", "Z")]
    catalog.keep(*addresses(12), *more, KeyAddress("_store.x", "production"))
    expected = [
        each
        for each in sorted([*addresses(12), *more])
        if environment in (None, each.environment)
        and (prefix is None or f"{each.path}.".startswith(f"{prefix}."))
    ]
    found: list[KeyAddress] = []
    while page := catalog.reader.keys(prefix, environment, found[-1] if found else None, limit):
        found += [KeyAddress(row.key.path, row.key.environment) for row in page]
        assert all(row.head is not None and row.head.number == 2 for row in page)
    assert found == expected


def test_a_version_is_found_by_its_number(catalog: Catalog) -> None:
    address = KeyAddress("a.b", "production")
    catalog.keep(address)
    found = [catalog.reader.version(address, number) for number in (None, 1, 2, 3)]
    assert [each and each.version.number for each in found] == [2, 1, 2, None]
    assert catalog.reader.version(KeyAddress("a.b", "staging"), None) is None


def test_tokens_are_listed_by_their_filters(catalog: Catalog) -> None:
    tokens = [token(number) for number in range(40)]
    tokens[8] = replace(tokens[8], revoked_at=NOW)
    with catalog.transaction() as tx:
        tx.put_all(tokens)
    reader = catalog.reader
    assert reader.live_tokens(NOW) == {f"tok_{n:02}" for n in range(6, 40) if n != 8}
    span = reader.token_span(NOW - 10 * DAY, NOW, NOW)
    assert tuple(span) == (4, NOW + 5 * DAY)
    catalog.connection.execute(
        sa.insert(tables.token_use), [{"token_id": "tok_20", "last_used_at": NOW}]
    )
    for wanted, expected in (
        (TokenFilter(), range(40)),
        (TokenFilter(name="s1", kind="service"), range(1, 40, 3)),
        (TokenFilter(token_id="tok_07"), [7]),
        (TokenFilter(expires_after=NOW + 30 * DAY), range(36, 40)),
        (TokenFilter(expires_before=NOW + 4 * DAY), [*range(8), 9]),
        (TokenFilter(unused_since=NOW - 19 * DAY), [19, *range(21, 40)]),
    ):
        page = reader.tokens(wanted, None, 100)
        assert [row.token.token_id for row in page] == [f"tok_{n:02}" for n in expected]
        assert [row.last_used_at for row in page if row.token.token_id == "tok_20"] in ([NOW], [])
    assert [row.token.token_id for row in reader.tokens(TokenFilter(), "tok_37", 5)] == [
        "tok_38", "tok_39",
    ]  # fmt: skip
