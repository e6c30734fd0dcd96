"""What the ledger says that the catalog should be, and where the catalog says something else.

A row that was put back with its own old MAC is whole by itself. But what it takes back stands in
the `changes` streams: that a version was revoked, a grant removed, an operator disabled, a token
or a generation ended. `Account` follows them from their first entry that is there, and compares.
It names what is weaker than the ledger says; it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.transacting import snapshot
from dox_core_store.server.domain.key import State
from dox_core_store.server.domain.ledger import Action, Entry, is_changes, parse_canonical
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.signing_key import is_compromise

__all__ = ["Account"]

_BLOCKS = 500
_GRANT = re.compile(r"((?:allow|deny) \S+ in [^\s:]+)(?:: |$)", re.DOTALL)
_DEAD = {Action.REVOKE: State.REVOKED, Action.DESTROY: State.DESTROYED}
_HEADS = frozenset({Action.PUT, Action.PROMOTE, Action.ROLLBACK})


class _Principal:
    """A service or an operator, as far as its tokens go."""

    def __init__(self) -> None:
        self.generation = 1
        self.ended = False
        self.roles: str | None = None


class Account:
    """See the module. `follow`, then `compare`."""

    def __init__(self) -> None:
        self._dead: dict[tuple[str, int], State] = {}
        self._heads: dict[str, int] = {}
        self._grants: dict[tuple[str, str], bool] = {}
        self._services: dict[str, _Principal] = {}
        self._operators: dict[str, _Principal] = {}
        self._tokens: set[str] = set()
        self._issuers: dict[str, bool] = {}
        self._trusts: set[str] = set()
        self._signing_keys: set[str] = set()

    def follow(self, connection: sa.Connection) -> Iterator[int]:
        """Read every `changes` stream, oldest epoch first; yields how many entries were read."""
        stream, block = tables.ledger_stream.c, tables.ledger_block.c
        names = connection.execute(sa.select(stream.stream).order_by(stream.opened_at)).scalars()
        for name in [name for name in names if is_changes(name)]:
            after = 0
            while rows := connection.execute(
                sa.select(block.last_seq, block.body)
                .where(tables.FEED, block.stream == name, block.last_seq > after)
                .order_by(block.last_seq)
                .limit(_BLOCKS)
            ).all():
                count = 0
                for row in rows:
                    for line in row.body.split(b"\n"):
                        self.take(parse_canonical(line)[0])
                        count += 1
                after = rows[-1].last_seq
                yield count

    def take(self, entry: Entry) -> None:
        """One entry of a `changes` stream, in order."""
        action, path = entry.action, entry.key_path
        if action in _DEAD and entry.version is not None:
            self._dead[path, entry.version] = _DEAD[Action(action)]
        elif action in _HEADS and entry.version is not None:
            if entry.reason == "import" and entry.correlation_id is not None:
                self._heads.pop(path, None)  # whether it took effect stands elsewhere
            else:
                self._heads[path] = entry.version
        elif path.startswith(_SERVICES):
            self._take_service(action, path.removeprefix(_SERVICES), entry.reason)
        elif path.startswith(_OPERATORS):
            self._take_operator(action, path.removeprefix(_OPERATORS), entry.reason)
        elif action == Action.REVOKE_TOKEN:
            self._tokens.add(path.removeprefix(_TOKENS))
        elif action in (Action.ADD_ISSUER, Action.DISABLE_ISSUER):
            self._issuers[path.removeprefix(_ISSUERS)] = action == Action.DISABLE_ISSUER
        elif action == Action.UNTRUST:
            self._trusts.add((entry.reason or "").partition(":")[0])
        elif action == Action.ROTATE_SIGNING_KEY and is_compromise(entry.reason):
            self._signing_keys.add(path.removeprefix(_SIGNING_KEYS))

    def _take_service(self, action: str, name: str, reason: str | None) -> None:
        found = self._services.setdefault(name, _Principal())
        if action in (Action.GRANT, Action.UNGRANT):
            what = _GRANT.match(reason or "")
            if what is not None:
                self._grants[name, what[1]] = action == Action.GRANT
        elif action == Action.REVOKE_SERVICE_TOKENS:
            found.generation += 1
        elif action == Action.DECOMMISSION:
            found.generation += 1
            found.ended = True
            for each in self._grants:
                if each[0] == name:
                    self._grants[each] = False
        elif action == Action.REGISTER and found.ended:
            found.generation += 1
            found.ended = False

    def _take_operator(self, action: str, name: str, reason: str | None) -> None:
        found = self._operators.setdefault(name, _Principal())
        if action == Action.DISABLE_OPERATOR and not found.ended:
            found.generation += 1
            found.ended = True
        elif action == Action.ADD_OPERATOR:
            found.generation += found.ended
            found.ended = False
            found.roles = None if reason is None else reason.partition(": ")[0]

    def compare(self, connection: sa.Connection) -> Iterator[str]:
        """What the catalog says otherwise, in words. The same moment as `follow`, please."""
        with snapshot(connection):  # in which PostgreSQL too hands out rows as they are asked for
            yield from self._versions(connection)
            yield from self._key_heads(connection)
            yield from self._access(connection)
            yield from self._people(connection)
            yield from self._others(connection)

    def _versions(self, connection: sa.Connection) -> Iterator[str]:
        version, grave = tables.version.c, tables.tombstone.c
        query = (
            sa.select(*_ADDRESS, version.number, version.state, grave.state.label("buried"))
            .join(tables.key, tables.key.c.key_id == version.key_id)
            .outerjoin(tables.tombstone, grave.version_id == version.version_id)
        )
        left = dict(self._dead)
        for row in connection.execute(query.execution_options(yield_per=_BLOCKS)):
            name = f"{row.path}.{row.environment}"
            said = left.pop((name, row.number), None)
            if said is not None and not _as_dead(row.state, said):
                yield f"{name} version {row.number} was {said}, and its row says {row.state}"
            elif said is not None and not _as_dead(row.buried or "", said):
                yield f"{name} version {row.number} was {said}, and has no such tombstone"
            elif row.buried is not None and not _as_dead(row.state, State(row.buried)):
                yield f"{name} version {row.number} is buried, and its row says {row.state}"

    def _key_heads(self, connection: sa.Connection) -> Iterator[str]:
        version = tables.version.c
        query = sa.select(*_ADDRESS, version.number).join(
            tables.version, version.version_id == tables.key.c.head
        )
        for row in connection.execute(query.execution_options(yield_per=_BLOCKS)):
            name = f"{row.path}.{row.environment}"
            said = self._heads.get(name, row.number)
            if said != row.number:
                yield f"{name} is at version {row.number}, and the ledger says {said}"

    def _access(self, connection: sa.Connection) -> Iterator[str]:
        grant = tables.access_grant.c
        there = set()
        columns = (grant.service, grant.effect, grant.pattern, grant.environment)
        for row in connection.execute(sa.select(*columns)):
            what = (row.service, f"{row.effect} {row.pattern} in {row.environment}")
            there.add(what)
            if not self._grants.get(what, True):
                yield f"{row.service} has a grant that was removed: {what[1]}"
        for (service, text), is_granted in self._grants.items():
            if is_granted and (service, text) not in there:
                yield f"{service} lacks a grant that nobody removed: {text}"

    def _people(self, connection: sa.Connection) -> Iterator[str]:
        service, operator, token = tables.service.c, tables.operator.c, tables.token.c
        for row in connection.execute(
            sa.select(service.name, service.generation, service.decommissioned_at)
        ):
            yield from _weaker(
                f"service {row.name}",
                self._services.get(row.name),
                row.generation,
                ended=row.decommissioned_at is not None,
            )
        for each in connection.execute(
            sa.select(operator.name, operator.generation, operator.disabled_at, operator.roles)
        ):
            said = self._operators.get(each.name)
            yield from _weaker(
                f"operator {each.name}", said, each.generation, ended=each.disabled_at is not None
            )
            roles = ", ".join(each.roles)
            if said is not None and said.roles is not None and said.roles != roles:
                yield f"operator {each.name} has roles {roles}, and the ledger says {said.roles}"
        query = sa.select(token.token_id).where(token.revoked_at.is_(None))
        for token_id in connection.execute(query).scalars():
            if token_id in self._tokens:
                yield f"token {token_id} was revoked, and its row says nothing of it"
        key = tables.signing_key.c
        for kid in connection.execute(
            sa.select(key.kid).where(key.compromised_at.is_(None))
        ).scalars():
            if kid in self._signing_keys:
                yield f"signing key {kid} was compromised, and its row says nothing of it"

    def _others(self, connection: sa.Connection) -> Iterator[str]:
        issuer, trust = tables.issuer.c, tables.issuer_trust.c
        query = sa.select(issuer.name).where(issuer.disabled_at.is_(None))
        for name in connection.execute(query).scalars():
            if self._issuers.get(name, False):
                yield f"issuer {name} was disabled, and its row says nothing of it"
        for trust_id in connection.execute(sa.select(trust.trust_id)).scalars():
            if trust_id in self._trusts:
                yield f"trust {trust_id} was taken back, and is there"


_ADDRESS = (tables.key.c.path, tables.key.c.environment)
_SERVICES, _OPERATORS, _TOKENS, _SIGNING_KEYS, _ISSUERS = (
    subject(kind, "") for kind in ("services", "operators", "tokens", "signing_keys", "issuers")
)


def _as_dead(state: str, said: State) -> bool:
    """Whether ``state`` is no weaker than ``said``."""
    return state in (said, State.DESTROYED)


def _weaker(who: str, said: _Principal | None, generation: int, *, ended: bool) -> Iterator[str]:
    if said is None:
        return
    if said.ended and not ended:
        yield f"{who} was ended, and its row says nothing of it"
    elif generation < said.generation:
        yield f"{who} is in generation {generation}, and the ledger says {said.generation}"
