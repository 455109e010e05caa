"""The queue of probes of each organization, for the moments when one organization fills the head of the whole queue."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index("ix_connector_health_organization_id_due_at", "connector_health", ["organization_id", "due_at"])
