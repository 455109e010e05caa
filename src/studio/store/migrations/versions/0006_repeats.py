"""Requests that may be sent again, by their Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "repeats",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(36), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("expires_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_repeats"),
    )
    op.create_index("ix_repeats_organization_id_created_at", "repeats", ["organization_id", "created_at"])
    op.create_index("ix_repeats_expires_at", "repeats", ["expires_at"])
