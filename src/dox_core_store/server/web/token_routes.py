"""Routes on tokens, and on the keys that sign them."""

from __future__ import annotations

from datetime import UTC, datetime

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Clock
from dox_core_store.server.usecases.signing_key import SigningKeyRing, SigningKeyState
from dox_core_store.server.usecases.token import ListedToken, Tokens
from dox_core_store.server.web.desk import Call, Reply, Route
from dox_core_store.server.web.key_routes import page_limit

__all__ = ["token_routes"]


def token_routes(
    *, tokens: Tokens, signing_keys: SigningKeyRing, default_environment: str, clock: Clock
) -> list[Route]:
    """The rows for what callers prove themselves with."""

    async def issue(call: Call) -> Reply:
        body: wire.TokenRequest = call.body
        issued = await tokens.issue(
            call.caller,
            body.service_name,
            expires_in=body.expires_in,
            environment=body.environment,
            addresses=body.addresses,
            key_thumbprint=body.key_thumbprint,
            reason=body.reason,
        )
        claims = issued.claims
        return Reply(
            wire.TokenIssued(
                token=Sensitive(issued.token),
                token_type="Bearer" if claims.key_thumbprint is None else "DPoP",
                token_id=claims.token_id,
                service_name=claims.name,
                environment=claims.environment or default_environment,
                expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
                addresses=[] if claims.addresses is None else list(claims.addresses.texts),
                key_thumbprint=claims.key_thumbprint,
            )
        )

    async def revoke(call: Call) -> Reply:
        await tokens.revoke(call.caller, call.path["token_id"], call.body.reason)
        return Reply(None)

    async def listing(call: Call) -> Reply:
        size, query = page_limit(call), call.query
        found = await tokens.page(
            call.caller,
            service_name=query.get("service_name"),
            expiring_within=query.get("expiring_within"),
            unused_for=query.get("unused_for"),
            ended=_flag(call, "ended"),
            after=query.get("cursor"),
            limit=size,
        )
        more = found[-1].row.token.token_id if len(found) == size else None
        return Reply(wire.Page(items=[_token(each) for each in found], next_cursor=more))

    async def one(call: Call) -> Reply:
        return Reply(_token(await tokens.one(call.caller, call.path["token_id"])))

    async def rotate(call: Call) -> Reply:
        body: wire.SigningKeyRotation = call.body
        done = await signing_keys.rotate(
            call.caller, compromised=body.compromised, kid=body.kid, reason=body.reason
        )
        return Reply(wire.SigningKeyRotated(**done._asdict()))

    async def list_signing_keys(call: Call) -> Reply:
        found, now = await signing_keys.all(call.caller), clock.now()
        return Reply(wire.Page(items=[_signing_key(each, now) for each in found]))

    token, issued_once = "/v1/tokens/{token_id:str}", "Issue a service token"
    return [
        Route("POST", "/v1/tokens", Action.ISSUE_TOKEN, issued_once, issue,
              body=wire.TokenRequest, answer=wire.TokenIssued, statuses=(201,)),
        Route("POST", "/tokens", Action.ISSUE_TOKEN, f"{issued_once} (the same)", issue,
              body=wire.TokenRequest, answer=wire.TokenIssued, statuses=(201,)),
        Route("GET", "/v1/tokens", Action.LIST, "List tokens that have not expired", listing,
              answer=wire.Page[wire.Token], is_read=True,
              parameters=("service_name", "expiring_within", "unused_for", "ended", "cursor",
                          "limit")),
        Route("GET", token, Action.LIST, "One token, never its text", one, answer=wire.Token,
              is_read=True),
        Route("POST", f"{token}/revoke", Action.REVOKE_TOKEN, "Kill one token at once", revoke,
              body=wire.ReasonRequest, statuses=(204,)),
        Route("GET", "/v1/signing-keys", Action.LIST, "List the keys that sign tokens",
              list_signing_keys, answer=wire.Page[wire.SigningKey], is_read=True),
        Route("POST", "/v1/signing-keys/rotate", Action.ROTATE_SIGNING_KEY,
              "Sign tokens with a new key from now on", rotate, body=wire.SigningKeyRotation,
              answer=wire.SigningKeyRotated),
    ]  # fmt: skip


def _token(listed: ListedToken) -> wire.Token:
    record, binding, last_used_at = listed.row
    return wire.Token(
        token_id=record.token_id,
        kind=record.kind,
        name=record.name,
        environment=record.environment,
        status=listed.status,
        issued_by=record.issued_by,
        issued_at=record.issued_at,
        expires_at=record.expires_at,
        revoked_at=record.revoked_at,
        last_used_at=last_used_at,
        addresses=[] if binding is None else binding.addresses,
        key_thumbprint=None if binding is None else binding.key_thumbprint,
        signing_key=listed.kid,
    )


def _signing_key(state: SigningKeyState, now: datetime) -> wire.SigningKey:
    record = state.record
    status = "signing"
    if record.compromised_at is not None:
        status = "compromised"
    elif state.verifies_until is not None:
        status = "retired" if state.verifies_until > now else "spent"
    return wire.SigningKey(
        kid=record.kid,
        status=status,
        created_at=record.created_at,
        retired_at=record.retired_at,
        compromised_at=record.compromised_at,
        verifies_until=state.verifies_until,
        live_tokens=state.live_tokens,
    )


def _flag(call: Call, name: str) -> bool:
    text = call.query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidRequestError("invalid_parameter", f"{name} takes true or false.")
    return text == "true"
