"""Which vault: its address as settings and commands name it, and the name that the catalog keeps.

::

    openbao+https://HOST:PORT/MOUNT/PREFIX?login=approle&role_id_file=…&secret_id_file=…
    vault+https://…                      the same for HashiCorp Vault
    aws://REGION/PREFIX?role_arn=…

An address never holds a secret: how to log in is said by the names of files. The name is what is
left without that: it stands in every version whose value lies there, so it has to stay the same
when a login changes. Unknown options are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from dox_core_store.errors import ConfigurationError

__all__ = ["Login", "VaultAddress", "VaultKind", "parse_vault"]


class VaultKind(StrEnum):
    OPENBAO = "openbao"
    """OpenBao's or HashiCorp Vault's KV engine, version 2."""
    AWS = "aws"
    """AWS Secrets Manager."""


class Login(StrEnum):
    """How to log in to OpenBao."""

    TOKEN = "token"  # noqa: S105 - the name of a method
    APPROLE = "approle"
    KUBERNETES = "kubernetes"
    JWT = "jwt"


_SCHEMES = {
    "openbao+https": (VaultKind.OPENBAO, "https"),
    "openbao+http": (VaultKind.OPENBAO, "http"),
    "vault+https": (VaultKind.OPENBAO, "https"),
    "vault+http": (VaultKind.OPENBAO, "http"),
    "aws": (VaultKind.AWS, ""),
}
_OPTIONS: Mapping[VaultKind, frozenset[str]] = {
    VaultKind.OPENBAO: frozenset(
        {
            "login",
            "auth_mount",
            "role",
            "token_file",
            "role_id_file",
            "secret_id_file",
            "jwt_file",
            "namespace",
            "ca_file",
        }
    ),
    VaultKind.AWS: frozenset({"endpoint", "kms_key", "role_arn", "recovery_days"}),
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,127}", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*/?", re.ASCII)


class VaultAddress(NamedTuple):
    """A parsed address. ``origin`` is scheme, host and port of OpenBao, else empty; ``mount`` is of
    its engine; ``prefix`` has no slash at either end and may be empty."""

    kind: VaultKind
    name: str
    origin: str
    region: str
    mount: str
    prefix: str
    options: Mapping[str, str]

    def option(self, name: str, default: str = "") -> str:
        return self.options.get(name, default)


def parse_vault(text: str) -> VaultAddress:
    """``text`` as an address. Raises `ConfigurationError` ``bad_setting``."""
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES:
        raise _bad("an address like openbao+https://HOST:8200/secret/PREFIX or aws://REGION/PREFIX")
    kind, web = _SCHEMES[parts.scheme]
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _bad("an address without user, password or fragment: credentials come from files")
    segments = [each for each in parts.path.split("/") if each]
    for each in segments:
        if _SEGMENT.fullmatch(each) is None:
            raise _bad(f"path segments of letters, digits and _.@+=-, not {each[:40]!a}")
    options = _options(kind, parts.query)
    if kind is VaultKind.AWS:
        return _aws(parts.netloc, segments, options)
    return _openbao(parts.scheme, web, parts.netloc, parts.hostname or "", segments, options)


def _openbao(
    scheme: str,
    web: str,
    netloc: str,
    host: str,
    segments: list[str],
    options: Mapping[str, str],
) -> VaultAddress:
    if not host or not segments:
        raise _bad("a host and the mount of a KV engine: openbao+https://HOST:8200/secret/PREFIX")
    if web == "http" and host not in _LOOPBACK:
        raise _bad("https: over plain HTTP values would pass in clear")
    if (login := options.get("login", Login.TOKEN)) not in list(Login):
        raise _bad(f"login={', login='.join(Login)}, not {login[:40]!a}")
    namespace = options.get("namespace", "")
    if namespace and _NAMESPACE.fullmatch(namespace) is None:
        raise _bad(f"a namespace like team/sub, not {namespace[:40]!a}")
    path = "/".join(segments)
    within = f"?namespace={namespace.strip('/')}" if namespace else ""
    return VaultAddress(
        kind=VaultKind.OPENBAO,
        name=f"{scheme}://{netloc.lower()}/{path}{within}",
        origin=f"{web}://{netloc}",
        region="",
        mount=segments[0],
        prefix="/".join(segments[1:]),
        options=options,
    )


def _aws(region: str, segments: list[str], options: Mapping[str, str]) -> VaultAddress:
    if _REGION.fullmatch(region) is None:
        raise _bad("a region: aws://eu-central-1/PREFIX")
    endpoint = options.get("endpoint", "")
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise _bad("an endpoint with https: over plain HTTP values would pass in clear")
    prefix = "/".join(segments)
    return VaultAddress(
        kind=VaultKind.AWS,
        name=f"aws://{region}/{prefix}" if prefix else f"aws://{region}",
        origin="",
        region=region,
        mount="",
        prefix=prefix,
        options=options,
    )


def _options(kind: VaultKind, query: str) -> Mapping[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise _bad("each option once")
    if unknown := options.keys() - _OPTIONS[kind]:
        known = ", ".join(sorted(_OPTIONS[kind]))
        raise _bad(f"the options {known}, not {min(unknown)[:40]!a}")
    return options


def _bad(takes: str) -> ConfigurationError:
    return ConfigurationError("bad_setting", f"A vault takes {takes}.")
