"""`Endpoint`: where the store is and how to reach it, settled and checked at construction.

Arguments win over the environment (``KEY_SERVICE_URL``, ``KEY_SERVICE_TIMEOUT`` in milliseconds,
``KEY_SERVICE_CA_FILE``); an empty variable counts as absent. A URL is held to a narrow grammar, so
that no two parsers can disagree about its host: no user name, no query, no encoding. ``http://``
is for loopback only, since a token must not cross a network in the clear, and for the same reason
never goes through a proxy.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dox_core_store.errors import ConfigurationError

__all__ = ["DEFAULT_TIMEOUT_MS", "Endpoint", "endpoint_from"]

DEFAULT_TIMEOUT_MS = 5000
"""``KEY_SERVICE_TIMEOUT`` of the product page: one whole call, from connecting to the last byte."""

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<prefix>(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?",
    re.ASCII,
)
_PROXY = re.compile(r"(?:https?|socks5h?)://[\x21-\x7e]+", re.ASCII)


class Endpoint(NamedTuple):
    """Base URL without a trailing slash, time for one call, and whom to trust for TLS."""

    url: str
    timeout_seconds: float
    ca_file: Path | None
    proxy: str | None

    def __repr__(self) -> str:
        return f"<Endpoint {self.url}>"  # a proxy's address may hold a password

    def tls_context(self) -> ssl.SSLContext | bool:
        """What the HTTP library should verify with; ``True`` means the system's authorities.

        With a CA file, that one alone is trusted: a public authority has no say on a private name.
        """
        if self.url.startswith("http://"):
            # Never used, and it would verify nobody. Loading authorities costs 85 ms.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_file is None:
            return True
        problem = ""
        try:
            return ssl.create_default_context(cafile=str(self.ca_file))
        except OSError as error:  # SSLError is one
            problem = type(error).__name__
        raise ConfigurationError(
            "bad_setting", f"CA file {self.ca_file} holds no usable certificates ({problem})."
        )


def endpoint_from(
    environ: Mapping[str, str],
    *,
    url: str | None = None,
    timeout_ms: float | None = None,
    ca_file: str | Path | None = None,
    proxy: str | None = None,
) -> Endpoint:
    """Arguments, else environment. Raises ``bad_setting`` or ``insecure_url``."""
    ca_file = ca_file or environ.get("KEY_SERVICE_CA_FILE") or None
    if ca_file is not None and not Path(ca_file).is_file():
        raise ConfigurationError("bad_setting", f"KEY_SERVICE_CA_FILE: there is no file {ca_file}.")
    checked = _checked_url(url or environ.get("KEY_SERVICE_URL") or "")
    if proxy is not None and (checked.startswith("http://") or not _PROXY.fullmatch(proxy)):
        raise ConfigurationError(
            "bad_setting",
            "A proxy is an http://, https:// or socks5:// URL, for an https:// store.",
        )
    return Endpoint(
        url=checked,
        timeout_seconds=_timeout_seconds(timeout_ms, environ.get("KEY_SERVICE_TIMEOUT")),
        ca_file=None if ca_file is None else Path(ca_file),
        proxy=proxy,
    )


def _checked_url(url: str) -> str:
    if not url:
        raise ConfigurationError(
            "bad_setting", "KEY_SERVICE_URL is not set. Example: https://keys.pact-platform.com"
        )
    found = _URL.fullmatch(url)
    if found is None or int(found["port"] or 0) > 65535:
        # Not shown: what was pasted here by mistake may be a secret.
        raise ConfigurationError(
            "bad_setting", "KEY_SERVICE_URL takes https://HOST[:PORT][/PREFIX] and nothing more."
        )
    if found["scheme"] == "http" and not _is_loopback(found["host"]):
        raise ConfigurationError(
            "insecure_url", f"http:// to {found['host']} would send the token in the clear."
        )
    return url.removesuffix("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _timeout_seconds(argument: float | None, variable: str | None) -> float:
    if argument is None and variable:
        try:
            argument = int(variable)
        except ValueError:
            argument = -1
    milliseconds = DEFAULT_TIMEOUT_MS if argument is None else argument
    if not 0 < milliseconds <= 3_600_000:
        raise ConfigurationError(
            "bad_setting", "KEY_SERVICE_TIMEOUT takes milliseconds, from 1 to 3600000."
        )
    return milliseconds / 1000
