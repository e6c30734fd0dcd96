"""Many nodes and vaults of others: who runs, who does what, what a vault is still to be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dox_core_store.server.adapters.sql.types import BIG_KEY, TEXT

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


_APPEND = """
CREATE PROCEDURE doxstore_append(
    p_stream text, p_first_seq bigint, p_last_seq bigint, p_first_at bigint,
    p_prev bytea, p_head bytea, p_body bytea, p_changes text,
    INOUT p_block_id bigint, INOUT p_feed_head bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1685026819);
    INSERT INTO ledger_block (stream, first_seq, last_seq, first_at, prev, head, body)
    SELECT p_stream, p_first_seq, p_last_seq, p_first_at, p_prev, p_head, p_body
    WHERE EXISTS (SELECT FROM ledger_stream WHERE stream = p_stream AND closed_at IS NULL)
    RETURNING block_id INTO p_block_id;
    COMMIT;
    SELECT last_seq INTO p_feed_head FROM ledger_stream WHERE stream = p_changes;
END $$
"""
"""A block and, after its commit, the head of the change feed: see adapters/postgresql/append.py.
Under the lock APPENDING of adapters/sql/transacting.py, shared."""


def upgrade() -> None:
    op.add_column("version", sa.Column("vault", TEXT, nullable=True))
    op.create_table(
        "vault_task",
        sa.Column("version_id", TEXT, nullable=False),
        sa.Column("act", TEXT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("vault", TEXT, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_vault_task")),
    )
    op.create_table(
        "vault_home",
        sa.Column("key_id", BIG_KEY, nullable=False),
        sa.Column("vault", TEXT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("field", TEXT, nullable=True),
        sa.Column("shared", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_vault_home")),
    )
    op.create_index("ix_vault_home_path", "vault_home", ["path"])
    op.create_table(
        "version_copy",
        sa.Column("copy_id", TEXT, nullable=False),
        sa.Column("version_id", TEXT, nullable=False),
        sa.Column("vault", TEXT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("act", TEXT, nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("copy_id", name=op.f("pk_version_copy")),
    )
    op.create_index("ix_version_copy_version_id", "version_copy", ["version_id"])
    op.create_index("ix_version_copy_act_copy_id", "version_copy", ["act", "copy_id"])
    op.create_table(
        "node",
        sa.Column("node_id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("stream", TEXT, nullable=False),
        sa.Column("release", TEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.BigInteger(), nullable=False),
        sa.Column("ring", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node")),
    )
    op.create_table(
        "lease",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("holder", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "quota",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("arrival", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_quota")),
    )
    op.create_table(
        "proof_use",
        sa.Column("proof", TEXT, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("proof", name=op.f("pk_proof_use")),
    )
    op.create_index("ix_proof_use_until", "proof_use", ["until"])
    op.execute("UPDATE store SET readable_by = '0004:0001'")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_APPEND)
