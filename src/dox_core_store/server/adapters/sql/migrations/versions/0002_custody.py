"""Custody: several slots, epochs, tombstones, what is said of a key beside its versions.

Only adds, so the release that knows 0001 alone could go on working on it.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

from dox_core_store.server.adapters.sql.types import BIG_KEY, TEXT

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FEED = sa.text("stream >= 'changes' AND stream < 'changes.'")


def upgrade() -> None:
    op.add_column("store", sa.Column("readable_by", TEXT, nullable=True))
    op.add_column("store", sa.Column("next_root", sa.LargeBinary(), nullable=True))
    op.add_column("seal_slot", sa.Column("label", TEXT, nullable=True))
    op.add_column("seal_slot", sa.Column("next_root", sa.LargeBinary(), nullable=True))
    op.create_table(
        "tombstone",
        sa.Column("version_id", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("buried_at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_tombstone")),
    )
    op.create_table(
        "key_upkeep",
        sa.Column("key_id", BIG_KEY, nullable=False),
        sa.Column("keep_versions", sa.BigInteger(), nullable=True),
        sa.Column("unverified_since", sa.BigInteger(), nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_upkeep")),
    )
    op.create_table(
        "epoch",
        sa.Column("epoch", BIG_KEY, nullable=False),
        sa.Column("cause", TEXT, nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("reviewed_at", sa.BigInteger(), nullable=True),
        sa.Column("reviewed_by", TEXT, nullable=True),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("epoch", name=op.f("pk_epoch")),
    )
    op.create_table(
        "custody_event",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("happened_at", sa.BigInteger(), nullable=False),
        sa.Column("detail", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_custody_event")),
    )
    op.create_index("ix_key_environment_path", "key", ["environment", "path"], unique=False)
    op.create_index(
        "ix_ledger_block_feed",
        "ledger_block",
        ["stream", "last_seq"],
        unique=True,
        sqlite_where=_FEED,
        postgresql_where=_FEED,
    )
    op.execute("UPDATE store SET readable_by = '0002:0001'")
