"""What a restored store takes away again, entry by entry, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dox_core_store.errors import ConfigurationError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.store import OpenedStore, open_store
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.local import init_store
from dox_core_store.server.bootstrap.unlock import unlock_of
from dox_core_store.server.domain.access import (
    EMPTY_GRANTS,
    Effect,
    GrantRecord,
    OperatorRecord,
    Role,
    ServiceRecord,
    TokenRecord,
    grants_digest,
)
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.epoch import EpochRecord
from dox_core_store.server.domain.issuer import IssuerRecord, TrustKind, TrustRecord
from dox_core_store.server.domain.key import (
    ImportRecord,
    State,
    TombstoneRecord,
    UpkeepRecord,
    VersionRecord,
    fresh_key,
)
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.domain.restore import SinceBackup
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.grant import enter_grant
from dox_core_store.server.usecases.key_import import ABORTED, OPEN
from dox_core_store.server.usecases.restore import (
    abort_imports,
    mark_unverified,
    sign_off,
)
from dox_core_store.server.usecases.restore_since import take_away
from dox_core_store.wire import LedgerRecord

AT = "2026-11-25T04:00:00.000Z"
CALLER = local_caller()
ADDRESS = KeyAddress("service_keys.one", "production")
Work = Callable[[Any], Any]


def entry(action: str, key_path: str, **fields: Any) -> Entry:
    return Entry(
        timestamp=AT,
        service_name="operator:lena",
        key_path=key_path,
        action=action,
        status=Status.GRANTED,
        request_id="req_1",
        ip_address="",
        user_agent="",
        **fields,
    )


def on_key(action: str, version: int | None, path: str = str(ADDRESS)) -> Entry:
    return entry(action, path, environment="production", version=version, reason="leaked")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    settings = Settings(data=str(folder / "data"), key_file=str(folder / "root.key"))
    init_store(settings, operator="admin", roles=list(Role))
    return folder


@pytest.fixture
def run(made: Path) -> Any:
    """Runs work in a transaction of its own on a filled store, and takes all of it back."""
    settings = Settings(data=str(made / "data"), key_file=str(made / "root.key"))
    store = open_store(
        SqlitePlace(Path(settings.data)),
        unlock=unlock_of(settings, None),
        alarm=lambda _table, _row: None,
    )

    class TakenBackError(Exception):
        pass

    def run(work: Work) -> Any:
        result: list[Any] = []

        def inside(tx: Any) -> None:
            fill(tx, store)
            result.append(work(tx))
            raise TakenBackError

        with pytest.raises(TakenBackError):
            store.write(inside, SystemClock())
        return result[0]

    return run


def fill(tx: Any, store: OpenedStore) -> None:
    """A key with a previous and a current version; a service with a grant and a token."""
    key = replace(fresh_key(tx.new_key_id(), ADDRESS, tx.now), head="v2", last_number=2)
    tx.put(key)
    for number, state in ((1, State.PREVIOUS), (2, State.CURRENT)):
        version_id = f"v{number}"
        tx.put(
            VersionRecord(
                version_id=version_id,
                key_id=key.key_id,
                number=number,
                state=state,
                created_at=tx.now,
                created_by="operator:lena",
                expires_at=None,
                rolled_back_from=None,
                sealed=store.sealer.store(Binding(store.store_id, *ADDRESS, version_id), b"x"),
            )
        )
    tx.put(
        ServiceRecord(
            name="reader",
            description="",
            environment=None,
            generation=1,
            limit_count=1,
            limit_period_seconds=1,
            limit_burst=1,
            decommissioned_at=None,
            created_at=tx.now,
        )
    )
    enter_grant(tx, CALLER, "reader", "service_keys.*", "production")
    tx.put(
        TokenRecord(
            token_id="tok_1",
            kind="service",
            name="reader",
            environment="production",
            issued_at=tx.now,
            expires_at=tx.now + timedelta(days=1),
            issued_by="operator:lena",
            revoked_at=None,
        )
    )
    tx.put(
        OperatorRecord(
            name="lena",
            roles=[Role.MAINTAINER, Role.AUDITOR],
            generation=1,
            disabled_at=None,
            created_at=tx.now,
        )
    )


def applied(tx: Any, *entries: Entry) -> tuple[int, list[str]]:
    return take_away(tx, CALLER, entries)


def version(tx: Any, number: int) -> VersionRecord:
    return tx.get(VersionRecord, version_id=f"v{number}")


def test_a_revoked_version_is_revoked_with_its_tombstone(run: Any) -> None:
    def work(tx: Any) -> Any:
        assert applied(tx, on_key(Action.REVOKE, 2)) == (1, [])
        return version(tx, 2).state, tx.get(TombstoneRecord, version_id="v2").state

    assert run(work) == (State.REVOKED, State.REVOKED)


def test_a_destroyed_version_is_destroyed_even_where_it_is_still_current(run: Any) -> None:
    def work(tx: Any) -> Any:
        entries = [on_key(Action.DESTROY, number) for number in (1, 2)]
        assert applied(tx, *entries) == (2, [])
        return [(version(tx, n).state, version(tx, n).sealed) for n in (1, 2)]

    assert run(work) == [(State.DESTROYED, None)] * 2


def test_an_expired_version_ends_when_it_did(run: Any) -> None:
    def work(tx: Any) -> Any:
        assert applied(tx, on_key(Action.EXPIRE, 2)) == (1, [])
        return version(tx, 2).expires_at

    assert run(work) == datetime(2026, 11, 25, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "since",
    [
        on_key(Action.REVOKE, 3),
        on_key(Action.DESTROY, 1, "service_keys.later.production"),
        entry(Action.REVOKE_TOKEN, "_store.tokens.tok_later"),
        entry(Action.REVOKE_SERVICE_TOKENS, "_store.services.later"),
        entry(Action.DECOMMISSION, "_store.services.later"),
        entry(Action.DISABLE_OPERATOR, "_store.operators.later"),
        entry(Action.ADD_OPERATOR, "_store.operators.later", reason="admin"),
        entry(Action.DISABLE_ISSUER, "_store.issuers.later"),
        entry(Action.UNTRUST, "_store.issuers.forge", reason="tru_later: service x by sub=y"),
        entry(Action.GRANT, "_store.services.reader", reason="allow a.b in production"),
        entry(Action.UNGRANT, "_store.services.reader", reason="deny service_keys.* in production"),
    ],
    ids=lambda since: since.action,
)
def test_what_the_backup_does_not_hold_needs_nothing(run: Any, since: Entry) -> None:
    assert run(lambda tx: applied(tx, since)) == (0, [])


@pytest.mark.parametrize(
    "since",
    [
        on_key(Action.REVOKE, None),
        entry(Action.UNGRANT, "_store.services.reader", reason="something else"),
        entry(Action.GRANT, "_store.services.reader"),
        entry(Action.ADD_OPERATOR, "_store.operators.lena", reason="sorcerer"),
        entry("BEWITCH", "_store.services.reader"),
    ],
    ids=lambda since: since.action,
)
def test_what_cannot_be_applied_exactly_is_named(run: Any, since: Entry) -> None:
    done, left = run(lambda tx: applied(tx, since))
    assert done == 0
    assert left == [f"{since.action} {since.key_path} at {AT}"]


def test_a_grant_that_was_taken_back_goes_and_its_service_is_bound_anew(run: Any) -> None:
    def work(tx: Any) -> Any:
        since = entry(
            Action.UNGRANT,
            "_store.services.reader",
            reason="allow service_keys.* in production: no longer needed",
        )
        assert applied(tx, since) == (1, [])
        return tx.find(GrantRecord, service="reader"), tx.get(ServiceRecord, name="reader")

    grants, service = run(work)
    assert (grants, service.grants_digest) == ([], EMPTY_GRANTS)


def test_a_deny_that_was_added_is_added(run: Any) -> None:
    def work(tx: Any) -> Any:
        why = "deny service_keys.one in production"
        assert applied(tx, entry(Action.GRANT, "_store.services.reader", reason=why)) == (1, [])
        return tx.find(GrantRecord, service="reader"), tx.get(ServiceRecord, name="reader")

    grants, service = run(work)
    assert {each.effect for each in grants} == {Effect.ALLOW, Effect.DENY}
    assert service.grants_digest == grants_digest(grants)


def test_tokens_services_and_operators_that_ended_stay_ended(run: Any) -> None:
    def work(tx: Any) -> Any:
        entries = [
            entry(Action.REVOKE_TOKEN, "_store.tokens.tok_1"),
            entry(Action.REVOKE_SERVICE_TOKENS, "_store.services.reader"),
            entry(Action.DECOMMISSION, "_store.services.reader"),
            entry(Action.ADD_OPERATOR, "_store.operators.lena", reason="admin, auditor"),
            entry(Action.DISABLE_OPERATOR, "_store.operators.lena"),
        ]
        assert applied(tx, *entries) == (5, [])
        return (
            tx.get(TokenRecord, token_id="tok_1"),
            tx.get(ServiceRecord, name="reader"),
            tx.get(OperatorRecord, name="lena"),
            tx.find(GrantRecord, service="reader"),
        )

    token, service, operator, grants = run(work)
    assert token.revoked_at is not None
    assert (service.generation, service.decommissioned_at is not None) == (3, True)
    assert (operator.roles, operator.disabled_at is not None) == ([Role.AUDITOR], True)
    assert grants == []


def test_issuers_and_trusts_that_ended_stay_ended(run: Any) -> None:
    def work(tx: Any) -> Any:
        made = {"created_at": tx.now, "created_by": "operator:lena"}
        tx.put(IssuerRecord(name="forge", url="https://forge", audience="keys",
                            disabled_at=None, **made))  # fmt: skip
        tx.put(TrustRecord(trust_id="tru_1", issuer="forge", kind=TrustKind.SERVICE, name="reader",
                           environment=None, roles=[], claims={"sub": "a", "ref": "main"},
                           max_seconds=600, **made))  # fmt: skip
        trust = tx.get(TrustRecord, trust_id="tru_1")
        assert trust.claims == {"sub": "a", "ref": "main"}  # its MAC holds
        entries = [
            entry(Action.UNTRUST, "_store.issuers.forge", reason="tru_1: service reader by sub=a"),
            entry(Action.DISABLE_ISSUER, "_store.issuers.forge"),
        ]
        assert applied(tx, *entries) == (2, [])
        return tx.find(TrustRecord), tx.get(IssuerRecord, name="forge")

    trusts, issuer = run(work)
    assert (trusts, issuer.disabled_at is not None) == ([], True)


def test_open_imports_are_given_up_and_doubts_keep_what_else_is_said(run: Any) -> None:
    def work(tx: Any) -> Any:
        for import_id, status in (("imp_1", OPEN), ("imp_2", "settled")):
            tx.put(
                ImportRecord(
                    import_id=import_id,
                    status=status,
                    created_by="operator:lena",
                    created_at=tx.now,
                    touched_at=tx.now,
                    next_sequence=0,
                    created=0,
                    replaced=0,
                    unchanged=0,
                    conflict=None,
                )
            )
        tx.put(UpkeepRecord(key_id=7, keep_versions=3))
        assert abort_imports(tx) == 1
        mark_unverified(tx, [7])
        upkeep = tx.get(UpkeepRecord, key_id=7)
        return tx.get(ImportRecord, import_id="imp_1").status, upkeep, tx.now

    status, upkeep, now = run(work)
    assert (status, upkeep.keep_versions, upkeep.unverified_since) == (ABORTED, 3, now)


def test_signing_off_twice_keeps_who_was_first(run: Any) -> None:
    def work(tx: Any) -> Any:
        sign_off(tx, CALLER, 2, by="local:first", reason="known")
        sign_off(tx, CALLER, 2, by="local:second", reason="known")
        return tx.get(EpochRecord, epoch=2)

    assert run(work).reviewed_by == "local:first"


def test_nothing_unsigned_counts_as_known() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    since = SinceBackup(
        store_id="store_1",
        epoch=1,
        seq=4,
        head=bytes(32),
        checkpoint_keys=[Ed25519PrivateKey.generate().public_key()],
    )
    with pytest.raises(ConfigurationError, match="no checkpoint"):
        since.finish()


def test_an_entry_that_was_changed_is_refused() -> None:
    since = SinceBackup(store_id="store_1", epoch=1, seq=0, head=bytes(32), checkpoint_keys=[])
    record = LedgerRecord(
        **on_key(Action.REVOKE, 1)._asdict(),
        seq=1,
        stream="changes",
        prev="00" * 32,
        hash="11" * 32,
        format=1,
    )
    with pytest.raises(ConfigurationError, match="was changed"):
        since.take(record)
