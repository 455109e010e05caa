"""Health of connectors: state and queue in one row each, the history of changes, and the outbox of alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "connector_health",
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("successes", sa.Integer(), nullable=False),
        sa.Column("interval_s", sa.Integer()),
        sa.Column("due_at", sa.String(27), nullable=False),
        sa.Column("lease_until", sa.String(27), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.String(27), nullable=False),
        sa.Column("checked_at", sa.String(27)),
        sa.Column("alerted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("connector_id", name="pk_connector_health"),
        sa.ForeignKeyConstraint(
            ["organization_id", "connector_id"],
            ["connectors.organization_id", "connectors.id"],
            name="fk_connector_health_organization_id_connector_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_connector_health_due_at", "connector_health", ["due_at"])
    op.create_index("ix_connector_health_lease_until", "connector_health", ["lease_until"])
    op.execute(
        "INSERT INTO connector_health (connector_id, organization_id, state, failures, successes, due_at, lease_until, "
        "fence, changed_at, alerted) SELECT id, organization_id, "
        "CASE WHEN status = 'error' THEN 'error' ELSE 'unknown' END, 0, 0, updated_at, '', 0, updated_at, false "
        "FROM connectors"
    )
    op.create_table(
        "health_events",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("before", sa.String(16), nullable=False),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("stage", sa.String(64)),
        sa.Column("message", sa.Text()),
        sa.Column("fix", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_health_events"),
        sa.ForeignKeyConstraint(
            ["organization_id", "connector_id"],
            ["connectors.organization_id", "connectors.id"],
            name="fk_health_events_organization_id_connector_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_health_events_connector_id_id", "health_events", ["connector_id", "id"])
    op.create_index("ix_health_events_at", "health_events", ["at"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("connector_id", sa.String(36), nullable=False),
        sa.Column("about", sa.String(128), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("due_at", sa.String(27), nullable=False),
        sa.Column("lease_until", sa.String(27), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("done_at", sa.String(27)),
        sa.Column("outcome", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.UniqueConstraint("about", "channel", name="uq_alerts_about_channel"),
    )
    op.create_index("ix_alerts_due_at", "alerts", ["due_at"])
    op.create_index("ix_alerts_done_at", "alerts", ["done_at"])
