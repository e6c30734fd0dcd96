"""A KV engine in a real OpenBao that was set up for a store, and what people do there beside it.

The store's logins have exactly the policy that is printed, without the server's ``default`` one.
Root is only who sets up, looks, and changes things behind the store's back.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trustme
from tests.functional.real_servers import OpenBao

from dox_core_store.server.adapters.vaults.address import parse_vault
from dox_core_store.server.adapters.vaults.openbao import OpenBaoVault
from dox_core_store.server.adapters.vaults.openbao_connection import BaoConnection
from dox_core_store.server.adapters.vaults.openbao_policy import set_up
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import Home, Vault
from dox_core_store.testing.vault_conformance import about

__all__ = [
    "BaoSite",
    "BaoTools",
    "answering",
    "current_path",
    "dripping",
    "leases",
    "promoted",
    "reviewing",
    "silent",
    "tls_before",
]

TIMEOUT_SECONDS = 10.0
_ACCOUNT_UID = "0c3a8a0e-7f3b-4d1c-9a55-d6d1f2f2b0aa"


class BaoSite:
    """``mount`` and ``prefix`` in ``namespace`` (a path with a slash at its end, or empty)."""

    def __init__(
        self, bao: OpenBao, folder: Path, *, prefix: str = "dox/store", namespace: str = ""
    ) -> None:
        self.bao = bao
        self.folder = folder
        self.mount = f"kv-{secrets.token_hex(4)}"
        self.prefix = prefix
        self.namespace = namespace
        self.policy = f"store-{self.mount}"
        self.done = self.set_up()

    def set_up(self) -> list[str]:
        """What an administrator does once; root is who has the rights for it here."""
        connection = BaoConnection(origin=self.bao.url, namespace=self.namespace, ca_file="")
        with contextlib.closing(connection):
            return list(
                set_up(
                    connection,
                    token=self.bao.root_token,
                    mount=self.mount,
                    prefix=self.prefix,
                    policy_name=self.policy,
                    timeout_seconds=TIMEOUT_SECONDS,
                )
            )

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.bao.call(method, f"{self.namespace}{path}", body)

    def auth(self, kind: str) -> str:
        """The mount of a new way to log in."""
        mount = f"{kind}-{secrets.token_hex(4)}"
        self.call("POST", f"sys/auth/{mount}", {"type": kind})
        return mount

    def approle(self, **settings: Any) -> str:
        """Options of an address that logs in by a new role and secret id."""
        mount = self.auth("approle")
        self.call(
            "POST",
            f"auth/{mount}/role/store",
            {"token_policies": [self.policy], "token_no_default_policy": True, **settings},
        )
        role_id = self.call("GET", f"auth/{mount}/role/store/role-id")["data"]["role_id"]
        role_file = self.file("role-id", role_id)
        options = f"login=approle&auth_mount={mount}&role_id_file={role_file}"
        if not settings.get("bind_secret_id", True):
            return options
        return f"{options}&secret_id_file={self.file('secret-id', self.secret_id(mount))}"

    def secret_id(self, mount: str) -> str:
        made = self.call("POST", f"auth/{mount}/role/store/secret-id")
        return str(made["data"]["secret_id"])

    def token(self, **settings: Any) -> str:
        body = {"policies": [self.policy], "no_default_policy": True, **settings}
        return str(self.call("POST", "auth/token/create", body)["auth"]["client_token"])

    def file(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}-{secrets.token_hex(4)}"
        path.write_text(f"{text}\n", encoding="ascii")
        return path

    def vault(
        self, options: str, *, origin: str = "", timeout_seconds: float = TIMEOUT_SECONDS
    ) -> OpenBaoVault:
        within = f"&namespace={self.namespace.strip('/')}" if self.namespace else ""
        prefix = f"/{self.prefix}" if self.prefix else ""
        text = f"openbao+{origin or self.bao.url}/{self.mount}{prefix}?{options}{within}"
        return OpenBaoVault(address=parse_vault(text), timeout_seconds=timeout_seconds)

    def data(self, path: str, act: str = "data", **query: str) -> Any:
        """What the engine says at ``path`` below the prefix; None where it answers 404."""
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        try:
            return self.call("GET", f"{self.at(act, path)}?{asked}")["data"]
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None

    def at(self, act: str, path: str) -> str:
        return "/".join(each for each in (self.mount, act, self.prefix, path) if each)

    def waiting(self) -> list[str]:
        """Version ids of what waits for promotion."""
        try:
            return list(self.call("LIST", self.at("metadata", ".pending"))["data"]["keys"])
        except urllib.error.HTTPError as error:
            error.close()
            return []


class BaoTools:
    """`VaultTools` of the conformance suite."""

    def __init__(self, site: BaoSite) -> None:
        self.site = site

    def shows(self, binding: Binding) -> bytes | None:
        found = self.site.data(current_path(binding))
        return None if found is None else found["data"]["value"].encode()

    def change(self, binding: Binding, value: bytes) -> None:
        self.put(current_path(binding), {"value": value.decode()})

    def delete(self, binding: Binding) -> None:
        self.site.call("DELETE", self.site.at("data", current_path(binding)))

    def recreate(self, binding: Binding, value: bytes) -> None:
        self.site.call("DELETE", self.site.at("metadata", current_path(binding)))
        self.change(binding, value)

    def put(self, path: str, fields: Mapping[str, str]) -> None:
        self.site.call("POST", self.site.at("data", path), {"data": fields})

    def fields(self, path: str) -> Mapping[str, str]:
        return self.site.data(path)["data"]


def current_path(binding: Binding) -> str:
    return f"{binding.environment}/{binding.key_path.replace('.', '/')}"


def promoted(
    vault: Vault, binding: Binding, value: bytes, number: int, home: Home | None = None
) -> bytes:
    """The place of ``value`` as the current version."""
    stored = vault.store(binding, value, about(number, home))
    return vault.promote(binding, stored, about(number, home))


def leases(site: BaoSite, mount: str) -> int:
    """How many tokens of a login live."""
    accessors = site.call("LIST", "auth/token/accessors")["data"]["keys"]
    paths = []
    for accessor in accessors:
        with contextlib.suppress(OSError):  # it went meanwhile
            found = site.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})
            paths.append(found["data"]["path"])
    return paths.count(f"auth/{mount}/login")


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The address of what accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """The address of what answers at once, and then a byte ten times a second."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                client.sendall(b" ")
                time.sleep(0.1)

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                threading.Thread(target=drip, args=server.accept()[:1], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


@contextlib.contextmanager
def answering(answers: Sequence[tuple[int, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that gives ``answers``, the last one for ever; what it was asked."""
    left, asked = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            asked.append(f"{self.command} {self.path} from {self.client_address[1]}")
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_LIST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def tls_before(bao: OpenBao, context: ssl.SSLContext) -> Iterator[str]:
    """The address of a TLS listener that hands each connection on to ``bao``."""
    port = int(bao.url.rpartition(":")[2])
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                raw, _ = server.accept()
                with contextlib.suppress(OSError):  # who does not trust us hangs up
                    near = context.wrap_socket(raw, server_side=True)
                    far = socket.create_connection(("127.0.0.1", port))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


@contextlib.contextmanager
def reviewing(accepted: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The address and authority (PEM) of a stand-in for a cluster's TokenReview API: tokens in
    ``accepted`` are of a (namespace, service account)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            whose = accepted.get(review["spec"]["token"])
            status: dict[str, Any] = {"authenticated": whose is not None}
            if whose is not None:
                name = f"system:serviceaccount:{whose[0]}:{whose[1]}"
                groups = ["system:serviceaccounts", "system:authenticated"]
                status["audiences"] = review["spec"].get("audiences", [])
                status["user"] = {"username": name, "uid": _ACCOUNT_UID, "groups": groups}
            body = json.dumps({**review, "status": status}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_address[1]}"
        yield url, authority.cert_pem.bytes().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
