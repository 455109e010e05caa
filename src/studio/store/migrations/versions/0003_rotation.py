"""Rotation of credentials: when a secret was given and when it ends, and the sets beside the one in force."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("connectors", sa.Column("secret_set_at", sa.String(27)))
    op.add_column("connectors", sa.Column("secret_expires_at", sa.String(27)))
    # The configs are sealed, so which of them hold a secret is not known here: their age counts from the last change.
    op.execute("UPDATE connectors SET secret_set_at = updated_at")
    op.create_table(
        "connector_secrets",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("until", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_connector_secrets"),
        sa.UniqueConstraint("connector_id", "kind", name="uq_connector_secrets_connector_id_kind"),
        sa.ForeignKeyConstraint(
            ["organization_id", "connector_id"],
            ["connectors.organization_id", "connectors.id"],
            name="fk_connector_secrets_organization_id_connector_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_connector_secrets_key_id", "connector_secrets", ["key_id"])
    op.create_index("ix_connector_secrets_until", "connector_secrets", ["until"])
