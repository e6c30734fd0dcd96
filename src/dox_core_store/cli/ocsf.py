"""Ledger entries as events of the Open Cybersecurity Schema Framework, by tables.

An entry is an API Activity (class 6003); where it tells of a token that was not accepted, or of a
person who signed in, an Authentication (3002). What has no place in the class stands under
``unmapped``, hashes included, so an event leads back to its entry. An action that is not in the
table, of a newer store, becomes activity 99: an export never fails by it. The tables are
``docs/spec/ocsf.md``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from dox_core_store import wire
from dox_core_store.errors import CODES, AuthenticationError

__all__ = ["ACTIVITIES", "OCSF_VERSION", "OUTCOMES", "Outcome", "as_ocsf"]

OCSF_VERSION = "1.3.0"

_API, _AUTHENTICATION = 6003, 3002
_CLASSES = {_API: "API Activity", _AUTHENTICATION: "Authentication"}
_CATEGORIES = {6: "Application Activity", 3: "Identity & Access Management"}

_CREATE, _READ, _UPDATE, _DELETE, _OTHER = (
    (1, "Create"), (2, "Read"), (3, "Update"), (4, "Delete"), (99, "Other"),
)  # fmt: skip
_LOGON = (1, "Logon")

ACTIVITIES: dict[str, tuple[int, str]] = {
    "GET": _READ,
    "PUT": _CREATE,
    "PROPOSE": _CREATE,
    "PROMOTE": _UPDATE,
    "ROLLBACK": _UPDATE,
    "RETIRE": _UPDATE,
    "REVOKE": _UPDATE,
    "DESTROY": _DELETE,
    "EXPIRE": _UPDATE,
    "EXTEND": _UPDATE,
    "DESCRIBE": _UPDATE,
    "REJECT": _OTHER,
    "LIST": _READ,
    "IMPORT": _CREATE,
    "ADOPT": _CREATE,
    "MOVE": _UPDATE,
    "REGISTER": _CREATE,
    "LIMIT": _UPDATE,
    "DECOMMISSION": _UPDATE,
    "GRANT": _CREATE,
    "UNGRANT": _DELETE,
    "ISSUE_TOKEN": _CREATE,
    "REVOKE_TOKEN": _UPDATE,
    "REVOKE_SERVICE_TOKENS": _UPDATE,
    "ROTATE_SIGNING_KEY": _CREATE,
    "ADD_OPERATOR": _CREATE,
    "DISABLE_OPERATOR": _UPDATE,
    "ADD_ISSUER": _CREATE,
    "DISABLE_ISSUER": _UPDATE,
    "TRUST": _CREATE,
    "UNTRUST": _DELETE,
    "ADD_ENVIRONMENT": _CREATE,
    "FOLLOW": _READ,
    "READ_LEDGER": _READ,
    "AUTHENTICATE": _LOGON,
    "ADD_SLOT": _CREATE,
    "REMOVE_SLOT": _DELETE,
    "REKEY": _UPDATE,
    "ROTATE_ROOT": _UPDATE,
    "UNSEAL": _OTHER,
    "BACKUP": _READ,
    "DRILL": _READ,
    "RESTORE": _OTHER,
    "REVIEW": _OTHER,
    "HISTORY_LOST": _OTHER,
    "INIT": _CREATE,
    "PRUNE": _DELETE,
    "OPEN": _OTHER,
    "CLOSE": _OTHER,
    "CHECKPOINT": _OTHER,
}
"""Activity by action; that of class 3002 for AUTHENTICATE."""


class Outcome(NamedTuple):
    """What a status says in OCSF's words."""

    status_id: int
    status: str
    severity_id: int
    severity: str


_SUCCESS, _FAILURE = (1, "Success"), (2, "Failure")
_INFORMATIONAL, _LOW, _MEDIUM, _CRITICAL = (
    (1, "Informational"), (2, "Low"), (3, "Medium"), (5, "Critical"),
)  # fmt: skip

OUTCOMES: dict[str, Outcome] = {
    "GRANTED": Outcome(*_SUCCESS, *_INFORMATIONAL),
    "DENIED": Outcome(*_FAILURE, *_MEDIUM),
    "LIMITED": Outcome(*_FAILURE, *_LOW),
    "INVALID": Outcome(*_FAILURE, *_LOW),
    "NOT_FOUND": Outcome(*_FAILURE, *_INFORMATIONAL),
    "FAILED": Outcome(*_FAILURE, *_MEDIUM),
    "ABORTED": Outcome(*_FAILURE, *_LOW),
    "REPORTED": Outcome(*_SUCCESS, *_INFORMATIONAL),
}
_UNKNOWN = Outcome(99, "Other", 99, "Other")
_GRAVE = {"HISTORY_LOST"}

_NOT_BELIEVED = frozenset(
    name for name, code in CODES.items() if issubclass(code.error, AuthenticationError)
)
"""Refusals that say who is asking is not proven."""

_USER, _ADMIN, _SYSTEM, _UNTOLD = (1, "User"), (2, "Admin"), (3, "System"), (0, "Unknown")


def as_ocsf(record: wire.LedgerRecord) -> dict[str, Any]:
    """``record`` as an event."""
    refused = record.status not in ("GRANTED", "REPORTED")
    is_logon = record.action == "AUTHENTICATE" or (refused and record.reason in _NOT_BELIEVED)
    kind = _AUTHENTICATION if is_logon else _API
    activity_id, activity = _LOGON if is_logon else ACTIVITIES.get(record.action, _OTHER)
    outcome = OUTCOMES.get(record.status, _UNKNOWN)
    severity = _CRITICAL if record.action in _GRAVE else outcome[2:]
    user = _user(record.service_name)
    event: dict[str, Any] = {
        "category_uid": kind // 1000,
        "category_name": _CATEGORIES[kind // 1000],
        "class_uid": kind,
        "class_name": _CLASSES[kind],
        "activity_id": activity_id,
        "activity_name": activity,
        "type_uid": kind * 100 + activity_id,
        "type_name": f"{_CLASSES[kind]}: {activity}",
        "time": _milliseconds(record.timestamp),
        "severity_id": severity[0],
        "severity": severity[1],
        "status_id": outcome.status_id,
        "status": outcome.status,
        "status_detail": record.status,
        "count": record.count,
        "metadata": _metadata(record),
        "src_endpoint": _endpoint(record),
        "http_request": {"user_agent": record.user_agent},
        "unmapped": _unmapped(record),
    }
    if refused and record.reason:
        event["status_code"] = record.reason
    session = {"session": {"uid": record.token_id}} if record.token_id else {}
    if is_logon:
        event |= {"user": user, "service": {"name": "dox-core-store"}, **session}
    event |= {"actor": {"user": user, **session}}
    api = {"operation": record.action, "request": {"uid": record.request_id}}
    if is_logon:
        event["unmapped"]["api"] = api
    else:
        event |= {"api": api, "resources": [_resource(record)]}
    return event


def _metadata(record: wire.LedgerRecord) -> dict[str, Any]:
    correlated = {"correlation_uid": record.correlation_id} if record.correlation_id else {}
    return {
        "version": OCSF_VERSION,
        "product": {"name": "dox-core-store", "vendor_name": "dox-core-store"},
        "uid": f"{record.stream}/{record.seq}",
        "sequence": record.seq,
        "log_name": record.stream,
        "original_time": record.timestamp,
        **correlated,
    }


def _endpoint(record: wire.LedgerRecord) -> dict[str, str]:
    """An entry that did not come over the network was made on the store's own machine."""
    return {"ip": record.ip_address} if record.ip_address else {"name": "localhost"}


def _resource(record: wire.LedgerRecord) -> dict[str, str]:
    resource = {"name": record.key_path, "type": "key"}
    if record.key_path.startswith("_store"):
        resource["type"] = "store"
    if record.environment is not None:
        resource["namespace"] = record.environment
    if record.version is not None:
        resource["version"] = str(record.version)
    return resource


def _user(name: str) -> dict[str, Any]:
    kind, _, _rest = name.rpartition(":")
    type_id, type_ = {"operator": _ADMIN, "local": _SYSTEM, "": _USER}.get(kind, _UNTOLD)
    if name == "anonymous":
        type_id, type_ = _UNTOLD
    return {"name": name, "type_id": type_id, "type": type_}


def _unmapped(record: wire.LedgerRecord) -> dict[str, Any]:
    """What is needed to find the entry and to check it, and what no attribute takes."""
    return {
        "key_path": record.key_path,
        "environment": record.environment,
        "version": record.version,
        "reason": record.reason,
        "stream": record.stream,
        "seq": record.seq,
        "prev": record.prev,
        "hash": record.hash,
        "format": record.format,
    }


def _milliseconds(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)
