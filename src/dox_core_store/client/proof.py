"""`ServiceKey`: the key that a bound token was made for, and the proofs made with it (RFC 9449).

Where it is comes from ``SERVICE_KEY`` (PEM) or ``SERVICE_KEY_FILE``. The store never sees it: a
token is bound to its thumbprint (RFC 7638), and each request carries a proof that it signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dox_core_store.errors import ConfigurationError

__all__ = ["ServiceKey", "service_key_from"]

_log = logging.getLogger("dox_core_store.client")

_MAX_FILE_BYTES = 16_384
_COORDINATE_BYTES = 32
_SIGNED_WITH = ECDSA(SHA256())


class ServiceKey:
    """A private key on P-256. Raises ``bad_setting`` for a PEM that holds no such key."""

    def __init__(self, pem: bytes) -> None:
        try:
            key = load_pem_private_key(pem, None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            key = None  # raised below: the error of the library may quote what it read
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ConfigurationError(
                "bad_setting", "A service's key is an unencrypted PEM of a private key on P-256."
            )
        self._key = key
        numbers = key.public_key().public_numbers()
        x, y = (_text(each.to_bytes(_COORDINATE_BYTES)) for each in (numbers.x, numbers.y))
        jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        self.thumbprint = _text(hashlib.sha256(_json(jwk)).digest())
        """How a token names it."""
        self._header = _text(_json({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}))

    def __repr__(self) -> str:
        return f"ServiceKey(thumbprint={self.thumbprint!r})"

    def secret(self) -> bytes:
        """What only the service knows, to derive other keys from: its private number."""
        return self._key.private_numbers().private_value.to_bytes(_COORDINATE_BYTES)

    def proof(
        self, *, method: str, url: str, token: str, nonce: str | None, body: bytes | None, now: int
    ) -> str:
        """The ``DPoP`` header of one request at ``now`` (seconds since 1970)."""
        said: dict[str, str | int] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url.partition("?")[0],
            "iat": now,
            "ath": _text(hashlib.sha256(token.encode()).digest()),
        }
        if nonce is not None:
            said["nonce"] = nonce
        if body:
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            said["content_digest"] = f"sha-256=:{digest}:"
        signed = f"{self._header}.{_text(_json(said))}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), _SIGNED_WITH))
        raw = r.to_bytes(_COORDINATE_BYTES) + s.to_bytes(_COORDINATE_BYTES)
        return f"{signed}.{_text(raw)}"


def service_key_from(environ: Mapping[str, str], *, make: bool = False) -> ServiceKey | None:
    """The key that ``SERVICE_KEY`` holds or ``SERVICE_KEY_FILE`` names; None if neither is set.

    ``make``: a file that is not there is made, for its owner alone, and no token is to be bound to
    one that others can read; where there is such a token already, the service goes on with a
    warning. Raises ``bad_setting``.
    """
    if text := environ.get("SERVICE_KEY"):
        return ServiceKey(text.replace("\\n", "\n").encode())
    if not (named := environ.get("SERVICE_KEY_FILE")):
        return None
    path = Path(named)
    if make and not path.exists():
        _make(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read(_MAX_FILE_BYTES)
    except OSError:
        raise ConfigurationError(
            "bad_setting", f"The service's key file {path} is unreadable."
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        open_to_others = f"Others than its owner have access to the service's key file {path}"
        if make:
            raise ConfigurationError("bad_setting", f"{open_to_others}: `chmod 600` it.")
        _log.warning("%s: `chmod 600` it.", open_to_others)
    return ServiceKey(pem)


def _make(path: Path) -> None:
    pem = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(
            "bad_setting", f"The service's key file {path} cannot be made: {error.strerror}."
        ) from None


def _json(members: Mapping[str, object]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
