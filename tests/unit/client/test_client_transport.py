"""What leaves the transport: our errors only, and no secret in any of them."""

from __future__ import annotations

import asyncio
import gzip
import logging
import ssl
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpcore2
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scripted_store import Response, ScriptedStore, token

from dox_core_store import ConnectionFailedError, DoxStoreError, KeyClient, KeyService
from dox_core_store.client.endpoint import endpoint_from
from dox_core_store.client.protocol import Call
from dox_core_store.client.transport import HttpTransport, failure_of
from dox_core_store.sensitive import Sensitive

JULES = "service_keys.jules_api"
CANARY = "canary-5d1e"


def _exceptions_of(module: object) -> list[type[Exception]]:
    found = [getattr(module, name) for name in dir(module)]
    return sorted(
        {one for one in found if isinstance(one, type) and issubclass(one, Exception)},
        key=lambda kind: kind.__name__,
    )


FOREIGN = [*_exceptions_of(httpx2), *_exceptions_of(httpcore2), OSError, ssl.SSLError, TimeoutError]


def _raised(kind: type[Exception]) -> Exception:
    """An instance of ``kind`` that carries what it must not pass on."""
    error = kind.__new__(kind, CANARY)
    error.args = (CANARY,)
    if isinstance(error, httpx2.HTTPError):
        headers = {"Authorization": f"Bearer {CANARY}"}
        error.request = httpx2.Request("GET", "https://keys.example", headers=headers)
    return error


def _variables_of_ours(error: BaseException) -> str:
    """What a traceback with variables shows of this package's frames."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    ours = [frame for frame in stack if "dox_core_store" in frame.filename]
    assert ours
    return "\n".join(f"{frame.name}: {frame.locals}" for frame in ours)


class _Breaking(httpx2.AsyncBaseTransport):
    """A network that fails in one chosen way, below the real library's client."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise self._error


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_foreign_error_becomes_ours(kind: type[Exception]) -> None:
    async def scenario() -> None:
        transport = HttpTransport(endpoint_from({}, url="https://keys.example"))
        transport._client._transport = _Breaking(_raised(kind))  # the network below it
        await transport.send(
            Call(method="GET", path="/v1/health"), token=Sensitive(CANARY), timeout_seconds=5
        )

    with pytest.raises(ConnectionFailedError) as failed:
        asyncio.run(scenario())
    error = failed.value
    assert error.code == "connection_failed"
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "https://keys.example" in str(error)
    assert CANARY not in str(error) + _variables_of_ours(error)


def test_the_reason_is_the_systems_own() -> None:
    refused = httpx2.ConnectError(CANARY)
    refused.__cause__ = ConnectionRefusedError(111, "Connection refused")
    text = str(failure_of(refused, url="https://keys.example"))
    assert "could not connect: Connection refused (ConnectError)" in text
    assert CANARY not in text


def test_a_closed_port_is_one_clear_error() -> None:
    with ScriptedStore() as gone:
        url = gone.url
    with pytest.raises(ConnectionFailedError, match="could not connect") as failed:
        asyncio.run(KeyClient("jules-mcp", token(), url).get_key(JULES))
    assert failed.value.code == "connection_failed"


@pytest.mark.parametrize(
    "reply",
    [
        Response(404, b"<html>nothing here</html>", "text/html"),
        Response(200, b"<html>please sign in</html>", "text/html"),
        Response(200, {"unexpected": CANARY}),
        Response(200, b'{"value": "canary-5d1e"', "application/json"),
        Response(200, b"\xff\xfe"),
        Response(403, {"code": "not_authorized"}, "application/json"),
        Response(500, {"title": CANARY}, "application/problem+json"),
        Response(
            200, gzip.compress(b"{}", mtime=0), "application/json", {"Content-Encoding": "gzip"}
        ),
        Response(301, b"", "text/html", {"Location": "https://evil.example/"}),
        Response(204, b"", ""),
    ],
    ids=lambda reply: (
        f"{reply.status} {reply.content_type} {reply.body[:12]!r}"
        if isinstance(reply.body, bytes)
        else f"{reply.status} {reply.content_type}"
    ),
)
def test_what_is_not_the_stores_answer_counts_for_nothing(
    store: ScriptedStore, client: KeyClient, reply: Response
) -> None:
    store.then(reply)
    with pytest.raises(ConnectionFailedError) as refused:
        asyncio.run(client.get_key(JULES))
    assert refused.value.code == "not_the_store"
    assert refused.value.__cause__ is None
    assert CANARY not in str(refused.value)
    assert CANARY not in _variables_of_ours(refused.value)


def test_no_frame_of_ours_shows_an_answer_that_was_refused(store: ScriptedStore) -> None:
    service = KeyService(store.url, token("operator:alice"))
    store.then(Response(200, {"value": CANARY}))
    with pytest.raises(ConnectionFailedError) as refused:
        asyncio.run(service.get_key("a.b"))
    assert CANARY not in _variables_of_ours(refused.value)


@pytest.mark.parametrize(
    "changed",
    [{"store_id": "st_another"}, {"store_id": ""}, {"status": 410}, {"code": ""}],
    ids=["another store", "no store", "another status", "no code"],
)
def test_a_problem_counts_only_from_the_store_that_issued_the_token(
    store: ScriptedStore, client: KeyClient, changed: dict[str, object]
) -> None:
    body = {**store.problem_body(404, "key_not_found"), **changed}
    store.then(Response(404, body, "application/problem+json"))
    with pytest.raises(ConnectionFailedError) as refused:
        asyncio.run(client.get_key(JULES))
    assert refused.value.code == "not_the_store"


def test_a_code_of_a_later_release_is_passed_on(store: ScriptedStore, client: KeyClient) -> None:
    store.then(store.problem(410, "a_new_code"))
    with pytest.raises(DoxStoreError) as gone:
        asyncio.run(client.get_key(JULES))
    assert (type(gone.value).__name__, gone.value.code) == ("GoneError", "a_new_code")


def test_no_frame_of_ours_holds_a_value_or_token_when_a_write_fails(store: ScriptedStore) -> None:
    text = token("operator:alice")
    service = KeyService(store.url, text)
    store.then(store.problem(413, "value_too_large"))
    with pytest.raises(DoxStoreError) as failed:
        asyncio.run(service.store_key("a.b", CANARY))
    shown = _variables_of_ours(failed.value)
    assert CANARY not in shown
    assert text not in shown


def test_the_environments_proxy_is_not_asked(
    store: ScriptedStore, client: KeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedStore() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert asyncio.run(client.get_key(JULES)).source == "service"
        assert proxy.connections == 0
    assert len(store.requests) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for ``localhost``: the file to trust, and the server's side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    trusted, private = folder / "ca.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return trusted, context


def test_a_private_authority_is_trusted_when_named_and_only_then(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, context = certificate
    with ScriptedStore(tls=context) as store:
        store.values[JULES, "production"] = (1, "over TLS")
        with pytest.raises(ConnectionFailedError, match=r"TLS: self.signed certificate"):
            asyncio.run(KeyClient("jules-mcp", token(), store.url).get_key(JULES))
        elsewhere = store.url.replace("localhost", "127.0.0.1")
        misnamed = KeyClient("jules-mcp", token(), elsewhere, ca_file=trusted)
        with pytest.raises(ConnectionFailedError, match="TLS: IP address mismatch"):
            asyncio.run(misnamed.get_key(JULES))
        assert store.requests == []
        monkeypatch.setenv("KEY_SERVICE_CA_FILE", str(trusted))
        client = KeyClient("jules-mcp", token(), store.url)
        assert asyncio.run(client.get_key(JULES)).value == "over TLS"


def test_calls_to_the_store_are_not_noted_in_the_services_log(
    store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What else the process asks by the same library is."""
    caplog.set_level(logging.INFO)
    asyncio.run(KeyClient("jules-mcp", token(), store.url, follow=False).get_key(JULES))
    assert [each for each in caplog.records if each.name == "httpx2"] == []
    with ScriptedStore() as other:
        httpx2.get(f"{other.url}/elsewhere")
        assert [each.name for each in caplog.records if each.name == "httpx2"] == ["httpx2"]
