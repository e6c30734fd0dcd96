"""Operators: named people and pipelines, their roles, their tokens.

Run by ``doxstore operator`` on the store itself, beside a running server, which follows by the
change feed. The caller is then ``local:<user>``: whoever holds the store's files and its key file.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.server.domain.access import Caller, OperatorRecord, Role
from dox_core_store.server.domain.duration import parse_duration
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.token import (
    Kind,
    bound_to,
    check_operator_name,
)
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.signing_key import Signing
from dox_core_store.server.usecases.token import Issued, end_tokens, enter_token

__all__ = ["add_operator", "disable_operator", "enter_operator_token", "parse_roles"]


def parse_roles(names: Sequence[str]) -> list[Role]:
    """The roles named. Raises ``invalid_field``."""
    unknown = sorted(set(names) - set(Role))
    if unknown or not names:
        what = f"{unknown[0]!a} is not a role" if unknown else "An operator has a role"
        raise InvalidRequestError("invalid_field", f"{what}; there are {', '.join(Role)}.")
    return sorted({Role(name) for name in names})


def add_operator(
    tx: Transaction, caller: Caller, name: str, roles: Sequence[str], reason: str | None = None
) -> OperatorRecord:
    """Enter an operator, or give one other roles. A disabled one comes back with a new generation,
    so its old tokens stay dead."""
    before = tx.get(OperatorRecord, name=name)
    if before is None:
        check_operator_name(name)  # who signs in is called otherwise, and only comes back here
        record = OperatorRecord(
            name=name,
            roles=parse_roles(roles),
            generation=1,
            disabled_at=None,
            created_at=tx.now,
        )
    else:
        record = replace(before, roles=parse_roles(roles), disabled_at=None)
        if before.disabled_at is not None:
            record = replace(record, generation=before.generation + 1)
        if Role.ADMIN in before.roles and Role.ADMIN not in record.roles:
            _keep_an_admin(tx, name)
    tx.put(record)
    tx.record(
        caller,
        {
            "action": Action.ADD_OPERATOR,
            "key_path": subject("operators", name),
            # The roles are read by machines: by `doctor`, and by a restore.
            "reason": ", ".join(record.roles) + (f": {reason}" if reason else ""),
        },
    )
    return record


def disable_operator(
    tx: Transaction, caller: Caller, name: str, reason: str | None
) -> OperatorRecord:
    """End an operator: all its tokens die. Raises ``last_admin`` for the last one with that
    role."""
    record = _existing(tx, name)
    if record.disabled_at is None:
        if Role.ADMIN in record.roles:
            _keep_an_admin(tx, name)
        record = replace(record, disabled_at=tx.now, generation=record.generation + 1)
        tx.put(record)
    end_tokens(tx, Kind.OPERATOR, name, tx.now)  # the generation kills them all: this is for lists
    tx.record(
        caller,
        {
            "action": Action.DISABLE_OPERATOR,
            "key_path": subject("operators", name),
            "reason": reason,
        },
    )
    return record


def enter_operator_token(
    tx: Transaction,
    caller: Caller,
    signing: Signing,
    name: str,
    *,
    expires_in: str,
    addresses: Sequence[str] = (),
    reason: str | None = None,
) -> Issued:
    """A new token for an operator, on record and signed."""
    seconds, bound = parse_duration(expires_in), bound_to(addresses)
    record = _existing(tx, name)
    if record.disabled_at is not None:
        raise ConflictError(
            "illegal_transition", f"Operator {name} is disabled. Add it again first."
        )
    return enter_token(
        tx,
        caller,
        signing=signing,
        kind=Kind.OPERATOR,
        name=name,
        environment=None,
        generation=record.generation,
        seconds=seconds,
        addresses=bound,
        reason=reason,
    )


def _existing(tx: Transaction, name: str) -> OperatorRecord:
    record = tx.get(OperatorRecord, name=name)
    if record is None:
        raise NotFoundError("operator_not_found", f"There is no operator {name[:80]!a}.")
    return record


def _keep_an_admin(tx: Transaction, leaving: str) -> None:
    others = (record for record in tx.find(OperatorRecord) if record.name != leaving)
    if not any(Role.ADMIN in record.roles and record.disabled_at is None for record in others):
        raise ConflictError("last_admin", f"{leaving} is the last operator with the role admin.")
