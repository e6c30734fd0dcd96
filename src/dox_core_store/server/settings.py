"""The server's settings: one frozen value, from a TOML file, the environment and the command line.

Precedence: command line, ``DOXSTORE_<NAME>`` in the environment, the file named by ``--config`` or
``DOXSTORE_CONFIG``, the defaults here. Unknown keys are refused, because a mistyped setting must
not silently become its default. Units are in the names.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dox_core_store.errors import ConfigurationError, InvalidRequestError
from dox_core_store.server.domain.address import parse_networks
from dox_core_store.server.domain.seal import SlotKind

__all__ = ["Settings", "load_settings"]

_PREFIX = "DOXSTORE_"
_MAX_PORT = 65_535
_NOT_NEGATIVE = (
    "expiry_days",
    "keep_versions",
    "cache_ttl_ceiling_seconds",
    "outage_grace_seconds",
    "max_connections",
    "drain_seconds",
    "shutdown_seconds",
    "ballast_mib",
    "ledger_keep_days",
    "ledger_max_gib",
)
_LEAST = {
    **dict.fromkeys(_NOT_NEGATIVE, 0),
    "backup_every_hours": 1,
    "backup_keep": 1,
    "ship_lag_seconds": 1,
    "database_connections": 1,
    "vault_timeout_seconds": 1,
}
_SEVERAL = frozenset({"trusted_proxies", "ship_to", "ship_required", "vault_also"})
_NOT_SETTINGS = frozenset({"config"})


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See ``docs/operations.md`` for each."""

    data: str = ".doxstore"
    """Folder of the store; with a `database`, of what this node remembers of it."""
    database: str = ""
    """postgresql://USER@HOST/DATABASE, without a password: the store of many nodes; empty: a file
    in `data`, for one."""
    database_password_file: str = ""
    """File with the password for it, read at each connection; empty: libpq's own sources."""
    database_connections: int = 8
    """How many a node keeps for reading; it has up to six more."""
    node_name: str = ""
    """What this node is called where nodes are listed; empty: the name of its machine."""
    vault: str = ""
    """Where values of keys go: openbao+https://HOST:8200/MOUNT/PREFIX, aws://REGION/PREFIX; empty:
    sealed, beside the catalog."""
    vault_also: list[str] = []
    """Other vaults whose values are read, or that values are moved to; ``here`` says beside the
    catalog."""
    vault_timeout_seconds: int = 5
    """How long an answer of a vault may take."""
    key_file: str = ""
    """The key-file slot's file; empty: ``root.key`` beside the data (only ``dev`` makes that)."""
    unseal_with: str = ""
    """The one kind of slot (`SlotKind`) to open the store with; empty: whatever is at hand."""
    transit_address: str = ""
    """Of the OpenBao or Vault whose Transit engine holds a slot; empty: BAO_ADDR or VAULT_ADDR."""
    transit_token_file: str = ""
    """File with the token for it, read at each use; empty: BAO_TOKEN or VAULT_TOKEN."""
    transit_namespace: str = ""
    transit_ca_file: str = ""
    host: str = "127.0.0.1"
    port: int = 8420
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    allow_plain_http: bool = False
    """Serve without TLS beyond loopback, behind a proxy that terminates it."""
    default_environment: str = "production"
    expiry_days: int = 90
    """Default life of a key's version; 0: for ever."""
    keep_versions: int = 0
    """How many versions that are out of use a key keeps, unless it says otherwise; 0: all."""
    cache_ttl_ceiling_seconds: int = 3600
    """How long a client may serve a value from its cache."""
    outage_grace_seconds: int = 3600
    """How long a client may serve a value while the store cannot be reached."""
    trusted_proxies: list[str] = []
    """Networks (CIDR) of the proxies whose word on a client's address is taken; none: nobody's."""
    ship_to: list[str] = []
    """Where checkpoints and changes are shipped as they come: file:///FILE, syslog://HOST:PORT,
    https://…, s3://BUCKET/PREFIX; none: they stay in the store."""
    ship_required: list[str] = []
    """The same, but reads are refused once one of these is behind by `ship_lag_seconds`."""
    ship_lag_seconds: int = 600
    ship_token_file: str = ""
    """File with the bearer for webhooks among them, read at each use; empty: they get none."""
    ship_ca_file: str = ""
    """Authorities that vouch for webhooks and syslog servers; empty: the system's."""
    ledger_keep_days: int = 400
    """How long entries are kept; changes are kept for good. 0: all are."""
    ledger_max_gib: float = 20
    """How large the store's file may grow: reads are refused then, nothing is dropped; 0: as large
    as the disk."""
    issuer_ca_file: str = ""
    """Authorities that vouch for issuers of other tokens; empty: the system's."""
    max_connections: int = 20_000
    drain_seconds: int = 0
    """How long a server that was told to stop goes on answering while it says that it is not ready:
    until whoever sends it requests has noticed."""
    shutdown_seconds: int = 10
    """How long requests under way may take once the server was told to stop."""
    ballast_mib: int = 32
    """Room kept in the data folder, so that revoking works on a full disk; 0: none."""
    backup_to: str = ""
    """Where the server keeps backups: a folder, or s3://BUCKET/PREFIX; empty: it makes none."""
    backup_every_hours: int = 24
    backup_keep: int = 14
    """How many of its backups are kept there."""
    backup_recipient: str = ""
    """The age recipient (age1…) for whom they are encrypted; empty: they are not."""
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= _MAX_PORT:
            raise _bad("port", "a number from 0 to 65535")
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            raise _bad("tls_certificate_file and tls_key_file", "both or neither")
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:  # not: "is less", which nan never is
                raise _bad(name, f"a number from {least}")
        if self.unseal_with and self.unseal_with not in list(SlotKind):
            raise _bad("unseal_with", f"{', '.join(SlotKind)}, or nothing")
        try:
            parse_networks(self.trusted_proxies)
        except InvalidRequestError as error:
            raise ConfigurationError("bad_setting", f"trusted_proxies: {error}") from error
        if self.log_level not in {"debug", "info", "warning", "error"}:
            raise _bad("log_level", "debug, info, warning or error")
        if not (self.tls_certificate_file or self.allow_plain_http or _is_loopback(self.host)):
            raise _bad(
                "host",
                "a loopback address unless tls_certificate_file and tls_key_file are set"
                " (or allow_plain_http behind a proxy that terminates TLS)",
            )


def load_settings(
    given: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None
) -> Settings:
    """The settings in force. ``given`` (the command line) wins; None in it means not given.

    Raises `ConfigurationError` ``bad_setting``.
    """
    named = config or (Path(environ[_PREFIX + "CONFIG"]) if _PREFIX + "CONFIG" in environ else None)
    values: dict[str, Any] = {} if named is None else _read(named)
    known = frozenset(Settings.__struct_fields__)
    for name in values:
        if name not in known:
            raise ConfigurationError(
                "bad_setting", f"{named}: {name} is not a setting of this server."
            )
    for name, text in environ.items():
        if name.startswith(_PREFIX):
            setting = name.removeprefix(_PREFIX).lower()
            if setting in _NOT_SETTINGS:
                continue
            if setting not in known:
                raise ConfigurationError("bad_setting", f"{name} is not a setting of this server.")
            values[setting] = _several(text) if setting in _SEVERAL else text
    values.update({name: value for name, value in given.items() if value is not None})
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError("bad_setting", f"{error}.") from error


def _several(text: str) -> list[str]:
    """What the environment says of a setting that takes several: separated by commas."""
    return [each for each in map(str.strip, text.split(",")) if each]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            "bad_setting", f"The configuration file {os.fspath(path)} is unusable: {error}."
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bad(name: str, takes: str) -> ConfigurationError:
    return ConfigurationError("bad_setting", f"{name} takes {takes}.")
