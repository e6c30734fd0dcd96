"""Access: limits of keys, what binds tokens, when tokens and grants were last used, and whose
tokens are taken in exchange for ours.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dox_core_store.server.adapters.sql.types import BIG_KEY, TEXT, Json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_limit",
        sa.Column("key_id", BIG_KEY, nullable=False),
        sa.Column("limit_count", sa.BigInteger(), nullable=False),
        sa.Column("limit_period_seconds", sa.BigInteger(), nullable=False),
        sa.Column("limit_burst", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_limit")),
    )
    op.create_table(
        "token_binding",
        sa.Column("token_id", TEXT, nullable=False),
        sa.Column("addresses", Json(), nullable=False),
        sa.Column("key_thumbprint", TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_token_binding")),
    )
    op.create_table(
        "token_use",
        sa.Column("token_id", TEXT, nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_token_use")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "service_call",
        sa.Column("path", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("service", TEXT, nullable=False),
        sa.Column("last_called_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("path", "environment", "service", name=op.f("pk_service_call")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "issuer",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("url", TEXT, nullable=False),
        sa.Column("audience", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_issuer")),
    )
    op.create_table(
        "issuer_trust",
        sa.Column("trust_id", TEXT, nullable=False),
        sa.Column("issuer", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=True),
        sa.Column("roles", Json(), nullable=False),
        sa.Column("claims", Json(), nullable=False),
        sa.Column("max_seconds", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("trust_id", name=op.f("pk_issuer_trust")),
    )
    op.create_table(
        "person",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("issuer", TEXT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_person")),
    )
    # What was written before has to stand in the new tables too: the index is made anew, once, at
    # the start that follows.
    op.execute("DELETE FROM ledger_posting")
    op.execute("DELETE FROM ledger_cursor WHERE name = 'postings'")
    op.execute("UPDATE store SET readable_by = '0003:0001'")
