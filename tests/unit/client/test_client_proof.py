"""The service's key: where it comes from, and that the store's side takes its proofs."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from dox_core_store.client.proof import ServiceKey, service_key_from
from dox_core_store.errors import ConfigurationError


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> str:
    locked = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()


def test_without_a_key_there_is_none() -> None:
    assert service_key_from({}) is None


def test_a_key_comes_from_the_environment_on_one_line_too() -> None:
    text = pem(ec.generate_private_key(ec.SECP256R1()))
    plain = service_key_from({"SERVICE_KEY": text})
    folded = service_key_from({"SERVICE_KEY": text.replace("\n", "\\n")})
    assert plain is not None
    assert folded is not None
    assert plain.thumbprint == folded.thumbprint
    assert len(plain.thumbprint) == 43


def test_a_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "service.key"
    environ = {"SERVICE_KEY_FILE": str(file)}
    with pytest.raises(ConfigurationError, match="unreadable"):
        service_key_from(environ)
    made = service_key_from(environ, make=True)
    assert file.stat().st_mode & 0o777 == 0o600
    again = service_key_from(environ, make=True)
    assert made is not None
    assert again is not None
    assert made.thumbprint == again.thumbprint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_no_token_is_bound_to_a_key_that_others_reach_but_a_service_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    environ = {"SERVICE_KEY_FILE": str(tmp_path / "service.key")}
    service_key_from(environ, make=True)
    assert service_key_from(environ) is not None
    assert caplog.messages == []
    (tmp_path / "service.key").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"service\.key: `chmod 600` it"):
        service_key_from(environ, make=True)
    assert service_key_from(environ) is not None
    assert "`chmod 600` it" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "not a key",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(ec.generate_private_key(ec.SECP256R1()), b"locked"),
        pem(rsa.generate_private_key(65537, 2048)),
    ],
)
def test_what_is_no_such_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ServiceKey(text.encode())
    assert text not in str(caught.value)
    assert caught.value.__context__ is None


def test_its_text_shows_no_key() -> None:
    text = pem(ec.generate_private_key(ec.SECP256R1()))
    key = ServiceKey(text.encode())
    assert key.thumbprint in repr(key)
    assert text.splitlines()[1] not in repr(key)
