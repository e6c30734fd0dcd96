"""The schema, as SQLAlchemy Core tables. The migrations build it; a test holds both together.

A table that is listed in `RECORDS` holds one of the domain's records, column by column, and a
``mac`` over the row: whoever can write the database but lacks the root key cannot change who may do
what. Times are integer microseconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dox_core_store.server.adapters.sql.types import BIG_KEY, TEXT, Instant, Json
from dox_core_store.server.domain.access import (
    GrantRecord,
    OperatorRecord,
    ServiceRecord,
    TokenBindingRecord,
    TokenRecord,
)
from dox_core_store.server.domain.epoch import EpochRecord
from dox_core_store.server.domain.issuer import IssuerRecord, PersonRecord, TrustRecord
from dox_core_store.server.domain.key import (
    ImportRecord,
    KeyLimitRecord,
    KeyRecord,
    TombstoneRecord,
    UpkeepRecord,
    VersionRecord,
)
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.domain.vault_task import CopyRecord, HomeRecord, VaultTaskRecord

__all__ = ["FEED", "READABLE_BY", "RECORDS", "SCHEMAS", "Instant", "Json", "metadata"]

SCHEMAS = ("0001", "0002", "0003", "0004")
"""Every Alembic revision that this release knows; it reads and writes the last one."""

READABLE_BY = "0004:0001"
"""The last revision, and the oldest one whose release may still work on it: migrations first add,
and what nobody needs any more goes a release later."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

FEED = sa.text("stream >= 'changes' AND stream < 'changes.'")
"""What names a `changes` stream, in the words of its index: queries repeat them to be served by it.
"""


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, TEXT, nullable=False, **options)


def _number(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False, **options)


def _blob(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, Instant, nullable=nullable)


def _optional(name: str) -> sa.Column[Any]:
    return sa.Column(name, TEXT, nullable=True)


store = sa.Table(
    "store",
    metadata,
    sa.Column("store_id", TEXT, primary_key=True),
    _instant("created_at"),
    _number("epoch"),
    _blob("root_check"),
    _text("default_environment"),
    # Which release may work on this schema: see `READABLE_BY`.
    _optional("readable_by"),
    # A new root key that is being enrolled slot by slot, sealed under the present one.
    sa.Column("next_root", sa.LargeBinary, nullable=True),
)
seal_slot = sa.Table(
    "seal_slot",
    metadata,
    sa.Column("slot_id", TEXT, primary_key=True),
    _text("kind"),
    _text("parameters"),
    _blob("wrapped_root"),
    _instant("created_at"),
    _optional("label"),
    sa.Column("next_root", sa.LargeBinary, nullable=True),
)
seal_ring = sa.Table(
    "seal_ring",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _blob("wrapped"),
    _instant("created_at"),
)
environment = sa.Table(
    "environment",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _instant("created_at"),
)
spelling = sa.Table(
    "spelling",
    metadata,
    sa.Column("folded", TEXT, primary_key=True),
    _text("spelled"),
)
key = sa.Table(
    "key",
    metadata,
    sa.Column("key_id", BIG_KEY, primary_key=True),
    _text("path"),
    _text("environment"),
    _optional("owner"),
    _optional("usage"),
    _instant("created_at"),
    _instant("rotated_at", nullable=True),
    _number("last_number"),
    _optional("head"),
    _optional("staged_head"),
    _optional("staged_import"),
    _blob("mac"),
    sa.UniqueConstraint("path", "environment"),
    sa.Index(
        "ix_key_staged_import",
        "staged_import",
        sqlite_where=sa.text("staged_import IS NOT NULL"),
        postgresql_where=sa.text("staged_import IS NOT NULL"),
    ),
    sa.Index("ix_key_environment_path", "environment", "path"),
)
version = sa.Table(
    "version",
    metadata,
    sa.Column("version_id", TEXT, primary_key=True),
    sa.Column("key_id", BIG_KEY, sa.ForeignKey("key.key_id"), nullable=False),
    _number("number"),
    _text("state"),
    _instant("created_at"),
    _text("created_by"),
    _instant("expires_at", nullable=True),
    sa.Column("rolled_back_from", sa.BigInteger, nullable=True),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    # Whose place ``sealed`` holds; without one it holds the value.
    _optional("vault"),
    _blob("mac"),
    sa.UniqueConstraint("key_id", "number"),
)
vault_task = sa.Table(
    "vault_task",
    metadata,
    sa.Column("version_id", TEXT, primary_key=True),
    _text("act"),
    _text("path"),
    _text("environment"),
    _text("vault"),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    _instant("begun_at"),
    _blob("mac"),
)
vault_home = sa.Table(
    "vault_home",
    metadata,
    sa.Column("key_id", BIG_KEY, primary_key=True),
    _text("vault"),
    _text("path"),
    _optional("field"),
    _number("shared"),
    _blob("mac"),
    sa.Index("ix_vault_home_path", "path"),
)
version_copy = sa.Table(
    "version_copy",
    metadata,
    sa.Column("copy_id", TEXT, primary_key=True),
    _text("version_id"),
    _text("vault"),
    _text("path"),
    _text("environment"),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    _text("act"),
    _instant("begun_at", nullable=True),
    _blob("mac"),
    sa.Index("ix_version_copy_version_id", "version_id"),
    sa.Index("ix_version_copy_act_copy_id", "act", "copy_id"),
)
key_import = sa.Table(
    "key_import",
    metadata,
    sa.Column("import_id", TEXT, primary_key=True),
    _text("status"),
    _text("created_by"),
    _instant("created_at"),
    _instant("touched_at"),
    _number("next_sequence"),
    _number("created"),
    _number("replaced"),
    _number("unchanged"),
    _optional("conflict"),
    _blob("mac"),
)
tombstone = sa.Table(
    "tombstone",
    metadata,
    sa.Column("version_id", TEXT, primary_key=True),
    _text("state"),
    _instant("buried_at"),
    _blob("mac"),
)
key_upkeep = sa.Table(
    "key_upkeep",
    metadata,
    sa.Column("key_id", BIG_KEY, primary_key=True),
    sa.Column("keep_versions", sa.BigInteger, nullable=True),
    _instant("unverified_since", nullable=True),
    _blob("mac"),
)
epoch = sa.Table(
    "epoch",
    metadata,
    sa.Column("epoch", BIG_KEY, primary_key=True),
    _text("cause"),
    _instant("began_at"),
    _instant("reviewed_at", nullable=True),
    _optional("reviewed_by"),
    _blob("mac"),
)
custody_event = sa.Table(
    "custody_event",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _instant("happened_at"),
    _text("detail"),
)
key_read = sa.Table(
    "key_read",
    metadata,
    sa.Column("path", TEXT, primary_key=True),
    sa.Column("environment", TEXT, primary_key=True),
    _instant("last_read_at"),
    sqlite_with_rowid=False,
)
key_limit = sa.Table(
    "key_limit",
    metadata,
    sa.Column("key_id", BIG_KEY, primary_key=True),
    _number("limit_count"),
    _number("limit_period_seconds"),
    _number("limit_burst"),
    _blob("mac"),
)
service_call = sa.Table(
    "service_call",
    metadata,
    sa.Column("path", TEXT, primary_key=True),
    sa.Column("environment", TEXT, primary_key=True),
    sa.Column("service", TEXT, primary_key=True),
    _instant("last_called_at"),
    sqlite_with_rowid=False,
)
service = sa.Table(
    "service",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _text("description"),
    _optional("environment"),
    _number("generation"),
    _number("limit_count"),
    _number("limit_period_seconds"),
    _number("limit_burst"),
    _instant("decommissioned_at", nullable=True),
    _instant("created_at"),
    _text("grants_digest"),
    sa.Column("requested", Json, nullable=False),
    _blob("mac"),
)
access_grant = sa.Table(
    "access_grant",
    metadata,
    sa.Column("grant_id", TEXT, primary_key=True),
    _text("service"),
    _text("effect"),
    _text("pattern"),
    _text("environment"),
    _instant("created_at"),
    _text("created_by"),
    _blob("mac"),
    sa.UniqueConstraint("service", "pattern", "environment", "effect"),
)
operator = sa.Table(
    "operator",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("roles", Json, nullable=False),
    _number("generation"),
    _instant("disabled_at", nullable=True),
    _instant("created_at"),
    _blob("mac"),
)
token = sa.Table(
    "token",
    metadata,
    sa.Column("token_id", TEXT, primary_key=True),
    _text("kind"),
    _text("name"),
    _optional("environment"),
    _instant("issued_at"),
    _instant("expires_at"),
    _text("issued_by"),
    _instant("revoked_at", nullable=True),
    _blob("mac"),
    sa.Index("ix_token_expires_at", "expires_at"),
)
token_binding = sa.Table(
    "token_binding",
    metadata,
    sa.Column("token_id", TEXT, primary_key=True),
    sa.Column("addresses", Json, nullable=False),
    _optional("key_thumbprint"),
    _blob("mac"),
)
token_use = sa.Table(
    "token_use",
    metadata,
    sa.Column("token_id", TEXT, primary_key=True),
    _instant("last_used_at"),
    sqlite_with_rowid=False,
)
issuer = sa.Table(
    "issuer",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _text("url"),
    _text("audience"),
    _instant("created_at"),
    _text("created_by"),
    _instant("disabled_at", nullable=True),
    _blob("mac"),
)
issuer_trust = sa.Table(
    "issuer_trust",
    metadata,
    sa.Column("trust_id", TEXT, primary_key=True),
    _text("issuer"),
    _text("kind"),
    _text("name"),
    _optional("environment"),
    sa.Column("roles", Json, nullable=False),
    sa.Column("claims", Json, nullable=False),
    _number("max_seconds"),
    _instant("created_at"),
    _text("created_by"),
    _blob("mac"),
)
person = sa.Table(
    "person",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _text("issuer"),
    _text("subject"),
    _instant("created_at"),
    _blob("mac"),
)
signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("kid", TEXT, primary_key=True),
    _text("public_jwk"),
    _instant("created_at"),
    _instant("retired_at", nullable=True),
    _instant("compromised_at", nullable=True),
    _blob("mac"),
)
ledger_stream = sa.Table(
    "ledger_stream",
    metadata,
    sa.Column("stream", TEXT, primary_key=True),
    _instant("opened_at"),
    _instant("closed_at", nullable=True),
    _number("last_seq"),
    _blob("head"),
)
ledger_block = sa.Table(
    "ledger_block",
    metadata,
    sa.Column("block_id", BIG_KEY, primary_key=True),
    _text("stream"),
    _number("first_seq"),
    _number("last_seq"),
    _number("first_at"),
    _blob("prev"),
    _blob("head"),
    _blob("body"),
    # Blocks are found by id, by postings, or, for the change feed alone, by position. An index over
    # all of them would be written at every read of every key.
    sa.Index(
        "ix_ledger_block_changes",
        "last_seq",
        unique=True,
        sqlite_where=sa.text("stream = 'changes'"),
        postgresql_where=sa.text("stream = 'changes'"),
    ),
    # The same for every epoch. The release before reads by the one above, which goes with it.
    sa.Index(
        "ix_ledger_block_feed",
        "stream",
        "last_seq",
        unique=True,
        sqlite_where=FEED,
        postgresql_where=FEED,
    ),
)
ledger_posting = sa.Table(
    "ledger_posting",
    metadata,
    sa.Column("kind", TEXT, primary_key=True),
    sa.Column("term", TEXT, primary_key=True),
    sa.Column("first_chunk", sa.BigInteger, primary_key=True),
    _text("chunks"),
    sqlite_with_rowid=False,
)
ledger_cursor = sa.Table(
    "ledger_cursor",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _number("block_id"),
)

node = sa.Table(
    "node",
    metadata,
    sa.Column("node_id", TEXT, primary_key=True),
    _text("name"),
    _text("stream"),
    _text("release"),
    _instant("started_at"),
    _instant("seen_at"),
    _number("applied"),
    # The newest sealing key that it has.
    _number("ring"),
)
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _text("holder"),
    # Rises with every holder: what an earlier one still writes is refused by it.
    _number("number"),
    _instant("until"),
)
quota = sa.Table(
    "quota",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    # The theoretical arrival time of domain/limit.py, for all nodes together.
    _number("arrival"),
)
proof_use = sa.Table(
    "proof_use",
    metadata,
    sa.Column("proof", TEXT, primary_key=True),
    _number("until"),
    sa.Index("ix_proof_use_until", "until"),
)

RECORDS: dict[type, sa.Table] = {
    KeyRecord: key,
    VersionRecord: version,
    TombstoneRecord: tombstone,
    UpkeepRecord: key_upkeep,
    KeyLimitRecord: key_limit,
    EpochRecord: epoch,
    ImportRecord: key_import,
    ServiceRecord: service,
    GrantRecord: access_grant,
    OperatorRecord: operator,
    TokenRecord: token,
    TokenBindingRecord: token_binding,
    IssuerRecord: issuer,
    TrustRecord: issuer_trust,
    PersonRecord: person,
    SigningKeyRecord: signing_key,
    VaultTaskRecord: vault_task,
    HomeRecord: vault_home,
    CopyRecord: version_copy,
}
