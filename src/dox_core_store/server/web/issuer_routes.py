"""Routes on issuers and trusts, and the two that need no token: exchanging one, and signing in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.issuer import IssuerRecord, TrustRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.usecases.exchange import Exchange
from dox_core_store.server.usecases.issuer import Issuers, KnownIssuer
from dox_core_store.server.web.desk import Call, Reply, Route
from dox_core_store.server.web.key_routes import page_limit

__all__ = ["issuer_routes"]

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPE = "urn:ietf:params:oauth:token-type:"
_JWT, _ID_TOKEN, _ACCESS_TOKEN = f"{_TYPE}jwt", f"{_TYPE}id_token", f"{_TYPE}access_token"


def issuer_routes(*, issuers: Issuers, exchange: Exchange) -> list[Route]:
    """The rows for other people's tokens."""

    async def exchanged(call: Call) -> Reply:
        body: wire.TokenExchange = call.body
        if body.grant_type != GRANT_TYPE:
            raise InvalidRequestError(
                "invalid_field", f"grant_type is {GRANT_TYPE}.", error="unsupported_grant_type"
            )
        if body.requested_token_type not in (None, _ACCESS_TOKEN, _JWT):
            raise InvalidRequestError("invalid_field", f"requested_token_type is {_ACCESS_TOKEN}.")
        raw = body.subject_token.reveal()
        if body.subject_token_type == _JWT:
            issued = await exchange.for_service(call.caller, raw, body.service_name)
        elif body.subject_token_type == _ID_TOKEN and body.service_name is None:
            issued = await exchange.for_person(call.caller, raw)
        else:
            raise InvalidRequestError(
                "invalid_field",
                f"subject_token_type is {_JWT} for a service, {_ID_TOKEN} for a person.",
            )
        claims = issued.claims
        return Reply(
            wire.TokenExchanged(
                access_token=Sensitive(issued.token),
                issued_token_type=_ACCESS_TOKEN,
                token_type="Bearer",  # noqa: S106 - RFC 6750's name, not a secret
                expires_in=claims.expires_at - claims.issued_at,
                token_id=claims.token_id,
                name=claims.name,
                environment=claims.environment,
                expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            )
        )

    async def sign_in(_: Call) -> Reply:
        found = await issuers.for_people()
        items = [wire.SignIn(issuer=each.name, url=each.url, client_id=each.audience)
                 for each in found]  # fmt: skip
        return Reply(wire.Page(items=items))

    async def add(call: Call) -> Reply:
        body: wire.IssuerRequest = call.body
        record = await issuers.add(call.caller, body.name, body.url, body.audience, body.reason)
        return Reply(_issuer(KnownIssuer(record, [])))

    async def page(call: Call) -> Reply:
        size = page_limit(call)
        found = await issuers.page(call.caller, call.query.get("cursor"), size)
        more = found[-1].issuer.name if len(found) == size else None
        return Reply(wire.Page(items=[_issuer(each) for each in found], next_cursor=more))

    async def disable(call: Call) -> Reply:
        ended = await issuers.disable(call.caller, call.path["issuer"], call.body.reason)
        return Reply(wire.IssuerDisabled(issuer=call.path["issuer"], tokens_ended=ended))

    async def trust(call: Call) -> Reply:
        body: wire.TrustRequest = call.body
        record = await issuers.trust(
            call.caller,
            call.path["issuer"],
            kind=body.kind,
            name=body.name,
            claims=body.claims,
            roles=body.roles,
            environment=body.environment,
            max_lifetime=body.max_lifetime,
            reason=body.reason,
        )
        return Reply(_trust(record))

    async def untrust(call: Call) -> Reply:
        await issuers.untrust(call.caller, call.path["trust_id"], call.query.get("reason"))
        return Reply(None)

    one, pages = "/v1/issuers/{issuer:str}", ("cursor", "limit")
    return [
        Route("POST", "/v1/token/exchange", Action.ISSUE_TOKEN,
              "Exchange an issuer's token for one of this store (RFC 8693)", exchanged,
              body=wire.TokenExchange, answer=wire.TokenExchanged, is_open=True, is_form=True),
        Route("GET", "/v1/sign-in", Action.AUTHENTICATE, "By which issuers people sign in", sign_in,
              answer=wire.Page[wire.SignIn], is_open=True),
        Route("GET", "/v1/issuers", Action.LIST, "List issuers and what is trusted of them", page,
              answer=wire.Page[wire.Issuer], parameters=pages, is_read=True),
        Route("POST", "/v1/issuers", Action.ADD_ISSUER, "Add an issuer of other tokens", add,
              body=wire.IssuerRequest, answer=wire.Issuer, statuses=(201,)),
        Route("POST", f"{one}/disable", Action.DISABLE_ISSUER,
              "Take no more tokens of an issuer, and end those made of them", disable,
              body=wire.ReasonRequest, answer=wire.IssuerDisabled),
        Route("POST", f"{one}/trusts", Action.TRUST, "Say for whom an issuer's tokens stand", trust,
              body=wire.TrustRequest, answer=wire.Trust, statuses=(201,)),
        Route("DELETE", "/v1/trusts/{trust_id:str}", Action.UNTRUST, "Take a trust back", untrust,
              parameters=("reason",), statuses=(204,)),
    ]  # fmt: skip


def _issuer(known: KnownIssuer) -> wire.Issuer:
    record: IssuerRecord = known.issuer
    return wire.Issuer(
        name=record.name,
        url=record.url,
        audience=record.audience,
        status="active" if record.disabled_at is None else "disabled",
        created_at=record.created_at,
        created_by=record.created_by,
        trusts=[_trust(each) for each in known.trusts],
    )


def _trust(record: TrustRecord) -> wire.Trust:
    return wire.Trust(
        trust_id=record.trust_id,
        issuer=record.issuer,
        kind=record.kind,
        name=record.name,
        environment=record.environment,
        roles=[str(role) for role in record.roles],
        claims=record.claims,
        max_lifetime_seconds=record.max_seconds,
        created_at=record.created_at,
        created_by=record.created_by,
    )
