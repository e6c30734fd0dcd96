"""From a setting to a destination: which kind an address is, and what it must not hold.

``file:///FILE`` · ``syslog://HOST[:514]`` · ``syslog+tls://HOST[:6514]`` ·
``syslog+udp://HOST[:514]`` · ``https://…``, and ``http://`` to loopback · ``s3://BUCKET[/PREFIX]``.
Users and passwords stand in none of them. Everything refused here is ``bad_setting``, and is not
quoted: it may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sinks.bucket import BucketSink
from dox_core_store.server.adapters.sinks.file import FileSink
from dox_core_store.server.adapters.sinks.syslog import SyslogSink, SyslogUdpSink
from dox_core_store.server.adapters.sinks.webhook import WebhookSink
from dox_core_store.server.usecases.shipping import Sink

__all__ = ["Trust", "sink_at"]

_ADDRESS = re.compile(r"[^\x00-\x20\x7f-\x9f\\#]+")
_HOST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f:.]+", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_SYSLOG_PORT, _SYSLOG_TLS_PORT = 514, 6514


class Trust(NamedTuple):
    """What destinations are reached with: files of ``ship_token_file`` and ``ship_ca_file``."""

    token_file: str = ""
    ca_file: str = ""

    def context(self) -> ssl.SSLContext:
        """With a CA file that one alone is trusted: a public authority has no say on it."""
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:  # SSLError is one
            raise ConfigurationError(
                "bad_setting",
                f"ship_ca_file: {self.ca_file} holds no usable certificates"
                f" ({type(error).__name__}).",
            ) from error


def sink_at(address: str, trust: Trust, *, required: bool = False) -> Sink:
    """The destination at ``address``. Raises ``bad_setting``."""
    scheme, found, rest = address.partition("://")
    make = _KINDS.get(scheme)
    if not found or make is None:
        raise _bad(f"addresses that begin with {_listed([f'{each}://' for each in _KINDS])}")
    if not _ADDRESS.fullmatch(rest):
        raise _bad(f"{scheme}:// addresses without spaces, control characters, \\ and #")
    if required and scheme == "syslog+udp":
        raise ConfigurationError(
            "bad_setting", "ship_required takes no syslog+udp://: nothing tells that it arrived."
        )
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise _bad(f"{scheme}://HOST[:PORT] with a port from 1 to 65535") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise _bad("addresses without a user or a password")
    return make(parts, port, trust)


def _file(parts: SplitResult, _port: int | None, _trust: Trust) -> Sink:
    path = unquote(parts.path)
    if parts.netloc or parts.query or not path.startswith("/") or path.endswith("/"):
        raise _bad("file:///PATH, a file's whole path")
    if "\0" in path:
        raise _bad("file:///PATH without a NUL")
    return FileSink(Path(path))


def _syslog(parts: SplitResult, port: int | None, _trust: Trust) -> Sink:
    host, port = _host(parts), port or _SYSLOG_PORT
    return SyslogSink(host, port, shown=_shown(parts, port), context=None)


def _syslog_tls(parts: SplitResult, port: int | None, trust: Trust) -> Sink:
    host, port = _host(parts), port or _SYSLOG_TLS_PORT
    return SyslogSink(host, port, shown=_shown(parts, port), context=trust.context())


def _syslog_udp(parts: SplitResult, port: int | None, _trust: Trust) -> Sink:
    host, port = _host(parts), port or _SYSLOG_PORT
    return SyslogUdpSink(host, port, shown=_shown(parts, port))


def _webhook(parts: SplitResult, port: int | None, trust: Trust) -> Sink:
    host = _host(parts, bare=False)
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            "bad_setting", f"http:// to {host} would send the ledger in the clear: use https://."
        )
    return WebhookSink(
        parts.geturl(),
        shown=_shown(parts, port),  # without the path: with some services that is the secret
        token_file=Path(trust.token_file) if trust.token_file else None,
        context=trust.context() if parts.scheme == "https" else None,
    )


def _bucket(parts: SplitResult, _port: int | None, _trust: Trust) -> Sink:
    if not _BUCKET.fullmatch(parts.netloc) or parts.query:
        raise _bad("s3://BUCKET/PREFIX")
    return BucketSink(parts.netloc, parts.path.strip("/"))


_KINDS: dict[str, Callable[[SplitResult, int | None, Trust], Sink]] = {
    "file": _file,
    "syslog": _syslog,
    "syslog+tls": _syslog_tls,
    "syslog+udp": _syslog_udp,
    "https": _webhook,
    "http": _webhook,
    "s3": _bucket,
}


def _host(parts: SplitResult, *, bare: bool = True) -> str:
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or parts.port == 0:
        raise _bad(f"{parts.scheme}://HOST[:PORT]")
    if bare and (parts.path.strip("/") or parts.query):
        raise _bad(f"{parts.scheme}://HOST[:PORT] and nothing behind it")
    return host


def _shown(parts: SplitResult, port: int | None) -> str:
    host = parts.hostname or ""
    named = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{named}" + (f":{port}" if port else "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _bad(takes: str) -> ConfigurationError:
    return ConfigurationError("bad_setting", f"ship_to and ship_required take {takes}.")
