"""Connectors, instances, API keys and key canaries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "connectors",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("connector_type", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("config_encrypted", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("last_tested_at", sa.String(27)),
        sa.Column("last_test_result", sa.String(16)),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("updated_at", sa.String(27), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_connectors"),
        sa.UniqueConstraint("organization_id", "name", name="uq_connectors_organization_id_name"),
        sa.UniqueConstraint("organization_id", "id", name="uq_connectors_organization_id_id"),
    )
    for column in ("connector_type", "provider", "status"):
        op.create_index(f"ix_connectors_organization_id_{column}_id", "connectors", ["organization_id", column, "id"])
    op.create_index("ix_connectors_key_id", "connectors", ["key_id"])
    op.create_table(
        "connector_counts",
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("connectors", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name="pk_connector_counts"),
    )
    op.create_table(
        "connector_instances",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("agent_id", sa.String(128), nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("config_override", sa.Text()),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.PrimaryKeyConstraint("id", name="pk_connector_instances"),
        sa.UniqueConstraint(
            "organization_id", "agent_id", "alias", name="uq_connector_instances_organization_id_agent_id_alias"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "connector_id"],
            ["connectors.organization_id", "connectors.id"],
            name="fk_connector_instances_organization_id_connector_id",
            ondelete="CASCADE",
        ),
    )
    for columns in (["organization_id", "agent_id", "id"], ["connector_id", "id"], ["agent_id", "id"], ["key_id"]):
        op.create_index(f"ix_connector_instances_{'_'.join(columns)}", "connector_instances", columns)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16)),
        sa.Column("agent_id", sa.String(128)),
        sa.Column("aliases", sa.Text()),
        sa.Column("effects", sa.Text()),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("expires_at", sa.String(27)),
        sa.Column("last_used_at", sa.String(27)),
        sa.Column("revoked_at", sa.String(27)),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
    )
    op.create_index("ix_api_keys_organization_id_id", "api_keys", ["organization_id", "id"])
    op.create_table(
        "key_canaries",
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_key_canaries"),
    )
