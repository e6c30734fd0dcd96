"""`doxstore issuer`: whose tokens the store takes in exchange for its own, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import Json, Reason
from dox_core_store.cli.output import show_facts, show_json, show_table
from dox_core_store.cli.session import ask

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["ISSUER"]

IssuerName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the issuer here.")]


def add(
    name: IssuerName,
    url: Annotated[
        str, typer.Option(metavar="URL", help="What its tokens say as `iss`, byte for byte.")
    ],
    audience: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What their `aud` must hold; where people sign in, the id of the client.",
        ),
    ],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Add an issuer of other tokens: an OpenID provider.

    By itself it is trusted with nothing: see `doxstore issuer trust`. One that was disabled comes
    back with the trusts it had.
    """
    _show(ask(lambda client: client.add_issuer(name, url, audience, reason)), as_json=as_json)


def list_issuers(as_json: Json = False) -> None:
    """List the issuers, and what is trusted of each."""

    async def listed(client: KeyService) -> list[wire.Issuer]:
        return [each async for each in client.list_issuers()]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    columns = ("ISSUER", "STATUS", "TRUST", "STANDS FOR", "CLAIMS", "AT MOST", "URL", "AUDIENCE")
    rows: list[tuple[object, ...]] = []
    for each in found:
        trusts = [_row(trust) for trust in each.trusts] or [("-",) * 4]
        rows += [(each.name, each.status, *row, each.url, each.audience) for row in trusts]
    show_table(columns, rows)


def disable(name: IssuerName, reason: Reason = None, as_json: Json = False) -> None:
    """Take no more tokens of an issuer, and end those that were made of them."""

    async def disabled(client: KeyService) -> tuple[bool, wire.IssuerDisabled]:
        known = [each async for each in client.list_issuers() if each.name == name]
        was_disabled = any(each.status == "disabled" for each in known)
        return was_disabled, await client.disable_issuer(name, reason)

    was_disabled, done = ask(disabled)
    if as_json:
        show_json(done)
        return
    already = " (it was disabled already)" if was_disabled else ""
    show_facts([("disabled", f"{done.issuer}{already}"), ("tokens ended", done.tokens_ended)])


def trust(  # noqa: PLR0917 - options
    name: IssuerName,
    claim: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="What a token must say, all of it; `sub` may end in `*`. A list matches if it"
            " holds the value. Repeatable.",
        ),
    ],
    service: Annotated[
        str | None, typer.Option(metavar="SERVICE", help="The service that it stands for.")
    ] = None,
    operators_by: Annotated[
        str | None,
        typer.Option(
            "--operators-by", metavar="CLAIM", help="People, who are called what this claim says."
        ),
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="What such people get; repeatable.")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "-e",
            metavar="NAME",
            help="Environment of the tokens. [default: the service's, else the store's]",
        ),
    ] = None,
    most: Annotated[
        str | None,
        typer.Option("--max", metavar="DURATION", help="Life of a token: 1h at most, people 12h."),
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Say for whom a token of an issuer stands: one service, or people with roles.

    A workload's token has to fit exactly one trust; a person has the roles of all that fit.
    """
    if (service is None) == (operators_by is None):
        raise typer.BadParameter("Say --service SERVICE, or --operators-by CLAIM and --role.")
    claims = dict(_pair(each) for each in claim)
    if len(claims) != len(claim):
        raise typer.BadParameter("A claim is named twice.")
    made = ask(
        lambda client: client.trust_issuer(
            name,
            "operator" if service is None else "service",
            service or operators_by or "",
            claims,
            roles=role or [],
            environment=environment,
            max_lifetime=most,
            reason=reason,
        )
    )
    if as_json:
        show_json(made)
        return
    show_facts(zip(("trust", "stands for", "claims", "at most"), _row(made), strict=True))


def untrust(
    trust_id: Annotated[str, typer.Argument(metavar="TRUST", help="Id, as lists show it.")],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Take a trust back. Tokens that it gave live on until they expire."""
    ask(lambda client: client.untrust(trust_id, reason))
    if as_json:
        show_json({"untrusted": trust_id})
        return
    show_facts([("untrusted", trust_id)])


def _pair(text: str) -> tuple[str, str]:
    claim, equals, value = text.partition("=")
    if not claim or not equals or not value:
        raise typer.BadParameter("A claim is written NAME=VALUE.")
    return claim, value


def _row(trust: wire.Trust) -> tuple[str, str, str, str]:
    if trust.kind == "service":
        whom = trust.name if trust.environment is None else f"{trust.name} in {trust.environment}"
    else:
        whom = f"people by {trust.name} as {', '.join(trust.roles)}"
    claims = ", ".join(f"{claim}={value}" for claim, value in trust.claims.items())
    return trust.trust_id, whom, claims, _duration(trust.max_lifetime_seconds)


def _duration(seconds: int) -> str:
    unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (1, "s")) if seconds % u == 0)
    return f"{seconds // unit} {name}"


def _show(issuer: wire.Issuer, *, as_json: bool) -> None:
    if as_json:
        show_json(issuer)
        return
    show_facts(
        [
            ("issuer", issuer.name),
            ("url", issuer.url),
            ("audience", issuer.audience),
            ("status", issuer.status),
        ]
    )


_NEEDS = "permission `manage issuers`"

ISSUER = Group(
    "issuer",
    "Issuers of other tokens (OpenID providers): workloads and people who sign in.",
    (
        Command(
            "add",
            add,
            "doxstore issuer add github --url https://token.actions.githubusercontent.com \\\n"
            "  --audience https://keys.example.com",
            _NEEDS,
        ),
        Command("list", list_issuers, "doxstore issuer list", "permission `list keys`"),
        Command(
            "disable",
            disable,
            "doxstore issuer disable github --reason 'not used'",
            f"{_NEEDS}, and `list keys`",
        ),
        Command(
            "trust",
            trust,
            "doxstore issuer trust github --service deploy \\\n"
            "  --claim sub=repo:acme/shop:environment:production --max 15m",
            f"{_NEEDS}, and `issue tokens` for a service",
        ),
        Command("untrust", untrust, "doxstore issuer untrust tru_0123456789abcdef", _NEEDS),
    ),
)
