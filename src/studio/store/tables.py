"""The tables. Unique names and aliases, and tenancy between rows, are the database's constraints."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

connectors = Table(
    "connectors",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("name", String(255), nullable=False),
    Column("connector_type", String(32), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("config_encrypted", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("last_tested_at", String(27)),
    Column("last_test_result", String(16)),
    Column("last_error", Text),
    Column("created_by", String(128), nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("updated_at", String(27), nullable=False),
    Column("version", Integer, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("secret_set_at", String(27)),
    Column("secret_expires_at", String(27)),
    UniqueConstraint("organization_id", "name"),
    UniqueConstraint("organization_id", "id"),
    Index(None, "organization_id", "connector_type", "id"),
    Index(None, "organization_id", "provider", "id"),
    Index(None, "organization_id", "status", "id"),
    Index(None, "organization_id", "connector_type", "status", "id"),
    Index(None, "organization_id", "provider", "status", "id"),
    Index(None, "key_id"),
)

connector_secrets = Table(
    "connector_secrets",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("connector_id", String(36), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("token", Text, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("until", String(27), nullable=False),
    ForeignKeyConstraint(
        ["organization_id", "connector_id"], ["connectors.organization_id", "connectors.id"], ondelete="CASCADE"
    ),
    # One staged and one previous set a connector: two rotations cannot be under way at one time.
    UniqueConstraint("connector_id", "kind"),
    Index(None, "key_id"),
    Index(None, "until"),
)

connector_health = Table(
    "connector_health",
    metadata,
    Column("connector_id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("successes", Integer, nullable=False),
    Column("interval_s", Integer),
    Column("due_at", String(27), nullable=False),
    Column("lease_until", String(27), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("changed_at", String(27), nullable=False),
    Column("checked_at", String(27)),
    Column("alerted", Boolean, nullable=False),
    ForeignKeyConstraint(
        ["organization_id", "connector_id"], ["connectors.organization_id", "connectors.id"], ondelete="CASCADE"
    ),
    Index(None, "due_at"),
    Index(None, "organization_id", "due_at"),
    Index(None, "lease_until"),
)

health_events = Table(
    "health_events",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("connector_id", String(36), nullable=False),
    Column("at", String(27), nullable=False),
    Column("before", String(16), nullable=False),
    Column("after", String(16), nullable=False),
    Column("code", String(64)),
    Column("stage", String(64)),
    Column("message", Text),
    Column("fix", Text),
    ForeignKeyConstraint(
        ["organization_id", "connector_id"], ["connectors.organization_id", "connectors.id"], ondelete="CASCADE"
    ),
    Index(None, "connector_id", "id"),
    Index(None, "at"),
)

# Without a reference to the connector: what was told of one that is gone is delivered all the same.
alerts = Table(
    "alerts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("connector_id", String(36), nullable=False),
    Column("about", String(128), nullable=False),
    Column("channel", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("due_at", String(27), nullable=False),
    Column("lease_until", String(27), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("done_at", String(27)),
    Column("outcome", String(64)),
    UniqueConstraint("about", "channel"),
    Index(None, "due_at"),
    Index(None, "done_at"),
)

connector_counts = Table(
    "connector_counts",
    metadata,
    Column("organization_id", String(128), primary_key=True),
    Column("connectors", Integer, nullable=False),
)
"""Kept for replicas of the version before revision 0007, which read it; the next version drops it."""

connector_tallies = Table(
    "connector_tallies",
    metadata,
    Column("organization_id", String(128), nullable=False),
    Column("connector_type", String(32), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("connectors", Integer, nullable=False),
    Index("ix_connector_tallies_group", "organization_id", "connector_type", "provider", "status"),
)
"""How many connectors a group has: the sum of its rows. Triggers write it (revision 0007), nothing else does."""

connector_instances = Table(
    "connector_instances",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("connector_id", String(36), nullable=False),
    Column("agent_id", String(128), nullable=False),
    Column("alias", String(128), nullable=False),
    Column("config_override", Text),
    Column("created_at", String(27), nullable=False),
    Column("organization_id", String(128), nullable=False),
    Column("key_id", String(16)),
    Column("saved_only", Boolean, nullable=False, server_default=false()),
    # Both columns together: an instance can only point into its own organization.
    ForeignKeyConstraint(
        ["organization_id", "connector_id"], ["connectors.organization_id", "connectors.id"], ondelete="CASCADE"
    ),
    UniqueConstraint("organization_id", "agent_id", "alias"),
    Index(None, "organization_id", "agent_id", "id"),
    Index(None, "connector_id", "id"),
    Index(None, "agent_id", "id"),
    Index(None, "key_id"),
)

saved_operations = Table(
    "saved_operations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("connector_id", String(36), nullable=False),
    Column("name", String(64), nullable=False),
    Column("description", Text, nullable=False),
    Column("query", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("bound", Text, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("organization_id", String(128), nullable=False),
    ForeignKeyConstraint(
        ["organization_id", "connector_id"], ["connectors.organization_id", "connectors.id"], ondelete="CASCADE"
    ),
    UniqueConstraint("organization_id", "connector_id", "name"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("prefix", String(16), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("role", String(16)),
    Column("agent_id", String(128)),
    Column("aliases", Text),
    Column("effects", Text),
    Column("created_by", String(128), nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("expires_at", String(27)),
    Column("last_used_at", String(27)),
    Column("revoked_at", String(27)),
    Index(None, "organization_id", "id"),
)

repeats = Table(
    "repeats",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("owner", String(36), nullable=False),
    Column("done", Boolean, nullable=False),
    Column("token", Text, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("expires_at", String(27), nullable=False),
    Index("ix_repeats_organization_id_created_at", "organization_id", "created_at"),
    Index(None, "expires_at"),
)

key_canaries = Table(
    "key_canaries",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("token", Text, nullable=False),
    Column("created_at", String(27), nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("organization_id", String(128), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(27), nullable=False),
    Column("event", String(32), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("code", String(32)),
    Column("agent_id", String(128)),
    Column("alias", String(128)),
    Column("connector_id", String(36)),
    Column("target", String(128)),
    Column("operation", String(128)),
    Column("effect", String(8)),
    Column("digest", String(32)),
    Column("rows", BigInteger),
    Column("bytes", BigInteger),
    Column("micros", BigInteger),
    Column("count", Integer, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("writer", String(36)),
    Column("details", Text),
    Column("hash", String(64), nullable=False),
    Index(None, "organization_id", "at"),
    Index(None, "organization_id", "connector_id", "seq"),
    Index(None, "organization_id", "agent_id", "seq"),
    Index(None, "organization_id", "subject", "seq"),
)
"""One chain an organization; the organization "" is the store itself."""

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("organization_id", String(128), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("base_seq", BigInteger, nullable=False),
    Column("base_hash", String(64), nullable=False),
    Column("mac", String(64), nullable=False),
)
"""Where each chain begins (after what was pruned) and ends, authenticated."""

audit_keys = Table(
    "audit_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("organization_id", String(128), nullable=False),
    Column("token", Text, nullable=False),
    Column("key_id", String(16), nullable=False),
)
"""The one key of all chains, sealed like a config."""
