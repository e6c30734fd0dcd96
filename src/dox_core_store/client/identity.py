"""Where a service's platform says who it is, for a service that has no token of its own.

Two ways: a file that the platform writes and refreshes (a projected token of Kubernetes, a JWT-SVID
that a SPIFFE helper keeps), and GitHub Actions, which is asked for one. Either is read anew for
each exchange, and neither is verified here: that is the store's work.

A token that was given wins over both: `identity_from` is asked only where there is none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError, ConnectionFailedError
from dox_core_store.sensitive import Sensitive

__all__ = ["GitHubActions", "Identity", "IdentityFile", "identity_from"]

_MAX_CHARACTERS = 16 * 1024
_MAX_ANSWER_BYTES = 64 * 1024
_ASK_SECONDS = 10.0
_OK = 200
_REQUEST_URL = re.compile(
    r"(?:https://|http://(?:localhost|127\.[0-9.]+|\[::1\])[:/])[\x21-\x7e]+", re.ASCII
)
_FILE, _AUDIENCE = "SERVICE_IDENTITY_TOKEN_FILE", "SERVICE_IDENTITY_AUDIENCE"
_ASK_URL, _ASK_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


class Identity(Protocol):
    """The platform's word on who this process is."""

    async def token(self) -> Sensitive:
        """A token of the platform. Raises `ConfigurationError`, `ConnectionFailedError`."""


def identity_from(environ: Mapping[str, str], token: str | None) -> Identity | None:
    """What the environment says, where it says nothing of a token.

    Raises ``bad_setting`` for half of what GitHub Actions needs.
    """
    if token or environ.get("SERVICE_TOKEN") or environ.get("SERVICE_TOKEN_FILE"):
        return None
    if path := environ.get(_FILE):
        return IdentityFile(Path(path))
    if audience := environ.get(_AUDIENCE):
        url, bearer = environ.get(_ASK_URL), environ.get(_ASK_TOKEN)
        if not url or not bearer:
            raise ConfigurationError(
                "bad_setting",
                f"{_AUDIENCE} is for GitHub Actions, which sets {_ASK_URL} in a job with"
                " `permissions: id-token: write`.",
            )
        return GitHubActions(url, Sensitive(bearer), audience)
    return None


class IdentityFile:
    """A file with a token, which the platform replaces in time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> Sensitive:
        text = await asyncio.to_thread(self._read)
        if text is None:
            raise ConfigurationError(
                "bad_setting", f"{_FILE}: the file {self._path} holds no token now."
            )
        return text

    def _read(self) -> Sensitive | None:
        try:
            with self._path.open("rb") as file:
                text = file.read(_MAX_CHARACTERS + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None  # the caller raises: the decoding error would carry the bytes along
        return Sensitive(text) if 0 < len(text) <= _MAX_CHARACTERS else None


class _Answer(msgspec.Struct):
    value: Sensitive


class GitHubActions:
    """The OpenID provider of GitHub Actions, asked for a token with ``audience``."""

    def __init__(self, url: str, bearer: Sensitive, audience: str) -> None:
        if _REQUEST_URL.fullmatch(url) is None:
            raise ConfigurationError("bad_setting", f"{_ASK_URL} is an https:// URL.")
        self._url = f"{url}{'&' if '?' in url else '?'}audience={quote(audience, safe='')}"
        self._bearer = bearer

    async def token(self) -> Sensitive:
        raw: bytes | None = None
        try:
            raw = await self._ask()
        except Exception:  # noqa: BLE001 - total on purpose: an error of the library has the request
            raw = None
        answer = None if raw is None else _decoded(raw)
        if answer is None:
            raise ConnectionFailedError(
                "connection_failed", "GitHub Actions gave no token for this job."
            )
        return answer.value

    async def _ask(self) -> bytes | None:
        import httpx2  # noqa: PLC0415 - only here: a service that starts does not wait for it

        async with (
            asyncio.timeout(_ASK_SECONDS),
            httpx2.AsyncClient(
                trust_env=False, follow_redirects=False, timeout=_ASK_SECONDS
            ) as client,
            client.stream(
                "GET",
                self._url,
                headers={
                    "Authorization": f"Bearer {self._bearer.reveal()}",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    return None
            return bytes(body) if response.status_code == _OK else None


def _decoded(raw: bytes) -> _Answer | None:
    try:
        return wire.decode(_Answer, raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
