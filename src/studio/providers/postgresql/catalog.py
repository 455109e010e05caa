"""The questions that we ask PostgreSQL's catalogue, as constant SQL; names are always bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_USERS_OWN = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"

TABLES = f"""
SELECT n.nspname AS schema, c.relname AS name,
       CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                      WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END AS type,
       CASE WHEN c.relkind <> 'v' AND c.reltuples >= 0 THEN c.reltuples::int8 END AS estimated_rows
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_USERS_OWN}
  AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
ORDER BY 1, 2
"""  # noqa: S608 - constants only

TABLE = """
SELECT json_build_object(
  'schema', n.nspname, 'name', c.relname, 'comment', obj_description(c.oid, 'pg_class'),
  'type', CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                         WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END,
  'columns', (
    SELECT coalesce(json_agg(json_build_object(
      'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'nullable', NOT a.attnotnull,
      'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
      'comment', col_description(c.oid, a.attnum)) ORDER BY a.attnum), '[]')
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'primary_key', (
    SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]')
    FROM pg_constraint p, unnest(p.conkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a
    WHERE p.conrelid = c.oid AND p.contype = 'p' AND a.attrelid = c.oid AND a.attnum = k.attnum),
  'foreign_keys', (
    SELECT coalesce(json_agg(json_build_object(
      'name', f.conname,
      'columns', (SELECT json_agg(a.attname ORDER BY k.place)
                  FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a
                  WHERE a.attrelid = f.conrelid AND a.attnum = k.attnum),
      'references', json_build_object('schema', tn.nspname, 'table', t.relname, 'columns',
                 (SELECT json_agg(a.attname ORDER BY k.place)
                  FROM unnest(f.confkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a
                  WHERE a.attrelid = f.confrelid AND a.attnum = k.attnum))) ORDER BY f.conname), '[]')
    FROM pg_constraint f JOIN pg_class t ON t.oid = f.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
    WHERE f.conrelid = c.oid AND f.contype = 'f'),
  'indexes', (
    SELECT coalesce(json_agg(json_build_object(
      'name', i.relname, 'unique', x.indisunique, 'definition', pg_get_indexdef(x.indexrelid))
      ORDER BY i.relname), '[]')
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid)
) AS description
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname = $1
  AND CASE WHEN $2::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2 END
"""

PRIVILEGES = f"""
SELECT json_build_object(
  'database', current_database(), 'role', current_user,
  'attributes', (
    SELECT json_object_agg(name, given) FROM pg_catalog.pg_roles r, LATERAL (VALUES
      ('superuser', r.rolsuper), ('createrole', r.rolcreaterole), ('createdb', r.rolcreatedb),
      ('replication', r.rolreplication), ('bypassrls', r.rolbypassrls)) AS a(name, given)
    WHERE r.rolname = current_user),
  'roles', (
    SELECT coalesce(json_agg(rolname ORDER BY rolname), '[]') FROM pg_catalog.pg_roles
    WHERE rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
                      'pg_write_all_data', 'pg_signal_backend', 'pg_maintain', 'pg_checkpoint',
                      'pg_create_subscription') AND pg_has_role(current_user, oid, 'MEMBER')),
  'create_in_database', has_database_privilege(current_database(), 'CREATE'),
  'create_in_schemas', (
    SELECT coalesce(json_agg(n.nspname ORDER BY n.nspname), '[]') FROM pg_catalog.pg_namespace n
    WHERE {_USERS_OWN} AND has_schema_privilege(n.oid, 'CREATE')),
  'writable', (
    SELECT json_build_object('count', count(*), 'first', (array_agg(t.name ORDER BY t.name))[1:5]) FROM (
      SELECT format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'v', 'f') AND {_USERS_OWN} AND has_schema_privilege(n.oid, 'USAGE')
        AND (has_any_column_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'UPDATE')
             OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE'))) t),
  'sequences', (
    SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND {_USERS_OWN} AND has_schema_privilege(n.oid, 'USAGE')
      AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, UPDATE') END),
  'schemas', (
    SELECT coalesce(json_agg(n.nspname ORDER BY n.nspname), '[]') FROM pg_catalog.pg_namespace n
    WHERE {_USERS_OWN} AND has_schema_privilege(n.oid, 'USAGE'))
) AS found
"""  # noqa: S608 - constants only

READER = "studio_reader"


def quoted(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def shape(found: dict[str, Any]) -> dict[str, Any]:
    """The answer to `PRIVILEGES` as `Probe.privileges`."""
    excess = [name for name, given in found["attributes"].items() if given]
    excess += [f"member of {role}" for role in found["roles"]]
    if found["create_in_database"]:
        excess.append("CREATE in the database")
    excess += [f"CREATE in schema {schema}" for schema in found["create_in_schemas"]]
    if count := found["writable"]["count"]:
        some = ", ".join(found["writable"]["first"])
        excess.append(f"may change {count} table(s), such as {some}")
    if found["sequences"]:
        excess.append(f"may advance {found['sequences']} sequence(s)")
    return {
        "enforced_by": "service" if excess else "account",
        "excess": excess,
        "grant": _grant(found["database"], found["schemas"]) if excess else [],
    }


def _grant(database: str, schemas: Iterable[str]) -> list[str]:
    """Statements for a role that can read and nothing else; its password is set by hand (`\\password`)."""
    lines = [
        f"CREATE ROLE {READER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
        f"ALTER ROLE {READER} SET default_transaction_read_only = on",
        f"GRANT CONNECT ON DATABASE {quoted(database)} TO {READER}",
    ]
    for schema in map(quoted, schemas):
        lines += [
            f"GRANT USAGE ON SCHEMA {schema} TO {READER}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {READER}",
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {READER}",
        ]
    return lines
