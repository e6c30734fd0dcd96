"""Access: limits of keys, what tokens are bound to, when tokens and grants were last used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "key_limit",
        sa.Column("key_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("limit_count", sa.BigInteger(), nullable=False),
        sa.Column("limit_period_seconds", sa.BigInteger(), nullable=False),
        sa.Column("limit_burst", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_limit")),
    )
    op.create_table(
        "token_binding",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.Column("key_thumbprint", sa.Text(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_token_binding")),
    )
    op.create_table(
        "token_use",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_token_use")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "service_call",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("last_called_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("path", "environment", "service", name=op.f("pk_service_call")),
        sqlite_with_rowid=False,
    )
    op.execute("UPDATE store SET readable_by = '0003:0001'")
