"""`doxstore login` and `logout`: a person signs in by the company's own page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import webbrowser
from typing import Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import note, show_facts, show_json
from dox_core_store.cli.signed_in import SignedIn, forget, keep, kept
from dox_core_store.errors import AuthenticationError, ConfigurationError

__all__ = ["LOGIN", "LOGOUT"]

_WAIT_SECONDS = 300.0
_READ_SECONDS = 5.0
_MAX_REQUEST_BYTES = 16 * 1024
_PAGE = b"You are signed in, or will be told in the terminal why not. This page can be closed.\n"


def login(
    issuer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Issuer, where there is more than one.")
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address instead of opening it.")
    ] = False,
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port on loopback that the browser comes back to.")
    ] = 0,
    client_id: Annotated[
        str | None,
        typer.Option(
            "--client-id", metavar="ID", help="Client, where it is not the issuer's audience."
        ),
    ] = None,
    issuer_ca_file: Annotated[
        str | None,
        typer.Option("--issuer-ca-file", metavar="FILE", help="Authorities that vouch for it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign in by an issuer of the store, for 12 hours at most.

    The token is kept for this user and this store, and used where ADMIN_TOKEN is not set. Roles
    come from the groups that the issuer names: see `doxstore issuer trust`.
    """
    done = asyncio.run(
        _login(issuer, no_browser=no_browser, port=port, client_id=client_id, ca=issuer_ca_file)
    )
    signed_in = SignedIn(_url(), done.name, done.token_id, done.access_token, done.expires_at)
    keep(signed_in)
    if as_json:
        show_json({"operator": done.name, "expires_at": done.expires_at})
        return
    show_facts([("signed in as", done.name), ("until", done.expires_at)])


def logout(as_json: Json = False) -> None:
    """Sign out: the token dies at once, and its file is removed."""
    from dox_core_store.client import KeyService

    signed_in = kept(_url())
    forget(_url())
    if signed_in is not None:

        async def revoke() -> None:
            async with KeyService(token=signed_in.token.reveal()) as service:
                await service.revoke_token(signed_in.token_id, "signed out")

        with contextlib.suppress(AuthenticationError):  # it is dead already
            asyncio.run(revoke())
    name = None if signed_in is None else signed_in.operator
    if as_json:
        show_json({"signed_out": name})
        return
    show_facts([("signed out", name or "nobody was signed in")])


async def _login(
    name: str | None, *, no_browser: bool, port: int, client_id: str | None, ca: str | None
) -> wire.TokenExchanged:
    from dox_core_store.client.sign_in import SignIn

    found = [each for each in await SignIn.issuers() if name in (None, each.issuer)]
    if len(found) != 1:
        names = ", ".join(each.issuer for each in found)
        none = "no issuer for people" + ("" if name is None else f" is called {name!a}")
        why = (
            f"say which with --issuer: {names}" if found else f"{none}; see `doxstore issuer trust`"
        )
        raise ConfigurationError("sign_in_failed", f"Signing in did not work: {why}.")
    sign_in = SignIn(found[0], client_id=client_id, ca_file=ca)
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    state: list[str] = []

    async def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = await _request_target(reader)
        # Only the answer to this attempt counts: whoever else knocks cannot end it.
        is_ours = target is not None and bool(state) and f"state={state[0]}" in target
        writer.write(_response(is_ours=is_ours))
        await writer.drain()
        writer.close()
        if is_ours and target is not None and not answered.done():
            answered.set_result(target)

    server = await asyncio.start_server(heard, "127.0.0.1", port, limit=_MAX_REQUEST_BYTES)
    async with server:
        attempt = await sign_in.begin(server.sockets[0].getsockname()[1])
        state.append(attempt.state)
        # In a thread: some browsers are started by a program that stays.
        opened = not no_browser and await asyncio.to_thread(webbrowser.open, attempt.authorize_url)
        note("Waiting for the browser." if opened else "Open this address in a browser:")
        if not opened:
            sys.stderr.write(f"{attempt.authorize_url}\n")
            sys.stderr.flush()
        try:
            target = await asyncio.wait_for(answered, _WAIT_SECONDS)
        except TimeoutError:
            raise ConfigurationError(
                "sign_in_failed", "Signing in did not work: the browser did not come back."
            ) from None
    return await sign_in.finish(attempt, target)


async def _request_target(reader: asyncio.StreamReader) -> str | None:
    try:
        async with asyncio.timeout(_READ_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return None
    parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    is_get = len(parts) == 3 and parts[0] == "GET" and parts[1].startswith("/callback?")  # noqa: PLR2004
    return parts[1] if is_get else None


def _response(*, is_ours: bool) -> bytes:
    status, body = (b"200 OK", _PAGE) if is_ours else (b"404 Not Found", b"")
    return (
        b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n%b"
        % (status, len(body), body)
    )


def _url() -> str:
    from dox_core_store.client.endpoint import endpoint_from

    return endpoint_from(os.environ).url


LOGIN = Command("login", login, "doxstore login", "a trust in people of an issuer")
LOGOUT = Command("logout", logout, "doxstore logout", "nothing")
