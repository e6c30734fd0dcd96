"""Who may do what: roles of operators, grants of services.

Operators: a role is a row of `PERMISSIONS`; ``docs/roles.md`` is printed from it. Services: a grant
names a service, a pattern of whole segments and one environment. Deny wins over allow; there are
no implicit grants, and a wildcard never matches an environment. A decision walks the path once
over a tree compiled from the service's grants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from dox_core_store.errors import UnauthorizedError

__all__ = [
    "EMPTY_GRANTS",
    "PERMISSIONS",
    "PERSONAL",
    "Caller",
    "Effect",
    "GrantRecord",
    "GrantTree",
    "OperatorRecord",
    "Permission",
    "Role",
    "ServiceRecord",
    "TokenBindingRecord",
    "TokenRecord",
    "grants_digest",
    "permitted",
    "require",
]


class Role(StrEnum):
    ADMIN = "admin"
    MAINTAINER = "maintainer"
    SECURITY_TEAM_LEAD = "security_team_lead"
    AUDITOR = "auditor"


class Permission(StrEnum):
    """What an operator may be allowed to do, named after what the CLI calls it."""

    READ_VALUES = "read values"
    WRITE_KEYS = "write keys"
    REVOKE_KEYS = "revoke keys"
    LIST_KEYS = "list keys"
    MANAGE_SERVICES = "manage services"
    GRANT = "grant"
    ISSUE_TOKENS = "issue tokens"
    REVOKE_TOKENS = "revoke tokens"
    ROTATE_SIGNING_KEYS = "rotate signing keys"
    MANAGE_OPERATORS = "manage operators"
    MANAGE_ISSUERS = "manage issuers"
    MANAGE_ENVIRONMENTS = "manage environments"
    MANAGE_VAULTS = "manage vaults"
    READ_LEDGER = "read the ledger"
    APPROVE = "approve"


PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(
        {
            Permission.REVOKE_KEYS,
            Permission.LIST_KEYS,
            Permission.MANAGE_SERVICES,
            Permission.GRANT,
            Permission.ISSUE_TOKENS,
            Permission.REVOKE_TOKENS,
            Permission.ROTATE_SIGNING_KEYS,
            Permission.MANAGE_OPERATORS,
            Permission.MANAGE_ISSUERS,
            Permission.MANAGE_ENVIRONMENTS,
            Permission.MANAGE_VAULTS,
        }
    ),
    Role.MAINTAINER: frozenset(
        {
            Permission.READ_VALUES,
            Permission.WRITE_KEYS,
            Permission.REVOKE_KEYS,
            Permission.LIST_KEYS,
            Permission.MANAGE_SERVICES,
        }
    ),
    Role.SECURITY_TEAM_LEAD: frozenset(
        {
            Permission.APPROVE,
            Permission.REVOKE_KEYS,
            Permission.REVOKE_TOKENS,
            Permission.LIST_KEYS,
            Permission.READ_LEDGER,
        }
    ),
    Role.AUDITOR: frozenset({Permission.LIST_KEYS, Permission.READ_LEDGER}),
}
"""An auditor never reads a value, and neither does an admin without the maintainer's role."""


PERSONAL = frozenset({Permission.APPROVE})
"""What takes a person who signed in: whoever holds a static token may be anybody, or nobody."""


class Effect(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


EMPTY_GRANTS = hashlib.sha256(b"[]").hexdigest()


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registered consumer. Tokens carry ``generation``; raising it kills all issued before."""

    name: str
    description: str
    environment: str | None
    generation: int
    limit_count: int
    limit_period_seconds: int
    limit_burst: int
    decommissioned_at: datetime | None
    created_at: datetime
    grants_digest: str = EMPTY_GRANTS
    """Binds the service's row, and so its MAC, to the whole set of its grants: see
    `grants_digest`."""
    requested: list[str] = []


class GrantRecord(msgspec.Struct, frozen=True, kw_only=True):
    grant_id: str
    service: str
    effect: Effect
    pattern: str
    environment: str
    created_at: datetime
    created_by: str


def grants_digest(grants: Iterable[GrantRecord]) -> str:
    """SHA-256 over a set of grants, in hex: a grant taken away, put back or moved shows in it."""
    rows = sorted([g.grant_id, g.service, g.effect, g.pattern, g.environment] for g in grants)
    return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()


class OperatorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A named person or pipeline. ``generation`` works as for services."""

    name: str
    roles: list[Role]
    generation: int
    disabled_at: datetime | None
    created_at: datetime


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An issued token, by id; never the token. ``revoked_at`` kills it at once."""

    token_id: str
    kind: str
    name: str
    environment: str | None
    issued_at: datetime
    expires_at: datetime
    issued_by: str
    revoked_at: datetime | None


class TokenBindingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """From where a token may be used (networks, as CIDR; none: from anywhere), and by the holder of
    which key (RFC 7638 thumbprint). For lists: what binds stands in the token itself."""

    token_id: str
    addresses: list[str]
    key_thumbprint: str | None


class Caller(NamedTuple):
    """Who asks, from where, in which request: what the ledger wants to know of every act."""

    name: str
    """As the ledger names it: a service, ``operator:<name>``, ``local:<user>``, ``anonymous``."""
    roles: tuple[Role, ...]
    request_id: str
    ip_address: str
    user_agent: str
    token_id: str | None = None
    correlation_id: str | None = None
    signed_in: bool = False
    """Whether this is a person who signed in, and not a holder of a static token."""


def permitted(roles: Iterable[Role], permission: Permission) -> bool:
    """Whether any of ``roles`` gives ``permission``."""
    return any(permission in PERMISSIONS[role] for role in roles)


def require(roles: Iterable[Role], permission: Permission, *, signed_in: bool = False) -> None:
    """Raise `UnauthorizedError` ``role_required`` unless a role gives ``permission``, or
    ``sign_in_required`` where it is `PERSONAL` and the caller did not sign in."""
    if not permitted(roles, permission):
        names = sorted(role for role in Role if permission in PERMISSIONS[role])
        raise UnauthorizedError(
            "role_required", f"To {permission} takes the role {' or '.join(names)}."
        )
    if permission in PERSONAL and not signed_in:
        raise UnauthorizedError(
            "sign_in_required", f"To {permission} takes a person who signed in, not a static token."
        )


class _Node:
    __slots__ = ("any_segment", "children", "here", "tail")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.any_segment: _Node | None = None
        self.here: dict[str, Effect] = {}
        self.tail: dict[str, Effect] = {}


class GrantTree:
    """One service's grants, compiled."""

    def __init__(self, grants: Iterable[GrantRecord]) -> None:
        self._root = _Node()
        for grant in grants:
            self._add(grant)

    def allows(self, path: str, environment: str) -> bool:
        """Whether some grant allows ``path`` in ``environment`` and none denies it."""
        effects = self.effects(path, environment)
        return Effect.ALLOW in effects and Effect.DENY not in effects

    def effects(self, path: str, environment: str) -> list[Effect]:
        """What the grants that name ``path`` in ``environment`` say; nothing where none does."""
        effects: list[Effect] = []
        nodes = [self._root]
        for segment in path.split("."):
            below: list[_Node] = []
            for node in nodes:
                if (tail := node.tail.get(environment)) is not None:
                    effects.append(tail)
                if (child := node.children.get(segment)) is not None:
                    below.append(child)
                if node.any_segment is not None:
                    below.append(node.any_segment)
            nodes = below
        effects.extend(node.here[environment] for node in nodes if environment in node.here)
        return effects

    def _add(self, grant: GrantRecord) -> None:
        segments = grant.pattern.split(".")
        trailing = segments[-1] == "**"
        node = self._root
        for segment in segments[:-1] if trailing else segments:
            if segment == "*":
                node.any_segment = node.any_segment or _Node()
                node = node.any_segment
            else:
                node = node.children.setdefault(segment, _Node())
        effects = node.tail if trailing else node.here
        if effects.get(grant.environment) is not Effect.DENY:
            effects[grant.environment] = grant.effect
