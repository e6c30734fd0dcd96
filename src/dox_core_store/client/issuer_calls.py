"""`IssuerCalls`: whose tokens the store takes in exchange for its own, and for whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from dox_core_store import wire
from dox_core_store.client.operator_calls import OperatorCalls
from dox_core_store.client.protocol import url_segment

__all__ = ["IssuerCalls"]


class IssuerCalls(OperatorCalls):
    """Calls about issuers and trusts. `docs/roles.md` says which role each needs."""

    async def add_issuer(
        self, name: str, url: str, audience: str, reason: str | None = None
    ) -> wire.Issuer:
        """Make an issuer known: by itself it is trusted with nothing."""
        body = wire.IssuerRequest(name=name, url=url, audience=audience, reason=reason)
        return await self._call("POST", "/v1/issuers", body, wire.Issuer)

    def list_issuers(self) -> AsyncIterator[wire.Issuer]:
        """Every issuer, with what is trusted of it."""
        return self._pages("/v1/issuers", wire.Page[wire.Issuer], {})

    async def disable_issuer(self, name: str, reason: str | None = None) -> wire.IssuerDisabled:
        """Take no more tokens of an issuer, and end those that were made of them."""
        path = f"/v1/issuers/{url_segment(name)}/disable"
        return await self._call(
            "POST", path, wire.ReasonRequest(reason=reason), wire.IssuerDisabled
        )

    async def trust_issuer(
        self,
        issuer: str,
        kind: str,
        name: str,
        claims: Mapping[str, str],
        *,
        roles: Sequence[str] = (),
        environment: str | None = None,
        max_lifetime: str | None = None,
        reason: str | None = None,
    ) -> wire.Trust:
        """Say for whom a token stands that has these claims: for the service ``name``, or (with
        ``kind="operator"``) for whoever its claim ``name`` names, with ``roles``."""
        body = wire.TrustRequest(
            kind=kind,
            name=name,
            claims=dict(claims),
            roles=list(roles),
            environment=environment,
            max_lifetime=max_lifetime,
            reason=reason,
        )
        path = f"/v1/issuers/{url_segment(issuer)}/trusts"
        return await self._call("POST", path, body, wire.Trust)

    async def untrust(self, trust_id: str, reason: str | None = None) -> None:
        """Take a trust back."""
        path = f"/v1/trusts/{url_segment(trust_id)}"
        await self._command("DELETE", path, None, query={"reason": reason})
