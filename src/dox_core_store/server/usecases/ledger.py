"""What may be searched for, and who was handed a key since a time and until when could serve it.

Asked in the night after a leak, so it tells of every hand-over that is on record: granted reads of
the key, without those that were aborted, folded by who got it. A page covers one stretch of the
ledger, newest first, and ends after `_PAGE_SECONDS` or with `_MOST_GROUPS`; whoever puts pages
together adds up what they say of the same reader. An ABORTED entry stands after the read that it
takes back, so it may be on the page before: all of them are looked up first, as they are few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import NamedTuple

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.key_path import parse_address, split_environment
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.address import canonical_address, counted_as
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.domain.token import LEEWAY_SECONDS
from dox_core_store.server.ports import Catalog, Clock, LedgerFilter, LedgerReader, TokenFilter
from dox_core_store.server.usecases.live_token import LiveTokens
from dox_core_store.server.usecases.registry import Registry

__all__ = ["HandedOut", "check_filter"]

_PAGE_SECONDS = 0.5
_MOST_GROUPS = 200
_AT_ONCE = 1_000
_SECOND = timedelta(seconds=1)
_NO_ADDRESS = frozenset({"", "*"})
"""The store's own entries have none, refusals that were folded may be from everywhere."""

_SHOWN_CHARACTERS = 32
_SOME = 8
"""Words that are named where none is near: every status, but not every action."""

_CLOCKS_APART = LEEWAY_SECONDS * _SECOND


class _Reader(NamedTuple):
    """Whose hand-overs are told together."""

    service_name: str
    token_id: str | None
    ip_address: str
    environment: str | None


class _Group:
    """What one reader was handed; entries come newest first."""

    def __init__(self) -> None:
        self.versions: set[int] = set()
        self.reasons: Counter[str] = Counter()
        self.count = 0
        self.last = ""
        self.first = ""

    def add(self, entry: Entry) -> None:
        self.last = max(self.last, entry.timestamp)
        self.first = min(self.first or entry.timestamp, entry.timestamp)
        self.count += entry.count
        self.reasons[entry.reason or "call"] += entry.count
        if entry.version is not None:
            self.versions.add(entry.version)


class HandedOut:
    """See the module. ``ceiling_seconds`` and ``grace_seconds`` are what clients are told: how long
    they may serve a value from their cache, and from then on while the store is out of reach."""

    def __init__(
        self,
        *,
        reader: LedgerReader,
        catalog: Catalog,
        registry: Registry,
        tokens: LiveTokens,
        clock: Clock,
        ceiling_seconds: int,
        grace_seconds: int,
    ) -> None:
        self._reader = reader
        self._catalog = catalog
        self._registry = registry
        self._tokens = tokens
        self._clock = clock
        self._ceiling_seconds = ceiling_seconds
        self._grace_seconds = grace_seconds

    async def since(
        self,
        caller: Caller,
        key_path: str,
        environment: str | None,
        since: datetime,
        cursor: str | None,
    ) -> wire.HandedPage:
        """A page of who was handed ``key_path`` (of every environment, where none is named)."""
        require(caller.roles, Permission.READ_LEDGER)
        _check_past(since, self._clock.now())
        environments = self._registry.environments
        path, chosen = split_environment(key_path, environments)
        if environment is not None:  # a contradiction, or one that is unknown, is refused
            path, chosen = parse_address(
                key_path, environments, default=environment, explicit=environment
            )
        wanted = LedgerFilter(
            key_path=path if chosen is None else f"{path}.{chosen}",
            action=Action.GET,
            since=since,
        )
        groups, reported, cursor = await self._walk(wanted, cursor)
        return wire.HandedPage(
            key_path=path,
            environment=chosen,
            since=since,
            items=[
                self._told(reader, group, lives=lives)
                for (reader, group), lives in zip(
                    groups.items(), await self._lives(groups), strict=True
                )
            ],
            reported=reported,
            cache_ttl_ceiling_seconds=self._ceiling_seconds,
            outage_grace_seconds=self._grace_seconds,
            next_cursor=cursor,
        )

    async def _walk(
        self, wanted: LedgerFilter, cursor: str | None
    ) -> tuple[dict[_Reader, _Group], int, str | None]:
        until = self._clock.monotonic() + _PAGE_SECONDS
        aborted = await self._aborted(wanted)
        groups: dict[_Reader, _Group] = {}
        reported = 0
        while True:
            found, cursor = await self._reader.search(wanted, cursor, _AT_ONCE)
            for entry in (each.entry for each in found):
                if entry.status in (Status.GRANTED, Status.REPORTED):
                    if aborted[_promise(entry)]:
                        aborted[_promise(entry)] -= 1
                    elif entry.status == Status.REPORTED:
                        reported += entry.count
                    else:
                        groups.setdefault(_reader(entry), _Group()).add(entry)
            if cursor is None or len(groups) >= _MOST_GROUPS or self._clock.monotonic() > until:
                return groups, reported, cursor

    async def _aborted(self, wanted: LedgerFilter) -> Counter[tuple[str, str, int | None]]:
        """What did not leave after all."""
        of_key = wanted._replace(status=Status.ABORTED)
        aborted: Counter[tuple[str, str, int | None]] = Counter()
        cursor: str | None = None
        while True:
            found, cursor = await self._reader.search(of_key, cursor, _AT_ONCE)
            aborted.update(_promise(each.entry) for each in found)
            if cursor is None:
                return aborted

    async def _lives(self, readers: Iterable[_Reader]) -> list[bool]:
        """Whether each reader's token would be believed now."""
        live: dict[str, set[str]] = {}
        told = []
        for reader in readers:
            if reader.service_name not in live:
                live[reader.service_name] = await self._live_of(reader.service_name)
            told.append(reader.token_id in live[reader.service_name])
        return told

    async def _live_of(self, name: str) -> set[str]:
        service = self._registry.services.get(name)
        if service is not None:
            return {each.token_id for each in (await self._tokens.of(service.record)).tokens}
        operator = self._registry.operators.get(name.removeprefix("operator:"))
        if operator is None or operator.disabled_at is not None:
            return set()
        wanted = TokenFilter(kind="operator", name=operator.name, expires_after=self._clock.now())
        rows = await self._catalog.tokens(wanted, None, _AT_ONCE)
        return {row.token.token_id for row in rows if row.token.revoked_at is None}

    def _told(self, reader: _Reader, group: _Group, *, lives: bool) -> wire.Handed:
        last = datetime.fromisoformat(group.last)
        return wire.Handed(
            **reader._asdict(),
            versions=sorted(group.versions),
            first_handed_at=datetime.fromisoformat(group.first),
            last_handed_at=last,
            count=group.count,
            reasons=dict(sorted(group.reasons.items())),
            may_serve_until=last + (self._ceiling_seconds + self._grace_seconds) * _SECOND,
            token_lives=lives,
        )


def check_filter(
    wanted: LedgerFilter, environments: Collection[str], now: datetime
) -> LedgerFilter:
    """``wanted`` in the words of the ledger. What no entry can match is refused: an empty answer
    would say that nothing happened.

    Raises ``invalid_parameter``, ``unknown_environment``.
    """
    _check_word("action", wanted.action, Action)
    _check_word("status", wanted.status, Status)
    if wanted.environment is not None and wanted.environment not in environments:
        raise InvalidRequestError(
            "unknown_environment",
            f"Environment {wanted.environment[:_SHOWN_CHARACTERS]!a} is not declared.",
        )
    if wanted.since is not None:
        _check_past(wanted.since, now)
        if wanted.until is not None and wanted.since >= wanted.until:
            raise _unusable("since has to be earlier than until.")
    if wanted.ip_address is None:
        return wanted
    return wanted._replace(ip_address=_address(wanted.ip_address))


def _check_word(what: str, word: str | None, words: Iterable[str]) -> None:
    known = [str(each) for each in words]
    if word is None or word in known:
        return
    asked = word[:_SHOWN_CHARACTERS]
    near = get_close_matches(asked.upper(), known) or get_close_matches(asked, known, _SOME, 0)
    raise _unusable(f"There is no {what} {asked!a}. Nearest: {', '.join(near)}.")


def _check_past(since: datetime, now: datetime) -> None:
    if since > now + _CLOCKS_APART:
        raise _unusable(f"{since:%Y-%m-%d %H:%M:%SZ} lies in the future.")


def _address(text: str) -> str:
    """As entries name it, or the network from which refusals were folded."""
    found = canonical_address(text)
    if found is not None:
        return found
    is_network = "/" in text and counted_as(text.partition("/")[0]) == text
    if is_network or text in _NO_ADDRESS:
        return text
    raise _unusable(f"{text[:_SHOWN_CHARACTERS]!a} is no address such as 10.2.0.7.")


def _unusable(detail: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_parameter", detail)


def _reader(entry: Entry) -> _Reader:
    return _Reader(entry.service_name, entry.token_id, entry.ip_address, entry.environment)


def _promise(entry: Entry) -> tuple[str, str, int | None]:
    """What an ABORTED entry says again of the one before it that it takes back."""
    return entry.request_id, entry.key_path, entry.version
