"""`AccessCalls`: who may have what. Services and their limits, grants, environments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dox_core_store import wire
from dox_core_store.client.operator_calls import OperatorCalls
from dox_core_store.client.protocol import url_segment

__all__ = ["AccessCalls"]


class AccessCalls(OperatorCalls):
    """Calls about services. `docs/roles.md` says which role each needs."""

    async def register_service(
        self,
        service_name: str,
        description: str = "",
        required_keys: Sequence[str] = (),
        environment: str | None = None,
        reason: str | None = None,
    ) -> wire.Service:
        """Make ``service_name`` known. Grants ``required_keys`` if the caller may, else asks."""
        body = wire.ServiceRequest(
            service_name=service_name,
            description=description,
            required_keys=list(required_keys),
            environment=environment,
            reason=reason,
        )
        return await self._call("POST", "/v1/services", body, wire.Service)

    def list_services(self) -> AsyncIterator[wire.Service]:
        """Every registered service."""
        return self._pages("/v1/services", wire.Page[wire.Service], {})

    async def set_limit(
        self, service_name: str, limit: str, burst: int | None = None, reason: str | None = None
    ) -> wire.Service:
        """Change one service's rate, for example to ``600/min``."""
        body = wire.LimitRequest(limit=limit, burst=burst, reason=reason)
        return await self._call("PUT", _service(service_name, "limit"), body, wire.Service)

    async def decommission_service(
        self, service_name: str, reason: str | None = None
    ) -> wire.Service:
        """End a service: its tokens die and stay dead."""
        body = wire.ReasonRequest(reason=reason)
        return await self._call("POST", _service(service_name, "decommission"), body, wire.Service)

    async def revoke_service_tokens(
        self, service_name: str, reason: str | None = None
    ) -> wire.Service:
        """End every token issued to a service so far; it may be issued new ones."""
        body = wire.ReasonRequest(reason=reason)
        return await self._call("POST", _service(service_name, "revoke-tokens"), body, wire.Service)

    async def add_grant(
        self,
        service_name: str,
        pattern: str,
        environment: str | None = None,
        effect: str = "allow",
        reason: str | None = None,
    ) -> wire.Grant:
        """Let a service read what ``pattern`` names, or with ``effect="deny"`` never."""
        body = wire.GrantRequest(
            service_name=service_name,
            pattern=pattern,
            environment=environment,
            effect=effect,
            reason=reason,
        )
        return await self._call("POST", "/v1/grants", body, wire.Grant)

    async def remove_grant(self, grant_id: str, reason: str | None = None) -> None:
        """Take a grant back."""
        path = f"/v1/grants/{url_segment(grant_id)}"
        await self._command("DELETE", path, None, query={"reason": reason})

    def list_grants(self, service_name: str | None = None) -> AsyncIterator[wire.Grant]:
        """Every grant, or one service's."""
        return self._pages("/v1/grants", wire.Page[wire.Grant], {"service_name": service_name})

    async def explain_access(
        self, service_name: str, key_path: str, environment: str | None = None
    ) -> wire.AccessExplanation:
        """Whether a service gets a key's value now, and why. ``environment`` is the one of the
        token with which it would ask."""
        path = f"/v1/access/services/{url_segment(service_name)}/keys/{url_segment(key_path)}"
        query = {"environment": environment}
        return await self._call("GET", path, None, wire.AccessExplanation, query=query)

    async def who_can_read(self, key_path: str, environment: str | None = None) -> wire.KeyReaders:
        """Every service that may read a key, and the operators whose roles do."""
        path = f"/v1/access/keys/{url_segment(key_path)}"
        query: dict[str, str | None] = {"environment": environment}
        found = await self._call("GET", path, None, wire.KeyReaders, query=query)
        while found.next_cursor is not None:
            query["cursor"] = found.next_cursor
            page = await self._call("GET", path, None, wire.KeyReaders, query=query)
            found.services += page.services
            found.denied += page.denied
            found.next_cursor = page.next_cursor
        return found

    def unused_grants(
        self, days: int = 90, service_name: str | None = None
    ) -> AsyncIterator[wire.UnusedGrant]:
        """Grants that no call used for ``days``, of all services or of one."""
        query = {"days": days, "service_name": service_name}
        return self._pages("/v1/access/unused", wire.Page[wire.UnusedGrant], query)

    async def dry_run(
        self, add: Sequence[wire.GrantRequest] = (), remove: Sequence[str] = ()
    ) -> AsyncIterator[wire.DryRun]:
        """Who would gain and lose which keys if grants were added and others taken back, some keys
        at a time. Changes nothing."""
        body = wire.DryRunRequest(add=list(add), remove=list(remove))
        while True:
            page = await self._call("POST", "/v1/access/dry-run", body, wire.DryRun)
            yield page
            if page.next_cursor is None:
                return
            body.cursor = page.next_cursor

    def list_environments(self) -> AsyncIterator[wire.Environment]:
        """Every declared environment."""
        return self._pages("/v1/environments", wire.Page[wire.Environment], {})

    async def add_environment(self, name: str, reason: str | None = None) -> wire.Environment:
        """Declare an environment."""
        body = wire.EnvironmentRequest(name=name, reason=reason)
        return await self._call("POST", "/v1/environments", body, wire.Environment)


def _service(service_name: str, what: str) -> str:
    return f"/v1/services/{url_segment(service_name)}/{what}"
