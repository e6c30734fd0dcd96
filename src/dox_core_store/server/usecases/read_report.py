"""What clients tell of reads that they answered by themselves: from a cache, or in an outage.

Each row becomes an entry, ``GET`` and ``REPORTED``, under the name that the token has, at the time
of the report; all rows of a report are committed at once. It is a claim: it refines what the ledger
knows of who was handed what, and nothing is decided by it. A report with a row that makes no sense
is refused whole, for then the others cannot be believed either. A row about a key that the service
may not read is no report but a refused read, and is on record as such (folded under a flood):
nobody can write what they like about other people's keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError, UnauthorizedError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import writable_address
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.ports import Clock, Ledger
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.refusals import Refusals
from dox_core_store.server.usecases.registry import KnownService, Registry

__all__ = ["ReadReports"]

_CLOCKS_APART = timedelta(seconds=60)
"""How far a client's clock may be ahead."""


class ReadReports:
    """See the module."""

    def __init__(
        self,
        *,
        default_environment: str,
        registry: Registry,
        ledger: Ledger,
        refusals: Refusals,
        clock: Clock,
        stamp: Callable[[], str],
    ) -> None:
        self._default_environment = default_environment
        self._registry = registry
        self._ledger = ledger
        self._refusals = refusals
        self._clock = clock
        self._stamp = stamp

    async def take(
        self, principal: Principal, caller: Caller, reads: Sequence[wire.ReadCount]
    ) -> int:
        """Put ``reads`` on record; how many of them were taken. Raises ``role_required`` for an
        operator, ``invalid_field``."""
        known = principal.known
        if not isinstance(known, KnownService):
            raise UnauthorizedError("role_required", "Only services report what they served.")
        latest = self._clock.now() + _CLOCKS_APART
        rows = [
            (self._address(at, each), _stretch(at, each, latest), each)
            for at, each in enumerate(reads)
        ]
        stamp = self._stamp()
        taken: list[Entry] = []
        refused: list[Entry] = []
        for address, stretch, read in rows:
            reported = Entry(
                timestamp=stamp,
                service_name=caller.name,
                key_path=str(address),
                action=Action.GET,
                status=Status.REPORTED,
                request_id=caller.request_id,
                ip_address=caller.ip_address,
                user_agent=caller.user_agent,
                environment=address.environment,
                version=read.version,
                token_id=caller.token_id,
                correlation_id=caller.correlation_id,
                reason=f"{read.source} {stretch}",
                count=read.count,
            )
            if known.tree.allows(*address):
                taken.append(reported)
            else:
                refused.append(
                    reported._replace(
                        status=Status.DENIED, version=None, reason="not_authorized", count=1
                    )
                )
        if taken:
            await self._ledger.commit(taken)
        for entry in refused:
            await self._refusals.record(entry)
        return len(taken)

    def _address(self, at: int, read: wire.ReadCount) -> KeyAddress:
        try:
            return writable_address(
                read.key_path,
                self._registry.environments,
                default=self._default_environment,
                explicit=read.environment,
            )
        except InvalidRequestError as error:
            raise InvalidRequestError("invalid_field", f"reads[{at}]: {error.detail}") from None


def _stretch(at: int, read: wire.ReadCount, latest: datetime) -> str:
    """The time that a row covers, as RFC 3339 intervals are written."""
    times = read.since, read.until
    if any(each.tzinfo is None for each in times):
        raise InvalidRequestError("invalid_field", f"reads[{at}]: times take an offset, such as Z.")
    if read.since > read.until:
        raise InvalidRequestError("invalid_field", f"reads[{at}]: since is later than until.")
    if read.until > latest:
        raise InvalidRequestError("invalid_field", f"reads[{at}]: until lies in the future.")
    try:
        utc = [each.astimezone(UTC).isoformat(timespec="milliseconds") for each in times]
    except OverflowError:
        raise InvalidRequestError("invalid_field", f"reads[{at}]: no such time.") from None
    return "/".join(each.replace("+00:00", "Z") for each in utc)
