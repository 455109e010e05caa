"""Saved operations, and attachments that are limited to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "connector_instances", sa.Column("saved_only", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.create_table(
        "saved_operations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("bound", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_saved_operations"),
        sa.UniqueConstraint(
            "organization_id", "connector_id", "name", name="uq_saved_operations_organization_id_connector_id_name"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "connector_id"],
            ["connectors.organization_id", "connectors.id"],
            name="fk_saved_operations_organization_id_connector_id",
            ondelete="CASCADE",
        ),
    )
