"""The HTTP API's bodies, shared by client and server.

Requests refuse unknown fields; answers may grow, and clients ignore what they do not know.
Times are RFC 3339 in UTC. A field that holds a value or a token has type `Sensitive`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from dox_core_store.sensitive import Sensitive

__all__ = [
    "Batch",
    "BatchItem",
    "BatchRequest",
    "CheckpointKey",
    "DescribeRequest",
    "Environment",
    "EnvironmentRequest",
    "ExpireRequest",
    "ExtendRequest",
    "Grant",
    "GrantRequest",
    "Health",
    "ImportEntry",
    "ImportRequest",
    "ImportResult",
    "KeyDescription",
    "KeySummary",
    "KeyValue",
    "KeyVersion",
    "KeyWritten",
    "LedgerRecord",
    "LimitRequest",
    "Page",
    "Problem",
    "PromoteRequest",
    "ProposeRequest",
    "PutKeyRequest",
    "ReasonRequest",
    "RollbackRequest",
    "SealSlot",
    "SealStatus",
    "Service",
    "ServiceRequest",
    "TokenIssued",
    "TokenRequest",
    "UnsealRequest",
    "Unsealing",
    "VersionRequest",
    "decode",
    "encode",
]


T = TypeVar("T")
Item = TypeVar("Item")


Reason = Annotated[str, msgspec.Meta(max_length=1_000)]
"""Free text of a person; it stands on the ledger, whole."""

Owner = Annotated[str, msgspec.Meta(max_length=200)]


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body that a caller sends. Unknown fields are refused: a typo must not be ignored."""


class Answer(msgspec.Struct, kw_only=True, omit_defaults=False):
    """A body that the store sends."""


class Problem(Answer, omit_defaults=True):
    """RFC 9457 problem document, with our members ``code``, ``store_id`` and ``request_id``."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    store_id: str
    request_id: str
    actual_version: int | None = None
    retry_after_seconds: int | None = None


# --- tokens ---------------------------------------------------------------------------------


class TokenRequest(Request):
    """``POST /tokens``. ``expires_in`` is a number with ``m``, ``h``, ``d`` or ``y``."""

    service_name: str
    expires_in: str = "90d"
    environment: str | None = None


class TokenIssued(Answer):
    token: Sensitive
    token_type: str
    token_id: str
    service_name: str
    environment: str
    expires_at: datetime


class ReasonRequest(Request):
    """A change that takes nothing but its reason."""

    reason: Reason | None = None


# --- keys -----------------------------------------------------------------------------------


class KeyValue(Answer):
    """``GET /v1/keys/{path}``: the one answer that carries a value."""

    key_path: str
    environment: str
    version: int
    version_id: str
    state: str
    value: Sensitive
    expires_at: datetime | None
    cache_ttl_ceiling_seconds: int
    outage_grace_seconds: int


class BatchRequest(Request):
    """``POST /v1/keys/batch-get``: 1 to 100 spellings."""

    key_paths: list[str]


class BatchItem(Answer, omit_defaults=True):
    """One asked spelling: a key, or the problem that its own GET would have answered."""

    asked: str
    key: KeyValue | None = None
    problem: Problem | None = None


class Batch(Answer):
    keys: list[BatchItem]


class PutKeyRequest(Request):
    value: Sensitive
    environment: str | None = None
    if_version: int | None = None
    owner: Owner | None = None
    usage: Reason | None = None
    expires_at: datetime | None = None
    reason: Reason | None = None


class ProposeRequest(Request):
    """A version that nobody is handed before it is promoted. Without ``expires_at`` its life begins
    when it is."""

    value: Sensitive
    environment: str | None = None
    expires_at: datetime | None = None
    reason: Reason | None = None


class PromoteRequest(Request):
    """Make a pending version current (default: the only one that is pending). ``if_version``: only
    if that is the current one now."""

    version: int | None = None
    environment: str | None = None
    if_version: int | None = None
    reason: Reason | None = None


class VersionRequest(Request):
    """Retire, revoke or destroy one version; without a number, the current one, to be retired the
    previous one."""

    version: int | None = None
    environment: str | None = None
    reason: Reason | None = None


class RollbackRequest(Request):
    """A new version with the value of ``to_version`` (default: the one before the current)."""

    to_version: int | None = None
    environment: str | None = None
    if_version: int | None = None
    reason: Reason | None = None


class ExtendRequest(Request):
    """Move the current version's expiry. The value and the version number stay as they are."""

    expires_at: datetime
    environment: str | None = None
    reason: Reason | None = None


class ExpireRequest(Request):
    """End the current version's life now. It can be extended again."""

    environment: str | None = None
    reason: Reason | None = None


class DescribeRequest(Request):
    """What is said of a key beside its versions. What is left out stays as it is, and empty text is
    taken away. ``keep_versions`` is how many versions that are out of use are kept (0: all), or
    ``default`` for the store's setting; ``verified`` says that a restored key still opens what it
    is for."""

    environment: str | None = None
    owner: Owner | None = None
    usage: Reason | None = None
    keep_versions: int | Literal["default"] | None = None
    verified: bool = False
    reason: Reason | None = None


class KeyWritten(Answer):
    """A version as written, without its value."""

    key_path: str
    environment: str
    version: int
    version_id: str
    state: str
    expires_at: datetime | None
    rolled_back_from: int | None = None


class KeyVersion(Answer):
    version: int
    version_id: str
    state: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    rolled_back_from: int | None = None


class KeySummary(Answer):
    """A key in one environment, as lists show it. Never the value, nor anything about it.

    ``version`` is None where none was ever current; ``state`` is then ``pending`` if one may become
    so. ``keep_versions`` is None where the store's setting holds. ``unverified_since``: restored
    then, and what it opens may have another password since.
    """

    key_path: str
    environment: str
    version: int | None
    state: str | None
    owner: str | None
    usage: str | None
    created_at: datetime
    rotated_at: datetime | None
    last_read_at: datetime | None
    expires_at: datetime | None
    keep_versions: int | None = None
    unverified_since: datetime | None = None


class KeyDescription(KeySummary):
    """``GET /v1/keys/{path}/description``: one key with all its versions."""

    versions: list[KeyVersion] = []


class ImportEntry(Request):
    key_path: str
    environment: str
    value: Sensitive


class ImportRequest(Request):
    """A slice of an import. ``sequence`` counts from 0, so a repeated slice is recognised."""

    sequence: int
    entries: list[ImportEntry]


class ImportResult(Answer):
    """``status`` is ``open``, ``committed`` or ``aborted``."""

    import_id: str
    status: str
    created: int
    replaced: int
    unchanged: int


# --- services, grants, environments -----------------------------------------------------------


class ServiceRequest(Request):
    service_name: str
    description: str = ""
    required_keys: list[str] = []
    environment: str | None = None


class LimitRequest(Request):
    """``limit`` as ``600/min``; ``burst`` in requests, by default one period's worth."""

    limit: str
    burst: int | None = None
    reason: Reason | None = None


class Service(Answer):
    service_name: str
    description: str
    environment: str | None
    status: str
    limit: str
    burst: int
    generation: int
    created_at: datetime
    granted: list[str] = []
    requested: list[str] = []


class GrantRequest(Request):
    service_name: str
    pattern: str
    environment: str | None = None
    effect: str = "allow"
    reason: Reason | None = None


class Grant(Answer):
    grant_id: str
    service_name: str
    pattern: str
    environment: str
    effect: str
    created_at: datetime
    created_by: str


class EnvironmentRequest(Request):
    name: str
    reason: Reason | None = None


class Environment(Answer):
    name: str
    is_default: bool


# --- ledger and health --------------------------------------------------------------------------


class LedgerRecord(Answer):
    """One ledger entry: the eight fields of the product page, then ours
    (``docs/spec/ledger.md``)."""

    timestamp: str
    service_name: str
    key_path: str
    action: str
    status: str
    request_id: str
    ip_address: str
    user_agent: str
    seq: int
    stream: str
    environment: str | None
    version: int | None
    token_id: str | None
    correlation_id: str | None
    reason: str | None
    count: int
    prev: str
    hash: str
    format: int


class CheckpointKey(Answer):
    """``GET /.well-known/checkpoint-key.json``: an Ed25519 public key (RFC 8037), of one store.
    ``earlier`` are the ``x`` of keys that signed before it, where a copy went on as a new store."""

    kty: str
    crv: str
    x: str
    kid: str
    store_id: str
    earlier: list[str] = []


class Page(Answer, Generic[Item]):
    """One page of a list. ``next_cursor`` continues it; absent on the last page."""

    items: list[Item]
    next_cursor: str | None = None


class Health(Answer):
    """``GET /v1/health``: the process answers; ``/v1/ready``: it may serve."""

    status: str
    store_id: str
    version: str
    checks: dict[str, str] = {}


class SealSlot(Answer):
    """A slot that could open a sealed store. ``entered`` of ``needed`` shares are there; both are
    None where no shares are entered."""

    slot_id: str
    kind: str
    label: str | None
    entered: int | None = None
    needed: int | None = None


class SealStatus(Answer):
    """``GET /v1/seal``, for anybody. ``awaits`` says what would open it; an open store names no
    slots."""

    store_id: str
    sealed: bool
    awaits: str | None = None
    wrong_entries: int = 0
    slots: list[SealSlot] = []


class UnsealRequest(Request):
    """``POST /v1/seal/unseal``: a share or a passphrase, never both. Without ``slot_id`` it is for
    whichever slot it fits."""

    ceremony: Annotated[str, msgspec.Meta(max_length=100)]
    share: Sensitive | None = None
    passphrase: Sensitive | None = None
    slot_id: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class Unsealing(Answer):
    """How far the store's opening is after an entry. No longer ``sealed``: it serves."""

    store_id: str
    sealed: bool
    slot_id: str
    entered: int
    needed: int
    detail: str


def _encode_hook(value: Any) -> Any:
    if isinstance(value, Sensitive):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} has no form on the wire")


def _decode_hook(kind: type, value: Any) -> Any:
    if kind is Sensitive and isinstance(value, str):
        return Sensitive(value)
    raise TypeError(f"{kind.__name__} has no form on the wire")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)


def encode(body: Any) -> bytes:
    """``body`` as JSON for the wire. The only place where a `Sensitive` becomes bytes."""
    return _encoder.encode(body)


def decode(kind: type[T], body: bytes) -> T:
    """``body`` as ``kind``. Raises ``msgspec.DecodeError``, or ``ValidationError`` under it."""
    return msgspec.json.decode(body, type=kind, dec_hook=_decode_hook)
