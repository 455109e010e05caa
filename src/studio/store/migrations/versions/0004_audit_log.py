"""The audit log: its chains, their heads, and the key of both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("code", sa.String(32)),
        sa.Column("agent_id", sa.String(128)),
        sa.Column("alias", sa.String(128)),
        sa.Column("connector_id", sa.String(36)),
        sa.Column("target", sa.String(128)),
        sa.Column("operation", sa.String(128)),
        sa.Column("effect", sa.String(8)),
        sa.Column("digest", sa.String(32)),
        sa.Column("rows", sa.BigInteger()),
        sa.Column("bytes", sa.BigInteger()),
        sa.Column("micros", sa.BigInteger()),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("writer", sa.String(36)),
        sa.Column("details", sa.Text()),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "seq", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_organization_id_at", "audit_log", ["organization_id", "at"])
    for column in ("connector_id", "agent_id", "subject"):
        op.create_index(f"ix_audit_log_organization_id_{column}_seq", "audit_log", ["organization_id", column, "seq"])
    op.create_table(
        "audit_heads",
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("base_seq", sa.BigInteger(), nullable=False),
        sa.Column("base_hash", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name="pk_audit_heads"),
    )
    op.create_table(
        "audit_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_keys"),
    )
