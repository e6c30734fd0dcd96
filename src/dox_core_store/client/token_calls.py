"""`TokenCalls`: what callers prove themselves with. Tokens, and the keys that sign them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dox_core_store import wire
from dox_core_store.client.operator_calls import OperatorCalls
from dox_core_store.client.protocol import url_segment

__all__ = ["TokenCalls"]


class TokenCalls(OperatorCalls):
    """Calls about tokens. `docs/roles.md` says which role each needs."""

    async def issue_token(
        self,
        service_name: str,
        expires_in: str = "90d",
        environment: str | None = None,
        *,
        addresses: Sequence[str] = (),
        key_thumbprint: str | None = None,
        reason: str | None = None,
    ) -> wire.TokenIssued:
        """A new service token, to be used from ``addresses`` (networks) alone if there are any, and
        only by who holds the key of ``key_thumbprint`` (RFC 7638).
        ``token.reveal()`` is its text; it is shown this once."""
        body = wire.TokenRequest(
            service_name=service_name,
            expires_in=expires_in,
            environment=environment,
            addresses=list(addresses),
            key_thumbprint=key_thumbprint,
            reason=reason,
        )
        return await self._call("POST", "/tokens", body, wire.TokenIssued)

    def list_tokens(
        self,
        service_name: str | None = None,
        *,
        expiring_within: str | None = None,
        unused_for: str | None = None,
        ended: bool = False,
    ) -> AsyncIterator[wire.Token]:
        """Issued tokens, those that expired only if ``ended``. With ``expiring_within`` or
        ``unused_for`` (``30d``) those that live, and soon will not or may not be needed."""
        return self._pages(
            "/v1/tokens",
            wire.Page[wire.Token],
            {
                "service_name": service_name,
                "expiring_within": expiring_within,
                "unused_for": unused_for,
                "ended": "true" if ended else None,
            },
        )

    async def describe_token(self, token_id: str) -> wire.Token:
        """One token by its id; never its text."""
        return await self._call("GET", f"/v1/tokens/{url_segment(token_id)}", None, wire.Token)

    async def revoke_token(self, token_id: str, reason: str | None = None) -> None:
        """End one token at once."""
        path = f"/v1/tokens/{url_segment(token_id)}/revoke"
        await self._command("POST", path, wire.ReasonRequest(reason=reason))

    async def rotate_signing_key(
        self, *, compromised: bool = False, kid: str | None = None, reason: str | None = None
    ) -> wire.SigningKeyRotated:
        """Sign tokens with a new key from now on. What the old one signed works until it expires;
        with ``compromised`` it is dead at once, the token of this call included."""
        body = wire.SigningKeyRotation(compromised=compromised, kid=kid, reason=reason)
        return await self._call("POST", "/v1/signing-keys/rotate", body, wire.SigningKeyRotated)

    def list_signing_keys(self) -> AsyncIterator[wire.SigningKey]:
        """The keys that sign or signed tokens, the newest first."""
        return self._pages("/v1/signing-keys", wire.Page[wire.SigningKey], {})
