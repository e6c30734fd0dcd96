"""RS256 signatures on tokens, by joserfc.

What a token may look like and what its claims must say is `domain.token`; here is only the
cryptography between the two, and the keys. joserfc is handed nothing that `split_token` has not
let through, one algorithm, and a key that we chose by ``kid``: of its own leniencies (RFC 7515
allows much) none is in reach.

Storing, sealing, rotating and retiring keys is not done here: whoever builds a `TokenVerifier`
passes the keys that count, and builds another when they change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from msgspec.structs import replace

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.domain.token import (
    ALGORITHM,
    Claims,
    check_claims,
    invalid_token,
    split_token,
    to_header,
    to_payload,
)

__all__ = ["TokenSigner", "TokenVerifier", "generate_signing_key"]

_KEY_BITS: Final = 2048
"""NIST SP 800-57 part 1: 112 bits of strength, and the fastest to verify that is acceptable."""


def generate_signing_key() -> tuple[str, bytes, dict[str, str]]:
    """A new key: its ``kid`` (RFC 7638 thumbprint), the private half as unencrypted PKCS #8 PEM
    (to be sealed at once), the public half as a JWK.
    """
    key = RSAKey.generate_key(_KEY_BITS)
    kid = key.thumbprint()
    return kid, key.as_pem(private=True), _published(key, kid)


class TokenSigner:
    """Signs claims with one private key.

    Raises `ConfigurationError` ``store_damaged`` if ``private_pem`` is not the key named ``kid``.
    """

    def __init__(self, *, kid: str, private_pem: bytes) -> None:
        self.kid = kid
        self._key = _imported(kid, private_pem)
        if not self._key.is_private:
            raise _damaged(kid, "it has no private half")

    def sign(self, claims: Claims, store_id: str) -> str:
        """The token that says ``claims``.

        Raises `AuthenticationError` ``token_invalid`` for claims that no verifier would accept at
        the moment of issue (a bad name, too long a life): nothing is signed that never works.
        """
        header = to_header(claims, self.kid)
        payload = to_payload(claims, store_id)
        check_claims(payload, typ=header["typ"], store_id=store_id, now=claims.issued_at)
        body = json.dumps(payload, separators=(",", ":"))
        return jws.serialize_compact(header, body, self._key, algorithms=[ALGORITHM])


class TokenVerifier:
    """Verifies tokens of one store against a fixed set of public keys, by ``kid``.

    Of each JWK only the public members are ever read. Raises `ConfigurationError`
    ``store_damaged`` for a key that is not RSA, is too short, or is not the one its ``kid`` names.
    """

    def __init__(self, *, store_id: str, keys: Mapping[str, Mapping[str, str]]) -> None:
        self._store_id = store_id
        for kid, jwk in keys.items():
            if jwk.get("kty") != "RSA":  # joserfc would overwrite it
                raise _damaged(kid, "it is not an RSA key")
        self._keys = {kid: _imported(kid, _public(jwk)) for kid, jwk in keys.items()}

    def verify(self, raw: str, now: int) -> Claims:
        """The claims of ``raw``, at ``now`` (seconds since 1970).

        Raises `AuthenticationError` ``token_expired`` or ``token_invalid``, and nothing else.
        Whether the token, its service or its operator was revoked is the caller's to ask.
        """
        token = split_token(raw)
        key = self._keys.get(token.kid)
        if key is None:
            raise invalid_token("unknown kid")
        try:
            jws.deserialize_compact(raw, key, algorithms=[ALGORITHM])
        except (JoseError, TypeError, ValueError):
            raise invalid_token("the signature is not that of its kid") from None
        claims = check_claims(token.payload, typ=token.typ, store_id=self._store_id, now=now)
        return replace(claims, kid=token.kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWK Set (RFC 7517) for ``/.well-known/jwks.json``, in the order of ``keys``."""
        return {"keys": [_published(key, kid) for kid, key in self._keys.items()]}


def _imported(kid: str, source: bytes | dict[str, Any]) -> RSAKey:
    try:
        key = RSAKey.import_key(source)
        thumbprint = key.thumbprint()
    except (JoseError, UnsupportedAlgorithm, KeyError, TypeError, ValueError):
        raise _damaged(kid, "it is not an RSA key") from None
    if key.public_key.key_size < _KEY_BITS:
        raise _damaged(kid, f"it has fewer than {_KEY_BITS} bits")
    if thumbprint != kid:
        raise _damaged(kid, "its content is another key's")
    return key


def _public(jwk: Mapping[str, Any]) -> dict[str, str]:
    return {member: jwk[member] for member in ("kty", "n", "e") if member in jwk}


def _published(key: RSAKey, kid: str) -> dict[str, str]:
    """Member by member, so that nothing private or unforeseen can be published."""
    public = _public(key.as_dict(private=False))
    return {**public, "kid": kid, "use": "sig", "alg": ALGORITHM}


def _damaged(kid: str, why: str) -> ConfigurationError:
    return ConfigurationError("store_damaged", f"Signing key {kid!a} is unusable: {why}.")
