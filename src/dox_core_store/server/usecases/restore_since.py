"""What the ledger after a backup took away, taken away again in the store restored from it.

One step for each action that may have taken something away, always in the direction of handing out
less. What the backup does not hold needs nothing: it is not there. What was given since is not
given again. What cannot be applied exactly is named, for the epoch then stays unreviewed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec.structs import replace

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import RESERVED_PREFIX
from dox_core_store.server.domain.access import (
    EMPTY_GRANTS,
    Caller,
    Effect,
    GrantRecord,
    OperatorRecord,
    Role,
    ServiceRecord,
    TokenRecord,
)
from dox_core_store.server.domain.issuer import IssuerRecord, TrustRecord
from dox_core_store.server.domain.key import Act, KeyRecord, State, VersionRecord
from dox_core_store.server.domain.ledger import Action, Entry
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.grant import bind_grants, enter_grant
from dox_core_store.server.usecases.key_import import settle
from dox_core_store.server.usecases.key_retention import bury

__all__ = ["take_away"]

Step = Callable[[Transaction, Caller, Entry], bool | None]
"""Applies one entry: None if it cannot be applied exactly, else whether it changed anything."""

_GRANT = re.compile(r"(allow|deny) (\S+) in (\S+?)(?:: .*)?", re.DOTALL)


def take_away(tx: Transaction, caller: Caller, entries: Sequence[Entry]) -> tuple[int, list[str]]:
    """Apply what ``entries`` took away, in their order; how much there was to do, and what could
    not be applied exactly. What the backup does not hold needs nothing: it is not there."""
    done, left = 0, []
    for entry in entries:
        step = _STEPS.get(entry.action)
        try:
            outcome = None if step is None else step(tx, caller, entry)
        except DoxStoreError as error:
            outcome = None
            left.append(f"{_told(entry)}: {error.detail}")
        else:
            if outcome is None:
                left.append(_told(entry))
        done += bool(outcome)
    return done, left


# --- one step for each action that may take something away ----------------------------------------


def _end_version(act: Act) -> Step:
    def step(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
        key = _key(tx, entry)
        if key is None or entry.version is None:
            return None if entry.version is None else False
        version = tx.get(VersionRecord, key_id=key.key_id, number=entry.version)
        if version is None or version.state is State.DESTROYED:
            return False
        if act is Act.REVOKE and version.state is State.REVOKED:
            return False
        if act is Act.DESTROY and version.state is State.CURRENT:
            version = bury(tx, version, Act.REVOKE)  # it was no longer current when it went
        bury(tx, version, act)
        _again(tx, caller, entry)
        return True

    return step


def _expire(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    key = _key(tx, entry)
    if key is None or entry.version is None:
        return None if entry.version is None else False
    version = tx.get(VersionRecord, key_id=key.key_id, number=entry.version)
    if version is None:
        return False
    end = datetime.fromisoformat(entry.timestamp)
    if version.expires_at is None or version.expires_at > end:
        tx.put(replace(version, expires_at=end))
        _again(tx, caller, entry)
        return True
    return False


def _deny(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    grant = _grant(entry)
    if grant is None:
        return None
    effect, pattern, environment = grant
    service = _name(entry)
    if effect is not Effect.DENY or tx.get(ServiceRecord, name=service) is None:
        return False
    enter_grant(tx, caller, service, pattern, environment, effect=effect, reason=_since(entry))
    return True


def _ungrant(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    grant = _grant(entry)
    if grant is None:
        return None
    effect, pattern, environment = grant
    where = {"service": _name(entry), "pattern": pattern, "environment": environment}
    if effect is Effect.DENY or tx.get(GrantRecord, effect=effect, **where) is None:
        return False  # whoever took a deny back gave something, which is not repeated
    tx.remove(GrantRecord, effect=effect, **where)
    bind_grants(tx, _name(entry))
    _again(tx, caller, entry)
    return True


def _revoke_token(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    token = tx.get(TokenRecord, token_id=_name(entry))
    if token is None or token.revoked_at is not None:
        return False  # one that was issued later is not known here, and so not believed
    tx.put(replace(token, revoked_at=tx.now))
    _again(tx, caller, entry)
    return True


def _revoke_service_tokens(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    service = tx.get(ServiceRecord, name=_name(entry))
    if service is None:
        return False
    tx.put(replace(service, generation=service.generation + 1))
    _again(tx, caller, entry)
    return True


def _decommission(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    service = tx.get(ServiceRecord, name=_name(entry))
    if service is None or service.decommissioned_at is not None:
        return False
    tx.remove(GrantRecord, service=service.name)
    tx.put(
        replace(
            service,
            generation=service.generation + 1,
            decommissioned_at=tx.now,
            grants_digest=EMPTY_GRANTS,
        )
    )
    _again(tx, caller, entry)
    return True


def _narrow_operator(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    named = (entry.reason or "").partition(": ")[0].split(", ")
    if not set(named) <= set(Role):
        return None
    operator = tx.get(OperatorRecord, name=_name(entry))
    if operator is None:
        return False
    roles = [role for role in operator.roles if role in named]
    if roles == operator.roles:
        return False
    tx.put(replace(operator, roles=roles))
    _again(tx, caller, entry._replace(reason=", ".join(roles)))
    return True


def _disable_operator(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    operator = tx.get(OperatorRecord, name=_name(entry))
    if operator is None or operator.disabled_at is not None:
        return False
    tx.put(replace(operator, disabled_at=tx.now, generation=operator.generation + 1))
    _again(tx, caller, entry)
    return True


def _disable_issuer(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    issuer = tx.get(IssuerRecord, name=_name(entry))
    if issuer is None or issuer.disabled_at is not None:
        return False
    tx.put(replace(issuer, disabled_at=tx.now))
    _again(tx, caller, entry)
    return True


def _untrust(tx: Transaction, caller: Caller, entry: Entry) -> bool | None:
    trust_id = (entry.reason or "").partition(":")[0]
    if tx.get(TrustRecord, trust_id=trust_id) is None:
        return False
    tx.remove(TrustRecord, trust_id=trust_id)
    _again(tx, caller, entry)
    return True


_STEPS: dict[str, Step] = {
    Action.REVOKE: _end_version(Act.REVOKE),
    Action.DESTROY: _end_version(Act.DESTROY),
    Action.EXPIRE: _expire,
    Action.GRANT: _deny,
    Action.UNGRANT: _ungrant,
    Action.REVOKE_TOKEN: _revoke_token,
    Action.REVOKE_SERVICE_TOKENS: _revoke_service_tokens,
    Action.DECOMMISSION: _decommission,
    Action.ADD_OPERATOR: _narrow_operator,
    Action.DISABLE_OPERATOR: _disable_operator,
    Action.DISABLE_ISSUER: _disable_issuer,
    Action.UNTRUST: _untrust,
}


def _key(tx: Transaction, entry: Entry) -> KeyRecord | None:
    """The key that ``entry`` names, settled."""
    path = entry.key_path.removesuffix(f".{entry.environment}")
    if path.partition(".")[0] == RESERVED_PREFIX:
        return None
    key = tx.get(KeyRecord, path=path, environment=entry.environment)
    return None if key is None else settle(tx, key)


def _name(entry: Entry) -> str:
    """What ``_store.<kind>.<name>`` names."""
    return entry.key_path.split(".", 2)[-1]


def _grant(entry: Entry) -> tuple[Effect, str, str] | None:
    match = _GRANT.fullmatch(entry.reason or "")
    return None if match is None else (Effect(match[1]), match[2], match[3])


def _again(tx: Transaction, caller: Caller, entry: Entry) -> None:
    """The same on this store's ledger."""
    tx.record(
        caller,
        {
            "action": entry.action,
            "key_path": entry.key_path,
            "environment": entry.environment,
            "version": entry.version,
            "correlation_id": entry.request_id,
            # What names roles is read by machines, and nothing else may stand there.
            "reason": entry.reason if entry.action == Action.ADD_OPERATOR else _why(entry),
        },
    )


def _why(entry: Entry) -> str:
    return f"{entry.reason or 'no reason given'}: {_since(entry)}"


def _since(entry: Entry) -> str:
    return f"since the backup, by {entry.service_name}"


def _told(entry: Entry) -> str:
    return f"{entry.action} {entry.key_path} at {entry.timestamp}"
