"""An issuer of tokens of the tests' own: a real HTTPS server that publishes what a test wants.

`Issuer` serves discovery and a key set on loopback under a certificate of its own authority, signs
whatever it is asked to sign, and counts who asks. What it serves, and how, a test may change.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import secrets
import ssl
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

__all__ = ["Document", "Issuer", "b64", "serving_issuer"]

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


class Document(NamedTuple):
    """What an address answers. ``slow_seconds`` pass before the first byte."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    slow_seconds: float = 0.0


class Served(NamedTuple):
    """What a server answers, and how often it was asked for each."""

    documents: dict[str, Document]
    asked: Counter[str]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """See the module. ``keys`` are those that it signs with, by ``kid``."""

    def __init__(self, url: str, ca_file: Path, served: Served | None = None) -> None:
        self.url = url
        self.path = urlsplit(url).path
        self.ca_file = ca_file
        self.audience = "https://keys.example.com"
        self.keys: dict[str, Any] = {
            "rsa": RSAKey.generate_key(2048),
            "ec": ECKey.generate_key("P-256"),
            "ed": OKPKey.generate_key("Ed25519"),
        }
        self.served = served or Served({}, Counter())
        self.documents, self.asked = self.served
        self.reset()

    def elsewhere(self) -> Issuer:
        """Another issuer on the same server, which nobody has asked yet."""
        return Issuer(f"{self.url}/{secrets.token_hex(4)}", self.ca_file, self.served)

    def reset(self) -> None:
        """Serve what a good issuer does, and count anew."""
        self.documents[self.path + DISCOVERY] = Document(
            {"issuer": self.url, "jwks_uri": self.url + KEYS}
        )
        self.documents[self.path + KEYS] = Document(
            {"keys": [self.public(kid) for kid in self.keys]}
        )
        self.asked.clear()

    def public(self, kid: str) -> dict[str, Any]:
        return {**self.keys[kid].as_dict(private=False), "kid": kid, "use": "sig"}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """What a good token of a workload says; None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "repo:acme/shop:ref:refs/heads/main",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        claims: Mapping[str, Any] | bytes | None = None,
        *,
        kid: str = "rsa",
        alg: str = "RS256",
        signed_with: Any = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """A token under a good signature, unless a test says otherwise."""
        payload = self.claims() if claims is None else claims
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        key = signed_with or self.keys[kid]
        head = {"alg": alg, "kid": kid, "typ": "JWT", **(header or {})}
        if alg == "RS256":  # by hand: a library's own refusals are not what is tested
            signed = f"{b64(json.dumps(head).encode())}.{b64(raw)}"
            return f"{signed}.{b64(_rs256(key, signed.encode()))}"
        with warnings.catch_warnings():  # of EdDSA, whose name is no longer the one to use
            warnings.simplefilter("ignore")
            return jws.serialize_compact(head, raw, key, algorithms=[alg])


def _rs256(key: Any, signed: bytes) -> bytes:
    signature: bytes = key.private_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return signature


@contextlib.contextmanager
def serving_issuer(folder: Path) -> Iterator[Issuer]:
    """A good issuer, until a test makes it a bad one."""
    authority = trustme.CA()
    ca_file = folder / "issuer-ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: issuer))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer = Issuer(f"https://127.0.0.1:{server.server_address[1]}", ca_file)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(issuer: Callable[[], Issuer]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer().asked[self.path] += 1
            said = issuer().documents.get(self.path, Document(status=404))
            time.sleep(said.slow_seconds)
            body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            with contextlib.suppress(OSError):  # who asked may have had enough
                self.send_response(said.status)
                for name, text in said.headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
