"""`doctor` names an issuer or a trust whose row came back after the ledger says that it ended."""

from __future__ import annotations

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.account import Account
from dox_core_store.server.domain.ledger import Action, Entry

AT = "2026-11-25T04:00:00.000000Z"


def entry(action: Action, reason: str) -> Entry:
    path = "_store.issuers.forge"
    return Entry(AT, "operator:lena", path, action, "GRANTED", "req_1", "", "", reason=reason)


def test_what_ended_and_is_there_is_named() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        for table in (tables.issuer, tables.issuer_trust):
            table.create(connection)
        connection.execute(sa.text(
            "INSERT INTO issuer VALUES ('forge', 'u', 'a', 0, 'x', NULL, x'')"))  # fmt: skip
        connection.execute(sa.text(
            "INSERT INTO issuer_trust VALUES"
            " ('tru_1', 'forge', 'service', 's', NULL, '[]', '{}', 60, 0, 'x', x'')"))  # fmt: skip
        account = Account()
        assert list(account._others(connection)) == []
        account.take(entry(Action.ADD_ISSUER, "u for a"))
        account.take(entry(Action.TRUST, "tru_1: service s by sub=x"))
        assert list(account._others(connection)) == []
        account.take(entry(Action.UNTRUST, "tru_1: service s by sub=x"))
        account.take(entry(Action.DISABLE_ISSUER, "compromised"))
        assert list(account._others(connection)) == [
            "issuer forge was disabled, and its row says nothing of it",
            "trust tru_1 was taken back, and is there",
        ]
        account.take(entry(Action.ADD_ISSUER, "u for a"))
        assert len(list(account._others(connection))) == 1
