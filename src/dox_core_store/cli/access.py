"""`doxstore access`: who can read what, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import EnvironmentName, Json
from dox_core_store.cli.output import note, show_facts, show_json, show_table, when
from dox_core_store.cli.session import ask
from dox_core_store.errors import InvalidRequestError

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["ACCESS"]


def _checked(text: str) -> str:
    from dox_core_store.client.protocol import check_spelling

    try:
        return check_spelling(text)
    except InvalidRequestError as error:  # most likely a pattern
        raise typer.BadParameter(error.detail) from None


KeyPath = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="Path of the key; it may end in an environment.", callback=_checked
    ),
]


def explain(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Who would ask.")],
    key: KeyPath,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "-e",
            metavar="NAME",
            help="What its token is for. [default: what its live tokens are for, else the"
            " service's, else the store's]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a service gets a key's value now, why, and what would change it.

    Shows the steps of a read in the store's own order. The first that refuses decides; those
    behind it are judged too. No value is read and nothing is taken from a limit. Ends with 0
    whatever the answer is.
    """
    told = ask(lambda client: client.explain_access(service, key, environment))
    if as_json:
        show_json(told)
        return
    where = f"{told.key_path} in {told.environment}"
    if told.allowed:
        show_facts([("yes", f"{told.service_name} gets version {told.version} of {where}")])
    else:
        show_facts([("no", f"{told.service_name} does not get {where}: {told.code}")])
    _gap()
    decides = next((each for each in told.steps if each.code is not None), None)
    show_table(
        ("STEP", "", "WHY"),
        ((each.step, _outcome(each, decides), each.detail) for each in told.steps),
    )
    if told.grants:
        _gap()
        show_table(
            ("GRANT", "EFFECT", "PATTERN", "ENVIRONMENT", ""),
            (
                (each.grant_id, each.effect, each.pattern, each.environment, _place(at))
                for at, each in enumerate(told.grants)
            ),
        )
    if told.near_misses:
        _gap()
        show_table(
            ("NEARLY", "PATTERN", "ENVIRONMENT", "BUT"),
            (
                (each.grant_id, each.pattern, each.environment, each.why)
                for each in told.near_misses
            ),
        )
    if told.remedies:
        _gap()
        show_table(
            ("WHAT WOULD CHANGE IT", ""), ((each.command, each.effect) for each in told.remedies)
        )


def who_can(key: KeyPath, environment: EnvironmentName = None, as_json: Json = False) -> None:
    """List every service that may read a key, by which grant, and who is denied it.

    A key need not be there yet. Operators read values by their role, whatever the key.
    """
    found = ask(lambda client: client.who_can_read(key, environment))
    if as_json:
        show_json(found)
        return
    show_facts([("key", f"{found.key_path} in {found.environment}")])
    for title, readers in (("MAY READ", found.services), ("DENIED", found.denied)):
        if readers:
            _gap()
            show_table(
                (title, "BY", "PATTERN", "LIVE TOKENS", "LAST CALL"),
                (
                    (
                        each.service_name,
                        each.grant.grant_id,
                        each.grant.pattern,
                        each.live_tokens,
                        each.last_called_at,
                    )
                    for each in readers
                ),
            )
    if not found.services:
        note("No service may read it.")
    if found.operators:
        _gap()
        show_table(
            ("OPERATOR", "ROLES"),
            ((each.operator_name, ", ".join(each.roles)) for each in found.operators),
        )


def unused(
    *,
    days: Annotated[
        int, typer.Option(metavar="N", min=1, max=3_650, help="Without a call for so long.")
    ] = 90,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this service's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List grants that no call used for a time, with the command that takes each back.

    Refreshes of a client do not count as calls. Where several grants name a key, its calls count
    for each. Grants that are younger, or older than what is known of calls, are listed apart.
    A deny is never proposed.
    """
    since = datetime.now(UTC) - timedelta(days=days)

    async def listed(client: KeyService) -> tuple[list[wire.UnusedGrant], bool]:
        found = [each async for each in client.unused_grants(days, service)]
        young = {each.grant.grant_id for each in found if each.too_young}
        allows = [each async for each in client.list_grants(service) if each.effect == "allow"]
        return found, any(
            each.created_at <= since and each.grant_id not in young for each in allows
        )

    found, can_tell = ask(listed)
    if as_json:
        show_json(found)
        return
    found.sort(key=lambda each: (each.grant.service_name, each.grant.pattern))
    old = [each for each in found if not each.too_young]
    young = [each for each in found if each.too_young]
    if old:
        show_table(
            ("SERVICE", "PATTERN", "ENVIRONMENT", "TO TAKE IT BACK", "GRANTED"),
            (
                (
                    each.grant.service_name,
                    each.grant.pattern,
                    each.grant.environment,
                    each.command,
                    each.grant.created_at,
                )
                for each in old
            ),
        )
    elif can_tell:
        note(f"Every grant that is old enough was used by a call within {days} days.")
    else:
        note("No grant is old enough to tell.")
    if young:
        if old:
            _gap()
        show_table(
            ("TOO YOUNG TO TELL", "PATTERN", "ENVIRONMENT", "NO CALL SINCE"),
            (
                (
                    each.grant.service_name,
                    each.grant.pattern,
                    each.grant.environment,
                    when(each.since),
                )
                for each in young
            ),
        )


def _outcome(step: wire.AccessStep, decides: wire.AccessStep | None) -> str:
    if step.code is None:
        return "passes"
    return "refuses <-" if step is decides else "refuses"


def _place(at: int) -> str:
    return "decides" if at == 0 else ""


def _gap() -> None:
    typer.echo()


ACCESS = Group(
    "access",
    "Who can read what, and why.",
    (
        Command(
            "explain",
            explain,
            "doxstore access explain jules-mcp service_keys.jules_api.production",
            "permission `list keys`",
        ),
        Command(
            "who-can",
            who_can,
            "doxstore access who-can service_keys.jules_api --environment production",
            "permission `list keys`",
        ),
        Command(
            "unused",
            unused,
            "doxstore access unused --days 90 --service jules-mcp",
            "permission `list keys`",
        ),
    ),
)
