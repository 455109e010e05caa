"""Connectors counted by what a list may be narrowed by, and indexes for two filters at once.

The database counts by itself, by triggers, so a replica of the former version counts too. In SQLite,
where a writer is alone, there is one row a group. In PostgreSQL a change only appends a row, so writers
never wait for one another; now and then one of them folds its organization's rows into one a group,
passing over those that somebody else is folding. What is folded is unseen until the commit.

A migration that lets Alembic copy `connectors` on SQLite (`batch_alter_table`) drops the triggers:
it must make them again.
"""

# ruff: noqa: S608 - every part of every statement is a constant of this file

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

GROUP = ("organization_id", "connector_type", "provider", "status")
COLUMNS = ", ".join(GROUP)
TABLE = "connector_tallies"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("organization_id", sa.String(128), nullable=False),
        sa.Column("connector_type", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("connectors", sa.Integer(), nullable=False),
    )
    op.create_index("ix_connector_tallies_group", TABLE, list(GROUP))
    for one in ("connector_type", "provider"):
        columns = ["organization_id", one, "status", "id"]
        op.create_index(f"ix_connectors_{'_'.join(columns)}", "connectors", columns)
    triggers = _postgresql() if op.get_bind().dialect.name == "postgresql" else _sqlite()
    for statement in triggers:
        op.execute(statement)
    op.execute(f"INSERT INTO {TABLE} SELECT {COLUMNS}, count(*) FROM connectors GROUP BY {COLUMNS}")


def _of(row: str) -> str:
    return ", ".join(f"{row}.{name}" for name in GROUP)


def _sqlite() -> list[str]:
    def change(row: str, by: str) -> str:
        same = " AND ".join(f"{name} = {row}.{name}" for name in GROUP)
        return (
            f"INSERT INTO {TABLE} SELECT {_of(row)}, 0 WHERE NOT EXISTS (SELECT 1 FROM {TABLE} WHERE {same}); "
            f"UPDATE {TABLE} SET connectors = connectors {by} WHERE {same};"
        )

    more, less = change("NEW", "+ 1"), change("OLD", "- 1")
    return [
        f"CREATE TRIGGER connectors_tally_insert AFTER INSERT ON connectors BEGIN {more} END",
        f"CREATE TRIGGER connectors_tally_delete AFTER DELETE ON connectors BEGIN {less} END",
        f"CREATE TRIGGER connectors_tally_update AFTER UPDATE OF {COLUMNS} ON connectors BEGIN {less} {more} END",
    ]


def _postgresql() -> list[str]:
    return [
        # One change in 64 folds, so an organization has about as many rows to add up as it has groups, and 64 more.
        f"""
        CREATE FUNCTION connectors_tally_fold(organization text) RETURNS void LANGUAGE sql AS $$
            WITH mine AS (
                SELECT ctid FROM {TABLE} WHERE organization_id = organization FOR UPDATE SKIP LOCKED
            ), gone AS (DELETE FROM {TABLE} WHERE ctid IN (SELECT ctid FROM mine) RETURNING *)
            INSERT INTO {TABLE} SELECT {COLUMNS}, sum(connectors) FROM gone GROUP BY {COLUMNS}
            HAVING sum(connectors) <> 0
        $$""",
        f"""
        CREATE FUNCTION connectors_tally_rows() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO {TABLE} SELECT {COLUMNS}, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
            FROM changed GROUP BY {COLUMNS};
            IF random() < 1.0 / 64 THEN
                PERFORM connectors_tally_fold(organization_id) FROM (SELECT DISTINCT organization_id FROM changed) AS _;
            END IF;
            RETURN NULL;
        END $$""",
        f"""
        CREATE FUNCTION connectors_tally_update() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO {TABLE} VALUES ({_of("OLD")}, -1), ({_of("NEW")}, 1);
            IF random() < 1.0 / 64 THEN
                PERFORM connectors_tally_fold(NEW.organization_id);
            END IF;
            RETURN NULL;
        END $$""",
        """
        CREATE TRIGGER connectors_tally_insert AFTER INSERT ON connectors REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION connectors_tally_rows()""",
        """
        CREATE TRIGGER connectors_tally_delete AFTER DELETE ON connectors REFERENCING OLD TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION connectors_tally_rows()""",
        f"""
        CREATE TRIGGER connectors_tally_update AFTER UPDATE OF {COLUMNS} ON connectors FOR EACH ROW
        WHEN (({_of("OLD")}) IS DISTINCT FROM ({_of("NEW")})) EXECUTE FUNCTION connectors_tally_update()""",
    ]
