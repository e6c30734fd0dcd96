"""The keys that issuers publish (OpenID Connect Discovery 1.0, RFC 7517), and signatures by them.

Discovery first, whose ``issuer`` must be the one asked for, byte for byte; then its ``jwks_uri``.
HTTPS only (HTTP to loopback), no redirects, no proxies, bounded in size and time as a whole. A key
counts if it is public, of a kind and strength that is known, and not for something else; a ``kid``
that means two keys of one kind means none.

When a key set is fetched: when there is none, or it is an hour old; and when a ``kid`` is unknown,
at most once a minute, however many come. It is refreshed after some minutes by whoever uses it
then, who does not wait for it. All callers of an issuer share one flight, which no caller's leaving
ends. So an issuer that is down costs its own callers some seconds, and who has keys at hand nothing
for an hour.

Which issuers are asked is not decided here: `usecases.exchange` names only what an admin entered.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from dox_core_store.errors import ConfigurationError, StoreUnavailableError
from dox_core_store.server.domain.subject_token import (
    ALGORITHMS,
    SubjectToken,
    invalid_subject_token,
    load_object,
)

__all__ = ["OidcKeys", "usable_keys"]

FETCH_SECONDS: Final = 4.0
"""Discovery and key set together: a caller's request ends a little later at the latest."""

UNKNOWN_KID_SECONDS: Final = 60.0
REFRESH_SECONDS: Final = 300.0
KEEP_SECONDS: Final = 3_600.0
RETRY_SECONDS: Final = 5.0
"""How soon an issuer of which there are no keys is asked again after it failed."""

_MAX_BYTES = 256 * 1024
_MAX_KEYS = 100
_RSA_BITS = range(2_048, 8_193)
_MAX_EXPONENT = 2**32
_LOOPBACK = re.compile(
    r"http://(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?/", re.ASCII
)
_URL = re.compile(r"https?://[\x21-\x7e]{1,1000}", re.ASCII)
_WELL_KNOWN = "/.well-known/openid-configuration"
_OK = 200

PublicKey = RSAKey | ECKey | OKPKey
Keys = Mapping[tuple[str, str], PublicKey | None]
"""By ``kid`` and kind; None where two keys claim to be the same one."""


class _Issuer:
    """What is known of one issuer."""

    def __init__(self) -> None:
        self.keys: Keys = {}
        self.fetched_at = float("-inf")
        self.tried_at = float("-inf")
        self.flight: asyncio.Task[bool] | None = None


class OidcKeys:
    """The `IssuerKeys` of `usecases.exchange`. Lives on the event loop; its connections are made at
    the first fetch. Raises ``bad_setting`` for an unusable ``ca_file``."""

    def __init__(self, *, ca_file: str, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._issuers: dict[str, _Issuer] = {}
        self._trust = _context(ca_file) if ca_file else None

    async def verify(self, token: SubjectToken, url: str) -> None:
        key = await self._key(url, token.kid, ALGORITHMS[token.algorithm])
        if key is None:
            raise invalid_subject_token("unknown or unusable kid")
        # Of header members that are not registered some issuers have one; ours were looked at.
        registry = jws.JWSRegistry(algorithms=[token.algorithm], strict_check_header=False)
        try:
            with warnings.catch_warnings():  # of EdDSA, whose name is no longer the one to use
                warnings.simplefilter("ignore", SecurityWarning)
                jws.deserialize_compact(token.raw, key, registry=registry)
        except (JoseError, TypeError, ValueError):
            raise invalid_subject_token("the signature is not that of its kid") from None

    async def _key(self, url: str, kid: str, kind: str) -> PublicKey | None:
        issuer = self._issuers.setdefault(url, _Issuer())
        age = self._monotonic() - issuer.fetched_at
        has_keys = age < KEEP_SECONDS
        if has_keys and (kid, kind) in issuer.keys:
            if age >= REFRESH_SECONDS and self._may_fetch(issuer, REFRESH_SECONDS):
                self._fly(issuer, url)
            return issuer.keys[kid, kind]
        wait = UNKNOWN_KID_SECONDS if has_keys else RETRY_SECONDS
        if issuer.flight is None and self._may_fetch(issuer, wait):
            self._fly(issuer, url)
        if issuer.flight is not None:
            await asyncio.shield(issuer.flight)
            has_keys = self._monotonic() - issuer.fetched_at < KEEP_SECONDS
        if not has_keys:
            raise StoreUnavailableError(
                "issuer_unreachable",
                "The issuer of this token does not show its keys.",
                retry_after_seconds=RETRY_SECONDS,
            )
        return issuer.keys.get((kid, kind))

    def _may_fetch(self, issuer: _Issuer, wait: float) -> bool:
        return self._monotonic() - issuer.tried_at >= wait

    def _fly(self, issuer: _Issuer, url: str) -> None:
        if issuer.flight is not None:
            return
        issuer.tried_at = self._monotonic()
        issuer.flight = asyncio.create_task(self._fetch(issuer, url))

    async def _fetch(self, issuer: _Issuer, url: str) -> bool:
        """Whether it went well: what does not, leaves the keys as they were."""
        try:
            trust = await self._authorities()
            async with asyncio.timeout(FETCH_SECONDS), _client(trust) as client:
                found = await _document(client, url.removesuffix("/") + _WELL_KNOWN)
                at = found.get("jwks_uri")
                if found.get("issuer") != url or not _is_safe(at, url):
                    return False
                keys = usable_keys(await _document(client, at))
        except Exception:  # noqa: BLE001 - whatever it is, it is the issuer's or the network's fault
            return False
        finally:
            issuer.flight = None
        issuer.keys, issuer.fetched_at = keys, self._monotonic()
        return True

    async def _authorities(self) -> ssl.SSLContext:
        if self._trust is None:  # in a thread: the system's take 85 ms, for which nobody waits
            self._trust = await asyncio.to_thread(httpx2.create_ssl_context, trust_env=False)
        return self._trust


def usable_keys(document: Mapping[str, Any]) -> Keys:
    """The keys of a JWK Set that may verify tokens. Others are left out, whatever is wrong.

    Raises ``ValueError`` for what is no key set, or one of too many keys.
    """
    rows = document.get("keys")
    if not isinstance(rows, list) or len(rows) > _MAX_KEYS:
        raise ValueError("no key set, or too large a one")
    keys: dict[tuple[str, str], PublicKey | None] = {}
    for row in rows:
        found = _usable(row) if isinstance(row, dict) else None
        if found is None:
            continue
        kid, kind, key = found
        known = keys.get((kid, kind), key)
        same = known is not None and known.thumbprint() == key.thumbprint()
        keys[kid, kind] = key if same else None
    return keys


def _usable(row: Mapping[str, Any]) -> tuple[str, str, PublicKey] | None:
    kid, use, operations = row.get("kid"), row.get("use", "sig"), row.get("key_ops", ["verify"])
    algorithm = row.get("alg")
    if not isinstance(kid, str) or use != "sig" or not isinstance(operations, list):
        return None
    if "verify" not in operations or not isinstance(algorithm, str | None):
        return None
    try:
        found = _imported(row)
    except (JoseError, UnsupportedAlgorithm, KeyError, TypeError, ValueError, OverflowError):
        return None
    if found is None or (algorithm is not None and ALGORITHMS.get(algorithm) != found[0]):
        return None
    return kid, *found


def _imported(row: Mapping[str, Any]) -> tuple[str, PublicKey] | None:
    """The public half, member by member: no private one, no foreign one is looked at."""
    kind = row.get("kty")
    if kind == "RSA":
        key = RSAKey.import_key({"kty": "RSA", "n": row["n"], "e": row["e"]})
        numbers = key.public_key.public_numbers()
        is_strong = numbers.n.bit_length() in _RSA_BITS
        is_usual = 3 <= numbers.e < _MAX_EXPONENT and numbers.e % 2 == 1  # noqa: PLR2004
        return ("RSA", key) if is_strong and is_usual else None
    curve = row.get("crv")
    if kind == "EC" and curve in ("P-256", "P-384", "P-521"):
        point = {"kty": "EC", "crv": str(curve), "x": row["x"], "y": row["y"]}
        return str(curve), ECKey.import_key(point)
    if kind == "OKP" and curve == "Ed25519":
        return "Ed25519", OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": row["x"]})
    return None


def _client(trust: ssl.SSLContext) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        verify=trust,
        trust_env=False,
        follow_redirects=False,
        timeout=FETCH_SECONDS,
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
    )


async def _document(client: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    async with client.stream("GET", url) as response:
        if response.status_code != _OK:
            raise ValueError("another status")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("compressed, which nobody asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise ValueError("too large")
    return load_object(bytes(body))


def _is_safe(url: object, issuer: str) -> TypeGuard[str]:
    """HTTPS; to loopback also HTTP, but not at the word of an issuer elsewhere."""
    if not isinstance(url, str) or _URL.fullmatch(url) is None or "@" in url:
        return False
    return url.startswith("https://") or bool(_LOOPBACK.match(url) and _LOOPBACK.match(issuer))


def _context(ca_file: str) -> ssl.SSLContext:
    problem = ""
    try:
        return ssl.create_default_context(cafile=str(Path(ca_file)))
    except OSError as error:
        problem = type(error).__name__
    raise ConfigurationError(
        "bad_setting", f"issuer_ca_file {ca_file} holds no usable certificates ({problem})."
    )
