"""The HTTP API's bodies, shared by client and server.

Requests refuse unknown fields; answers may grow, and clients ignore what they do not know.
Times are RFC 3339 in UTC. A field that holds a value or a token has type `Sensitive`.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from dox_core_store.sensitive import Sensitive

__all__ = [
    "AccessExplanation",
    "AccessRemedy",
    "AccessShift",
    "AccessStep",
    "AdoptEntry",
    "AdoptRequest",
    "Adopted",
    "AdoptedEntry",
    "Batch",
    "BatchItem",
    "BatchRequest",
    "ChangeEvent",
    "CheckpointKey",
    "DescribeRequest",
    "DryRun",
    "DryRunRequest",
    "Environment",
    "EnvironmentRequest",
    "ExpireRequest",
    "ExtendRequest",
    "Grant",
    "GrantRequest",
    "Handed",
    "HandedPage",
    "Health",
    "ImportEntry",
    "ImportRequest",
    "ImportResult",
    "Issuer",
    "IssuerDisabled",
    "IssuerRequest",
    "KeyDescription",
    "KeyLimitRequest",
    "KeyReader",
    "KeyReaders",
    "KeySummary",
    "KeyValue",
    "KeyVersion",
    "KeyWritten",
    "LedgerRecord",
    "LimitRequest",
    "MoveFailure",
    "MoveRequest",
    "Moved",
    "NearMiss",
    "Page",
    "Problem",
    "PromoteRequest",
    "ProposeRequest",
    "PutKeyRequest",
    "ReadCount",
    "ReadReport",
    "ReasonRequest",
    "Rejected",
    "RejectedRequest",
    "ReportTaken",
    "RollbackRequest",
    "SealSlot",
    "SealStatus",
    "Service",
    "ServiceRequest",
    "SignIn",
    "SigningKey",
    "SigningKeyRotated",
    "SigningKeyRotation",
    "Split",
    "SplitKey",
    "SplitRequest",
    "Token",
    "TokenExchange",
    "TokenExchanged",
    "TokenIssued",
    "TokenRequest",
    "Trust",
    "TrustRequest",
    "UnsealRequest",
    "Unsealing",
    "UnusedGrant",
    "ValueOperator",
    "VaultEntry",
    "VaultState",
    "VersionRequest",
    "WalkRequest",
    "decode",
    "encode",
    "encode_line",
    "tag_of",
]


T = TypeVar("T")
Item = TypeVar("Item")


Reason = Annotated[str, msgspec.Meta(max_length=1_000)]
"""Free text of a person; it stands on the ledger, whole."""

Owner = Annotated[str, msgspec.Meta(max_length=200)]

VersionId = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]

Place = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
"""A path or a field in a vault."""


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
    error: str | None = None
    """RFC 6749's word for it, where OAuth clients expect one."""


# --- tokens ---------------------------------------------------------------------------------


class TokenRequest(Request):
    """``POST /tokens``. ``expires_in`` is a number with ``m``, ``h``, ``d`` or ``y``. With
    ``addresses`` (networks such as ``10.0.0.0/8``) the token may be used from there alone; with
    ``key_thumbprint`` (RFC 7638, SHA-256) only by who proves to hold that key (RFC 9449)."""

    service_name: str
    expires_in: str = "90d"
    environment: str | None = None
    addresses: list[str] = []
    key_thumbprint: str | None = None
    reason: Reason | None = None


class TokenIssued(Answer):
    token: Sensitive
    token_type: str
    token_id: str
    service_name: str
    environment: str
    expires_at: datetime
    addresses: list[str] = []
    key_thumbprint: str | None = None


class Token(Answer):
    """An issued token, as lists show it; never the token. ``kind`` is ``service`` or ``operator``;
    ``status`` is ``live``, ``revoked``, ``expired`` or, where the key that signed it was,
    ``compromised``. ``last_used_at`` is some seconds behind."""

    token_id: str
    kind: str
    name: str
    environment: str | None
    status: str
    issued_by: str
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None
    addresses: list[str]
    key_thumbprint: str | None
    signing_key: str | None


class SigningKeyRotation(Request):
    """``POST /v1/signing-keys/rotate``. A key that is only replaced verifies until its last token
    has expired; a compromised one (``kid``; by default the current one) verifies nothing at once.
    """

    compromised: bool = False
    kid: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    reason: Reason | None = None


class SigningKeyRotated(Answer):
    """``kid`` signs from here on. ``tokens_ended`` died with the compromised key."""

    kid: str
    retired: str | None
    compromised: str | None
    tokens_ended: int


class SigningKey(Answer):
    """A key that signs or signed tokens. ``status`` is ``signing``, ``retired``, ``spent`` (its
    last token has expired: it verifies nothing any more) or ``compromised``. ``live_tokens`` were
    signed by it and not revoked; those of a compromised one are dead all the same."""

    kid: str
    status: str
    created_at: datetime
    retired_at: datetime | None
    compromised_at: datetime | None
    verifies_until: datetime | None
    live_tokens: int


class TokenExchange(Request):
    """``POST /v1/token/exchange`` (RFC 8693), as a form. ``service_name`` says which service is
    meant where a token may stand for several."""

    grant_type: str
    subject_token: Sensitive
    subject_token_type: str
    requested_token_type: str | None = None
    service_name: str | None = None


class TokenExchanged(Answer):
    """RFC 8693, section 2.2.1, and what else there is to say: ``name`` is the service's or the
    operator's, ``environment`` is None for the latter."""

    access_token: Sensitive
    issued_token_type: str
    token_type: str
    expires_in: int
    token_id: str
    name: str
    environment: str | None
    expires_at: datetime


class SignIn(Answer):
    """An issuer by which people sign in."""

    issuer: str
    url: str
    client_id: str


class IssuerRequest(Request):
    """Whose tokens are looked at: those with ``url`` as ``iss`` and ``audience`` in ``aud``."""

    name: str
    url: str
    audience: str
    reason: Reason | None = None


class TrustRequest(Request):
    """``kind`` is ``service``, and ``name`` the service; or ``operator``, and ``name`` the claim
    that names a person. ``claims`` must all hold. ``max_lifetime`` is written like ``15m``."""

    kind: str
    name: str
    claims: dict[str, str]
    roles: list[str] = []
    environment: str | None = None
    max_lifetime: str | None = None
    reason: Reason | None = None


class Trust(Answer):
    trust_id: str
    issuer: str
    kind: str
    name: str
    environment: str | None
    roles: list[str]
    claims: dict[str, str]
    max_lifetime_seconds: int
    created_at: datetime
    created_by: str


class Issuer(Answer):
    """``status`` is ``active`` or ``disabled``."""

    name: str
    url: str
    audience: str
    status: str
    created_at: datetime
    created_by: str
    trusts: list[Trust] = []


class IssuerDisabled(Answer):
    """``tokens_ended``: tokens made in exchange that were revoked."""

    issuer: str
    tokens_ended: int


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


def tag_of(version_id: str, expires_at: datetime | None) -> str:
    """What a client knows of a version, for ``known`` and ``If-None-Match``: its id, and when it
    expires, which may be changed."""
    return version_id if expires_at is None else f"{version_id}.{int(expires_at.timestamp())}"


class BatchRequest(Request, omit_defaults=True):
    """``POST /v1/keys/batch-get``: 1 to 100 spellings. ``known`` has what is held of some of them,
    by version id or `tag_of`: what is still so is answered without its value."""

    key_paths: list[str]
    known: dict[str, str] = {}


class BatchItem(Answer, omit_defaults=True):
    """One asked spelling: a key, or the problem that its own GET would have answered; or neither,
    where what is known of it is still ``unchanged``."""

    asked: str
    key: KeyValue | None = None
    problem: Problem | None = None
    unchanged: bool = False


class Batch(Answer):
    """Where nothing is to be told because all of it is unchanged, the answer is 304 instead."""

    keys: list[BatchItem]


class ChangeEvent(Answer):
    """The data of an event of ``GET /v1/events``. ``version_id``: of the version that is revoked,
    or current now, where that is known."""

    key_path: str
    environment: str
    version_id: str | None = None


class RejectedRequest(Request):
    """``POST /v1/keys/{path}/rejected``: whoever the key is for refused this version of it."""

    version_id: VersionId
    reason: Reason | None = None


class Rejected(Answer):
    """``other_version``: another version that may be read by number, if there is one; the newest
    that is not the one that was refused."""

    key_path: str
    environment: str
    rejected_version: int
    other_version: int | None


class ReadCount(Request):
    """So many reads of one version that a client served by itself, between two times."""

    key_path: str
    environment: str
    version: Annotated[int, msgspec.Meta(ge=1, le=999_999_999)]
    source: Literal["cache", "outage"]
    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)]
    since: datetime
    until: datetime


class ReadReport(Request):
    """``POST /v1/reports``: what a client served without asking."""

    reads: Annotated[list[ReadCount], msgspec.Meta(min_length=1, max_length=500)]


class ReportTaken(Answer):
    taken: int


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


class KeyLimitRequest(Request):
    """How fast a key may be read, by all services together: ``limit`` as ``60/min``, ``burst`` in
    reads, by default one period's worth."""

    limit: str
    burst: int | None = None
    environment: str | None = None
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
    """``origin`` is ``external`` where somebody stored it in the vault, past the store."""

    version: int
    version_id: str
    state: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    rolled_back_from: int | None = None
    origin: str | None = None


class KeySummary(Answer):
    """A key in one environment, as lists show it. Never the value, nor anything about it.

    ``version`` is None where none was ever current; ``state`` is then ``pending`` if one may become
    so. ``keep_versions`` is None where the store's setting holds. ``unverified_since``: restored
    then, and what it opens may have another password since. ``limit`` and ``burst`` are the key's
    own, None where only the services' limits hold.
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
    limit: str | None = None
    burst: int | None = None


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


# --- vaults -------------------------------------------------------------------------------------


class VaultState(Answer):
    """A place where values lie. ``status`` is ``ok``, or the code of why it cannot be used now;
    ``takes_new``: where new values go; ``tasks`` is what it is still to be told."""

    vault: str
    takes_new: bool
    status: str
    detail: str | None
    versions: int
    copies: int
    tasks: int


class VaultEntry(Answer, omit_defaults=True):
    """What lies in a vault, without values: a line of a list. A list that broke off ends in one
    without a path, which says why."""

    path: str | None = None
    fields: list[str | None] = []
    managed: bool = False
    code: str | None = None
    detail: str | None = None


class AdoptEntry(Request):
    """A field of an entry (none: the entry is the value) and the key that it is to be. ``shared``:
    the entry has other fields, so it is read and not written."""

    path: Place
    key_path: str
    field: Place | None = None
    shared: bool = False
    environment: str | None = None


class AdoptRequest(Request):
    """``dry_run``: say what would happen, and change nothing."""

    vault: str
    entries: list[AdoptEntry]
    dry_run: bool = False
    reason: Reason | None = None


class AdoptedEntry(Answer):
    """``outcome`` is ``adopted``, ``known`` (it was before) or ``refused``, with the code why."""

    path: str
    field: str | None
    key_path: str
    environment: str | None
    outcome: str
    code: str | None = None
    detail: str | None = None


class Adopted(Answer):
    entries: list[AdoptedEntry]


class SplitRequest(Request):
    """Keys that are to have an entry of their own, each with its environment at the end."""

    key_paths: list[str]
    reason: Reason | None = None


class SplitKey(Answer):
    """``outcome`` is ``split``, ``own`` (it shares no entry) or ``refused``, with the code why."""

    key_path: str
    outcome: str
    version: int | None = None
    code: str | None = None
    detail: str | None = None


class Split(Answer):
    keys: list[SplitKey]


class WalkRequest(Request):
    """Some keys below ``prefix``, after the one that the last answer called ``next``."""

    to: str
    prefix: str | None = None
    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    reason: Reason | None = None


class MoveRequest(WalkRequest):
    """``back``: by copies that are kept there, and no other way."""

    back: bool = False


class MoveFailure(Answer):
    key_path: str
    code: str
    detail: str


class Moved(Answer):
    """``failed`` keys lie where they lay. Without a ``next`` it was the last one."""

    moved: int
    skipped: int
    failed: list[MoveFailure]
    next: str | None = None


# --- services, grants, environments -----------------------------------------------------------


class ServiceRequest(Request):
    service_name: str
    description: str = ""
    required_keys: list[str] = []
    environment: str | None = None
    reason: Reason | None = None


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


# --- access explained ---------------------------------------------------------------------------


class AccessStep(Answer):
    """One step of the door, in its order. ``code`` is what it answers where it refuses; the first
    one that has a code decides."""

    step: str
    detail: str
    code: str | None


class AccessRemedy(Answer):
    """What would change the answer. Without a ``command`` the effect says what to do."""

    command: str | None
    effect: str


class NearMiss(Grant):
    """A grant that does not name the key, and what is between them."""

    why: str


class AccessExplanation(Answer):
    """``GET /v1/access/services/{service}/keys/{path}``: whether the service gets the value now.
    ``code`` is the door's answer where it does not. ``grants`` are those that name the key; the
    first one decides."""

    service_name: str
    key_path: str
    environment: str
    allowed: bool
    code: str | None
    version: int | None
    steps: list[AccessStep]
    grants: list[Grant]
    near_misses: list[NearMiss]
    remedies: list[AccessRemedy]


class KeyReader(Answer):
    """A service, and the grant that decides for it. ``last_called_at`` counts calls only."""

    service_name: str
    grant: Grant
    live_tokens: int
    last_called_at: datetime | None


class ValueOperator(Answer):
    operator_name: str
    roles: list[str]


class KeyReaders(Answer):
    """``GET /v1/access/keys/{path}``: who may read a key. ``denied`` are services that a deny keeps
    from it. Operators read values by role, whatever the key."""

    key_path: str
    environment: str
    services: list[KeyReader]
    denied: list[KeyReader]
    operators: list[ValueOperator]
    next_cursor: str | None = None


class UnusedGrant(Answer):
    """A grant that no call used since ``since``; ``command`` takes it back. ``too_young``: that is
    less than was asked for, as the grant, or what is known of calls, is younger; then no command is
    proposed."""

    grant: Grant
    since: datetime
    too_young: bool
    command: str | None


class DryRunRequest(Request):
    """Grants to add, as in ``POST /v1/grants``, and ids of grants to take back."""

    add: Annotated[list[GrantRequest], msgspec.Meta(max_length=100)] = []
    remove: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    cursor: str | None = None


class AccessShift(Answer):
    """An existing key that a service ``gains`` or, if not, loses."""

    service_name: str
    key_path: str
    environment: str
    gains: bool


class DryRun(Answer):
    """What a change of grants would do to the keys looked at; ``next_cursor`` goes on with more."""

    shifts: list[AccessShift]
    keys_looked_at: int
    next_cursor: str | None = None


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


class Handed(Answer):
    """What one reader of a key was handed: a service, by one token, from one address. ``reasons``
    are reads by why the client made them. ``may_serve_until``: until then it may answer from its
    cache, also while the store is out of reach. ``token_lives``: the token would be believed now.
    """

    service_name: str
    token_id: str | None
    ip_address: str
    environment: str | None
    versions: list[int]
    first_handed_at: datetime
    last_handed_at: datetime
    count: int
    reasons: dict[str, int]
    may_serve_until: datetime
    token_lives: bool


class HandedPage(Answer):
    """``GET /v1/ledger/since``: who was handed a key, in one stretch of the ledger, newest first.
    The same reader may stand on several pages: counts add up. ``reported`` are reads from caches
    that clients told of."""

    key_path: str
    environment: str | None
    since: datetime
    items: list[Handed]
    reported: int
    cache_ttl_ceiling_seconds: int
    outage_grace_seconds: int
    next_cursor: str | None = None


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


def encode_line(body: Any) -> bytes:
    """`encode`, with every unprintable character escaped: what others sent (a user agent, a path)
    must not end a line for a reader who counts U+2028 as one, or steer a terminal by U+009B."""
    raw = _encoder.encode(body)
    if raw.isascii() and b"\x7f" not in raw:
        return raw
    return "".join(
        each if each.isprintable() else json.dumps(each)[1:-1] for each in raw.decode()
    ).encode()


def decode(kind: type[T], body: bytes) -> T:
    """``body`` as ``kind``. Raises ``msgspec.DecodeError``, or ``ValidationError`` under it."""
    return msgspec.json.decode(body, type=kind, dec_hook=_decode_hook)
