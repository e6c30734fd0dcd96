"""The first schema: catalog, sealed values, identities and ledger.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

from dox_core_store.server.adapters.sql.types import BIG_KEY, TEXT, Json

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "access_grant",
        sa.Column("grant_id", TEXT, nullable=False),
        sa.Column("service", TEXT, nullable=False),
        sa.Column("effect", TEXT, nullable=False),
        sa.Column("pattern", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id", name=op.f("pk_access_grant")),
        sa.UniqueConstraint(
            "service",
            "pattern",
            "environment",
            "effect",
            name=op.f("uq_access_grant_service_pattern_environment_effect"),
        ),
    )
    op.create_table(
        "environment",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_environment")),
    )
    op.create_table(
        "key",
        sa.Column("key_id", BIG_KEY, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=True),
        sa.Column("usage", TEXT, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("rotated_at", sa.BigInteger(), nullable=True),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.Column("head", TEXT, nullable=True),
        sa.Column("staged_head", TEXT, nullable=True),
        sa.Column("staged_import", TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key")),
        sa.UniqueConstraint("path", "environment", name=op.f("uq_key_path_environment")),
    )
    op.create_index(
        "ix_key_staged_import",
        "key",
        ["staged_import"],
        unique=False,
        sqlite_where=sa.text("staged_import IS NOT NULL"),
        postgresql_where=sa.text("staged_import IS NOT NULL"),
    )
    op.create_table(
        "key_import",
        sa.Column("import_id", TEXT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", sa.BigInteger(), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("replaced", sa.BigInteger(), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), nullable=False),
        sa.Column("conflict", TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("import_id", name=op.f("pk_key_import")),
    )
    op.create_table(
        "key_read",
        sa.Column("path", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("last_read_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("path", "environment", name=op.f("pk_key_read")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_block",
        sa.Column("block_id", BIG_KEY, nullable=False),
        sa.Column("stream", TEXT, nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("block_id", name=op.f("pk_ledger_block")),
    )
    op.create_index(
        "ix_ledger_block_changes",
        "ledger_block",
        ["last_seq"],
        unique=True,
        sqlite_where=sa.text("stream = 'changes'"),
        postgresql_where=sa.text("stream = 'changes'"),
    )
    op.create_table(
        "ledger_cursor",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("block_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_ledger_cursor")),
    )
    op.create_table(
        "ledger_posting",
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("term", TEXT, nullable=False),
        sa.Column("first_chunk", sa.BigInteger(), nullable=False),
        sa.Column("chunks", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("kind", "term", "first_chunk", name=op.f("pk_ledger_posting")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_stream",
        sa.Column("stream", TEXT, nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("stream", name=op.f("pk_ledger_stream")),
    )
    op.create_table(
        "operator",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("roles", Json(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_operator")),
    )
    op.create_table(
        "seal_ring",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_seal_ring")),
    )
    op.create_table(
        "seal_slot",
        sa.Column("slot_id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("parameters", TEXT, nullable=False),
        sa.Column("wrapped_root", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slot_id", name=op.f("pk_seal_slot")),
    )
    op.create_table(
        "service",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("limit_count", sa.BigInteger(), nullable=False),
        sa.Column("limit_period_seconds", sa.BigInteger(), nullable=False),
        sa.Column("limit_burst", sa.BigInteger(), nullable=False),
        sa.Column("decommissioned_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("grants_digest", TEXT, nullable=False),
        sa.Column("requested", Json(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_service")),
    )
    op.create_table(
        "signing_key",
        sa.Column("kid", TEXT, nullable=False),
        sa.Column("public_jwk", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.Column("compromised_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "spelling",
        sa.Column("folded", TEXT, nullable=False),
        sa.Column("spelled", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("folded", name=op.f("pk_spelling")),
    )
    op.create_table(
        "store",
        sa.Column("store_id", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("root_check", sa.LargeBinary(), nullable=False),
        sa.Column("default_environment", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("store_id", name=op.f("pk_store")),
    )
    op.create_table(
        "token",
        sa.Column("token_id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=True),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("issued_by", TEXT, nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_token")),
    )
    op.create_index("ix_token_expires_at", "token", ["expires_at"], unique=False)
    op.create_table(
        "version",
        sa.Column("version_id", TEXT, nullable=False),
        sa.Column("key_id", BIG_KEY, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("rolled_back_from", sa.BigInteger(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["key.key_id"], name=op.f("fk_version_key_id")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version")),
        sa.UniqueConstraint("key_id", "number", name=op.f("uq_version_key_id_number")),
    )
