"""What this node knows of identities and grants, in memory.

The door decides without I/O, so every service, grant, operator, live token, signing key and
environment is held here. What changes of it says the change feed (`feed`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, TypeVar

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.domain.access import (
    GrantRecord,
    GrantTree,
    OperatorRecord,
    ServiceRecord,
    TokenRecord,
    grants_digest,
)
from dox_core_store.server.domain.epoch import EpochRecord, needs_review
from dox_core_store.server.domain.key import KeyLimitRecord, KeyRecord
from dox_core_store.server.domain.limit import Bucket, Rate, rate_of
from dox_core_store.server.domain.signing_key import SigningKeyRecord, verifies_until
from dox_core_store.server.domain.token import (
    LEEWAY_SECONDS,
    Claims,
    Kind,
    invalid_token,
)
from dox_core_store.server.ports import Catalog, Change, Clock

__all__ = ["KnownService", "Registry", "own_bucket", "subject"]

Record = TypeVar("Record")

_PAGE = 1_000

_STORE = "_store."
_UNREVIEWED = "This store goes on from an older state, which nobody signed off yet."


def subject(kind: str, name: str) -> str:
    """How the ledger names what is not a key: ``_store.services.jules-mcp``."""
    return f"{_STORE}{kind}.{name}"


def own_bucket(rate: Rate, name: str, _row: str) -> Bucket:
    """The limiter of a node that is alone."""
    return Bucket(rate, name)


def _nothing() -> None:
    """What there is to follow where the sealing keys do not change."""


class KnownService:
    """A service as the door needs it: its record, compiled grants and limiter."""

    __slots__ = ("bucket", "generation", "record", "tree")

    def __init__(self, record: ServiceRecord, tree: GrantTree, bucket: Bucket) -> None:
        self.record = record
        self.generation = -1 if record.decommissioned_at is not None else record.generation
        """What its tokens have to carry; a decommissioned service's carry it never."""
        self.tree = tree
        self.bucket = bucket


class KeySet(Protocol):
    """Who is told which signing keys verify."""

    def replace(self, keys: Mapping[str, str]) -> None:
        """From now on exactly these: public JWK (JSON) by ``kid``."""


class Registry:
    """See the module. Everything runs on the event loop."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        clock: Clock,
        key_set: KeySet,
        alarm: Callable[[str, str], None],
        epoch: int = 1,
        follow_seal: Callable[[], None] = _nothing,
        buckets: Callable[[Rate, str, str], Bucket] = own_bucket,
    ) -> None:
        """``buckets`` makes a limiter of a rate, what callers are told it limits, and the name
        under which other nodes have the same limit."""
        self._catalog = catalog
        self._clock = clock
        self._key_set = key_set
        self._alarm = alarm
        self._epoch = epoch
        self._follow_seal = follow_seal
        self._buckets = buckets
        self.held: dict[str, str] = {}
        """Why nothing may be handed out now: codes of 503 answers, each with its detail."""
        self.services: dict[str, KnownService] = {}
        self.operators: dict[str, OperatorRecord] = {}
        self.environments: frozenset[str] = frozenset()
        self.key_limits: dict[int, Bucket] = {}
        """By key id, of those keys that have a limit of their own."""
        self.revision = 0
        """Rises whenever any decision made here may differ from before."""
        self._trusted: dict[str, datetime | None] = {}
        """Signing keys that verify, each with when its last token ends; None: it signs."""
        self._live: set[str] = set()
        """Ids of tokens that were issued and not revoked. A token whose row is missing, or whose
        row's MAC does not hold, is not among them: whoever edits the database revives nothing."""
        self._judge_epoch(None)

    async def load(self) -> None:
        """Read everything once, at start."""
        grants: dict[str, list[GrantRecord]] = {}
        for grant in await self._all(GrantRecord, "grant_id"):
            grants.setdefault(grant.service, []).append(grant)
        for record in await self._all(ServiceRecord, "name"):
            self._know(record, grants.get(record.name, []))
        self.operators = {record.name: record for record in await self._all(OperatorRecord, "name")}
        self._live = await self._catalog.live_tokens(self._clock.now())
        await self._load_signing_keys()
        await self._load_epoch()
        self.environments = frozenset(await self._catalog.environments())
        for limit in await self._all(KeyLimitRecord, "key_id"):
            self._know_limit(limit)
        self._follow_seal()

    def hold(self, code: str, detail: str | None) -> None:
        """Have every read refused with ``code`` from here on; None ends that."""
        if self.held.get(code) == detail:
            return
        if detail is None:
            del self.held[code]
        else:
            self.held[code] = detail
        self.revision += 1

    def check(self, claims: Claims, now: float) -> KnownService | OperatorRecord:
        """Who the verified ``claims`` speak for, if that still holds at ``now`` (epoch seconds).

        Raises `AuthenticationError`: ``token_expired``, ``token_revoked`` (also where the service
        or operator was decommissioned, disabled or raised its generation), ``token_invalid``.
        """
        if claims.expires_at + LEEWAY_SECONDS <= now:
            raise AuthenticationError("token_expired", "The token has expired.")
        if claims.token_id not in self._live:
            raise AuthenticationError("token_revoked", "The token was revoked.")
        known: KnownService | OperatorRecord | None
        if claims.kind is Kind.SERVICE:
            known = service = self.services.get(claims.name)
            generation = -1 if service is None else service.generation
        else:
            known = operator = self.operators.get(claims.name)
            ended = operator is None or operator.disabled_at is not None
            generation = -1 if operator is None or ended else operator.generation
        if known is None:
            raise AuthenticationError("token_invalid", "The token is not valid here.")
        if generation != claims.generation:
            raise AuthenticationError("token_revoked", "The token was revoked.")
        return known

    def check_again(self, claims: Claims, now: float) -> KnownService | OperatorRecord:
        """`check` where the token was verified before what was applied since: its signing key may
        be compromised by now. Raises also ``token_invalid`` for that."""
        if claims.kid not in self._trusted:
            raise invalid_token("its signing key verifies no more")
        return self.check(claims, now)

    async def drop_spent_keys(self) -> None:
        """Trust no retired key any longer than its last token lives."""
        if any(self._trusted.values()):
            await self._load_signing_keys()

    def is_live(self, token_id: str) -> bool:
        """Whether a token of that id was issued and not revoked. No proof of anything: whoever
        names one need not have it."""
        return token_id in self._live

    async def apply(self, change: Change) -> None:
        """Take over one change that concerns identities."""
        kind, _, name = change.key_path.removeprefix(_STORE).partition(".")
        if kind == "tokens":
            await self._follow_token(name)
            return
        if kind == "seal":
            self._follow_seal()
            return
        self.revision += 1
        if kind == "services":
            found = await self._catalog.records(ServiceRecord, None, 1, name=name)
            grants = await self._all(GrantRecord, "grant_id", service=name)
            if found:
                self._know(found[0], grants)
            else:
                self.services.pop(name, None)
        elif kind == "operators":
            operators = await self._catalog.records(OperatorRecord, None, 1, name=name)
            if operators:
                self.operators[name] = operators[0]
            else:
                self.operators.pop(name, None)
        elif kind == "signing_keys":
            await self._load_signing_keys()
        elif kind == "epochs":
            await self._load_epoch()
        elif kind == "environments":
            self.environments = frozenset(await self._catalog.environments())

    async def follow_key_limit(self, path: str, environment: str) -> None:
        """Take over a key's own limit, or that it has none any more."""
        for key in await self._catalog.records(
            KeyRecord, None, 1, path=path, environment=environment
        ):
            found = await self._catalog.records(KeyLimitRecord, None, 1, key_id=key.key_id)
            if found:
                self._know_limit(found[0])
            else:
                self.key_limits.pop(key.key_id, None)

    def _know_limit(self, record: KeyLimitRecord) -> None:
        rate = rate_of(record)
        known = self.key_limits.get(record.key_id)
        if known is None or known.rate != rate:
            row = f"key:{record.key_id}"
            self.key_limits[record.key_id] = self._buckets(rate, "key", row)

    def _know(self, record: ServiceRecord, grants: list[GrantRecord]) -> None:
        """A service whose grants are not the set that its own row is bound to gets nothing: a deny
        that was taken out of the database must not open a key."""
        if not hmac.compare_digest(grants_digest(grants), record.grants_digest):
            self._alarm("access_grant", record.name)
            grants = []
        rate = rate_of(record)
        known = self.services.get(record.name)
        if known is not None and known.bucket.rate == rate:
            bucket = known.bucket
        else:
            bucket = self._buckets(rate, "service", f"service:{record.name}")
        self.services[record.name] = KnownService(record, GrantTree(grants), bucket)

    async def _follow_token(self, token_id: str) -> None:
        found = await self._catalog.records(TokenRecord, None, 1, token_id=token_id)
        if found and found[0].revoked_at is None:
            self._live.add(token_id)
        else:
            self._live.discard(token_id)

    async def _load_epoch(self) -> None:
        found = await self._catalog.records(EpochRecord, None, 1, epoch=self._epoch)
        self._judge_epoch(found[0] if found else None)

    def _judge_epoch(self, record: EpochRecord | None) -> None:
        self.hold("unreviewed", _UNREVIEWED if needs_review(self._epoch, record) else None)

    async def _load_signing_keys(self) -> None:
        """A retired key is dropped once its last token has expired, or is revoked by then."""
        now = self._clock.now()
        trusted: dict[str, datetime | None] = {}
        keys: dict[str, str] = {}
        for record in await self._all(SigningKeyRecord, "kid"):
            end = None
            if record.compromised_at is not None:
                continue
            if record.retired_at is not None:
                span = await self._catalog.token_span(record.created_at, record.retired_at, now)
                end = verifies_until(record, span.last_expiry)
                if end is not None and end <= now:
                    continue
            trusted[record.kid] = end
            keys[record.kid] = record.public_jwk
        is_other = trusted.keys() != self._trusted.keys()
        self._trusted = trusted
        if is_other:
            self._key_set.replace(keys)

    async def _all(self, kind: type[Record], identity: str, **where: str) -> list[Record]:
        found: list[Record] = []
        after = None
        while True:
            page = await self._catalog.records(kind, after, _PAGE, **where)
            found += page
            if len(page) < _PAGE:
                return found
            after = getattr(page[-1], identity)
