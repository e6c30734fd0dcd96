"""`SignIn`: a person signs in by an issuer's browser page, and gets an operator's token for it.

OpenID Connect's authorization code flow with PKCE (RFC 7636, S256) as a native application (RFC
8252): a public client, a redirect to a port on loopback, ``state`` and ``nonce`` made for one
attempt. The ID token comes from the issuer's token endpoint over TLS; its ``nonce`` is checked
here, and everything else by the store, which verifies the signature and decides who it is.

Opening a browser and waiting for its return is not done here: `doxstore login` does it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import ssl
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from dox_core_store import wire
from dox_core_store.client.endpoint import Endpoint, endpoint_from
from dox_core_store.client.exchanged import to_exchange
from dox_core_store.client.protocol import Call, read_answer
from dox_core_store.errors import ConfigurationError
from dox_core_store.sensitive import Sensitive

__all__ = ["Attempt", "SignIn"]

T = TypeVar("T")

REDIRECT_PATH: Final = "/callback"
_SCOPE = "openid profile email groups"
_WELL_KNOWN = "/.well-known/openid-configuration"
_FETCH_SECONDS = 15.0
_MAX_BYTES = 256 * 1024
_OK = 200


class Attempt(NamedTuple):
    """One try: where the browser goes, and what must come back."""

    authorize_url: str
    state: str
    nonce: str
    verifier: Sensitive
    redirect_uri: str
    token_endpoint: str


class _Provider(msgspec.Struct):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    scopes_supported: list[str] = []


class _Tokens(msgspec.Struct):
    id_token: Sensitive


class _Nonce(msgspec.Struct):
    nonce: str = ""


class SignIn:
    """By ``by`` (of `issuers`), at the store of ``KEY_SERVICE_URL``. ``ca_file``: authorities that
    vouch for the issuer, where the system's do not; ``client_id``, where it is not the issuer's
    audience."""

    def __init__(
        self, by: wire.SignIn, *, client_id: str | None = None, ca_file: str | Path | None = None
    ) -> None:
        self._by = by
        self._client_id = client_id or by.client_id
        self._ca_file = ca_file

    @classmethod
    async def issuers(cls) -> list[wire.SignIn]:
        """By whom people may sign in at this store."""
        call = Call(method="GET", path="/v1/sign-in", repeatable=True)
        return (await _store(call, wire.Page[wire.SignIn])).items

    async def begin(self, port: int) -> Attempt:
        """A new attempt, with its redirect to ``port`` on 127.0.0.1."""
        found = _decoded(_Provider, await self._fetch(self._by.url.removesuffix("/") + _WELL_KNOWN))
        if found is None or found.issuer != self._by.url:
            raise _failed(f"{self._by.url} does not say that it is this issuer")
        for url in (found.authorization_endpoint, found.token_endpoint):
            _check_url(url)
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        state, nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        redirect_uri = f"http://127.0.0.1:{port}{REDIRECT_PATH}"
        wanted = _SCOPE.split()
        scopes = [each for each in wanted if each in found.scopes_supported] or wanted[:1]
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(dict.fromkeys(["openid", *scopes])),
                "state": state,
                "nonce": nonce,
                "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
            }
        )
        joint = "&" if "?" in found.authorization_endpoint else "?"
        return Attempt(
            authorize_url=f"{found.authorization_endpoint}{joint}{query}",
            state=state,
            nonce=nonce,
            verifier=Sensitive(verifier),
            redirect_uri=redirect_uri,
            token_endpoint=found.token_endpoint,
        )

    async def finish(self, attempt: Attempt, target: str) -> wire.TokenExchanged:
        """The operator's token, for what the browser brought back: the path and query of its
        request. Raises ``sign_in_failed``, and whatever the store refuses with."""
        id_token = await self._id_token(attempt, self._code(attempt, target))
        call = to_exchange(id_token.reveal(), "id_token")
        return await _store(call, wire.TokenExchanged)

    def _code(self, attempt: Attempt, target: str) -> str:
        parts = urlsplit(target)
        fields = parse_qs(parts.query, keep_blank_values=True, max_num_fields=20)
        said = {name: values[0] for name, values in fields.items() if len(values) == 1}
        state = said.get("state", "")
        if not hmac.compare_digest(state.encode(), attempt.state.encode()):
            raise _failed("the answer is to another attempt")
        if said.get("iss", self._by.url) != self._by.url:  # RFC 9207: another issuer's answer
            raise _failed("another issuer answered")
        if "error" in said:
            raise _failed(f"the issuer said {ascii(said['error'])[:80]}")
        if not said.get("code"):
            raise _failed("the answer brings no code")
        return said["code"]

    async def _id_token(self, attempt: Attempt, code: str) -> Sensitive:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": attempt.redirect_uri,
            "client_id": self._client_id,
            "code_verifier": attempt.verifier.reveal(),
        }
        tokens = _decoded(_Tokens, await self._fetch(attempt.token_endpoint, fields))
        if tokens is None:
            raise _failed("the issuer gave no ID token")
        payload = tokens.id_token.reveal().split(".")[1:2]
        nonce = _decoded(_Nonce, _unpadded(payload[0] if payload else ""))
        if nonce is None or not hmac.compare_digest(nonce.nonce.encode(), attempt.nonce.encode()):
            raise _failed("the ID token is of another attempt")
        return tokens.id_token

    async def _fetch(self, url: str, fields: dict[str, str] | None = None) -> bytes:
        """What is answered. Nothing of the library's errors leaves here: they hold the request."""
        found: bytes | None = None
        try:
            found = await self._fetched(url, fields)
        except Exception:  # noqa: BLE001 - total on purpose
            found = None
        if found is None:
            raise _failed(f"{urlsplit(url).hostname} does not answer as it should")
        return found

    async def _fetched(self, url: str, fields: dict[str, str] | None) -> bytes | None:
        import httpx2  # noqa: PLC0415 - only here: most commands need none of it

        verify: ssl.SSLContext | bool = True
        if self._ca_file is not None:
            verify = ssl.create_default_context(cafile=str(self._ca_file))
        method = "GET" if fields is None else "POST"
        async with (
            asyncio.timeout(_FETCH_SECONDS),
            httpx2.AsyncClient(
                verify=verify, trust_env=False, follow_redirects=False, timeout=_FETCH_SECONDS
            ) as client,
            client.stream(
                method, url, data=fields, headers={"Accept": "application/json"}
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    return None
            return bytes(body) if response.status_code == _OK else None


async def _store(call: Call, kind: type[T]) -> T:
    """One call to the store that needs no token."""
    from dox_core_store.client.transport import HttpTransport  # noqa: PLC0415 - as above

    endpoint: Endpoint = endpoint_from(os.environ)
    transport = HttpTransport(endpoint)
    try:
        reply = await transport.send(call, token=None, timeout_seconds=endpoint.timeout_seconds)
    finally:
        await transport.aclose()
    return read_answer(kind, reply, store_id=None)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise _failed("the issuer's addresses are not https://")


def _unpadded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return b""


def _decoded(kind: type[T], raw: bytes) -> T | None:
    try:
        return wire.decode(kind, raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _failed(why: str) -> ConfigurationError:
    return ConfigurationError("sign_in_failed", f"Signing in did not work: {why}.")
