"""PostgreSQL and MariaDB, both real, and both with an account that may do anything; and SQLite on a file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

from tests.attack.readonly import corpus
from tests.attack.readonly.oracle import Engine, State
from tests.servers import Postgres
from tests.upstreams.mariadb import Mariadb

SETTLE_S = 0.03
"""After this, what a pool does behind its callers' backs is done."""


def digest(value: Any) -> str:
    """A short text that is the same for the same value."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def canaries(folder: Path) -> list[str]:
    """Files that only a statement can have made."""
    return sorted(path.name for path in folder.glob("canary*"))


class Postgresql(Engine):
    """A database made from a template, so that putting it back keeps every number that a catalogue shows."""

    kind: ClassVar[str] = "postgresql"
    files: ClassVar[str] = "postgresql.attacks.txt"
    reads: ClassVar[tuple[str, ...]] = ("sql.reads.txt", "postgresql.reads.txt")
    parts: ClassVar[dict[str, str]] = {
        "tables": """SELECT table_name, md5(query_to_xml(format('TABLE public.%I', table_name), true, true, '')::text)
            FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1""",
        "relations": """SELECT oid, relname, relkind, relacl::text, relfilenode, relrowsecurity FROM pg_class
            WHERE relnamespace = 'public'::regnamespace ORDER BY 1""",
        "catalogue": """SELECT (SELECT md5(string_agg(p::text, ',' ORDER BY oid)) FROM pg_proc p WHERE oid >= 16384),
            (SELECT md5(string_agg(n::text, ',' ORDER BY oid)) FROM pg_namespace n WHERE nspname !~ '^pg_t'),
            (SELECT md5(string_agg(t::text, ',' ORDER BY oid)) FROM pg_type t WHERE oid >= 16384 AND typnamespace = 'public'::regnamespace),
            (SELECT md5(string_agg(a::text, ',' ORDER BY attrelid, attnum)) FROM pg_attribute a WHERE attrelid >= 16384
              AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)),
            (SELECT md5(string_agg(t::text, ',' ORDER BY oid)) FROM pg_trigger t),
            (SELECT md5(string_agg(r::text, ',' ORDER BY oid)) FROM pg_rewrite r WHERE oid >= 16384),
            (SELECT md5(string_agg(p::text, ',' ORDER BY oid)) FROM pg_policy p),
            (SELECT md5(string_agg(d::text, ',')) FROM pg_description d WHERE objoid >= 16384),
            (SELECT md5(string_agg(e::text, ',' ORDER BY oid)) FROM pg_extension e),
            (SELECT md5(string_agg(c::text, ',' ORDER BY oid)) FROM pg_collation c WHERE oid >= 16384),
            (SELECT md5(string_agg(d::text, ',' ORDER BY oid)) FROM pg_default_acl d),
            (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_statistic_ext), (SELECT count(*) FROM pg_foreign_server)""",
        "statistics": "SELECT md5(string_agg(s::text, ',' ORDER BY attname, tablename)) FROM pg_stats s WHERE schemaname = 'public'",
        "sequences": "SELECT sequencename, last_value, start_value FROM pg_sequences ORDER BY 1",
        "roles": """SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolpassword IS NULL,
            (SELECT array_agg(setconfig::text) FROM pg_db_role_setting WHERE setrole = r.oid),
            (SELECT array_agg(roleid::regrole::text) FROM pg_auth_members WHERE member = r.oid) FROM pg_authid r ORDER BY 1""",
        "databases": "SELECT datname, datacl::text FROM pg_database ORDER BY 1",
        "settings": "SELECT md5(string_agg(name || coalesce(setting, ''), ',' ORDER BY name)) FROM pg_settings",
        "configuration": "SELECT md5(pg_read_file('postgresql.auto.conf'))",
        "large objects": "SELECT count(*), (SELECT count(*) FROM pg_largeobject) FROM pg_largeobject_metadata",
        "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' OR (mode IN ('AccessExclusiveLock', 'RowShareLock') AND granted)",
        "slots": "SELECT slot_name FROM pg_replication_slots UNION ALL SELECT roname FROM pg_replication_origin ORDER BY 1",
        "prepared": "SELECT gid FROM pg_prepared_xacts",
        "data folder": "SELECT f FROM pg_ls_dir('.') f ORDER BY 1",
    }
    next_borrower: ClassVar[str] = """
        SELECT current_user, session_user, md5(string_agg(name || coalesce(setting, ''), ',' ORDER BY name)),
               coalesce(nullif(current_setting('app.poison', true), ''), '-'), to_regclass('pg_temp.users')::text,
               (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_prepared_statements WHERE name = 'poison'),
               (SELECT count(*) FROM pg_cursors WHERE name IN ('held', 'c'))
        FROM pg_settings WHERE name !~ '^(app|plpgsql)[.]'"""

    def __init__(self, server: Postgres) -> None:
        self.server, self.database = server, "oracle"
        self.heard: list[str] = []
        self.held: list[Any] = []

    async def start(self, folder: Path) -> None:
        admin = await self.server.admin()
        await admin.execute("ALTER SYSTEM SET autovacuum = off")
        await admin.execute("ALTER SYSTEM SET dynamic_library_path = '$libdir'")
        await admin.execute("SELECT pg_reload_conf()")
        for text in (
            "DROP DATABASE IF EXISTS oracle",
            "DROP DATABASE IF EXISTS golden",
            "DROP ROLE IF EXISTS poor",
            "CREATE DATABASE golden",
        ):
            await admin.execute(text)
        await admin.close()
        golden = await self.server.admin("golden")
        await golden.execute(corpus.script("common.schema.sql"))
        await golden.execute(corpus.script("postgresql.schema.sql"))
        await golden.execute("VACUUM")
        await golden.close()
        self.admin: Any = None
        self.auto_conf = (self.server.dir / "data" / "postgresql.auto.conf").read_text()
        await self.restore()
        await super().start(folder)

    async def stop(self) -> None:
        await super().stop()
        for conn in [*self.held, self.admin]:
            conn.terminate()

    def config(self) -> dict[str, Any]:
        return self.server.config(database=self.database)

    def fill(self, text: str) -> str:
        found = {"dir": str(self.server.dir), "port": str(self.server.port), "password": self.server.password}
        for name, value in {**found, "database": self.database}.items():
            text = text.replace("{" + name + "}", value)
        return text

    async def state(self) -> State:
        await asyncio.sleep(SETTLE_S)
        found = {}
        for part, text in self.parts.items():
            try:
                found[part] = digest(await self.admin.fetch(text))
            except Exception as exc:
                found[part] = type(exc).__name__  # what it reads from is gone
        found["files"] = digest(canaries(self.server.dir))
        found["notifications"] = digest(self.heard)
        if hasattr(self, "service"):
            found["next borrower"] = digest((await self.read(self.next_borrower))["data"])
        return found

    async def restore(self) -> None:
        for conn in [*self.held, *([self.admin] if self.admin else [])]:
            conn.terminate()
        self.held.clear()
        admin = await self.server.admin()
        await admin.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        await admin.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")
        for (name,) in await admin.fetch(
            "SELECT datname FROM pg_database WHERE datname !~ '^(template|postgres|app|golden)'"
        ):
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        for (name,) in await admin.fetch("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'app'"):
            await admin.execute(f'DROP ROLE "{name}"')
        await admin.execute("CREATE ROLE poor")
        path = self.server.dir / "data" / "postgresql.auto.conf"
        if path.read_text() != self.auto_conf:
            path.write_text(self.auto_conf)
            await admin.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(0.2)
        await admin.execute(f"CREATE DATABASE {self.database} TEMPLATE golden STRATEGY FILE_COPY")
        await admin.close()
        for path in self.server.dir.glob("canary*"):
            path.unlink()
        self.heard.clear()
        self.admin = await self.server.admin(self.database)
        await self.admin.add_listener("canary", lambda *heard: self.heard.append(heard[-1]))

    async def write(self, text: str) -> None:
        conn = await self.server.admin(self.database)
        try:
            with contextlib.suppress(Exception):
                await conn.execute("SET statement_timeout = 2000")
                await conn.execute(text)
        finally:
            # A session whose lock is the effect is kept: it ends when the state is put back.
            look = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $1"
            if await self.admin.fetchval(look, conn.get_server_pid()):
                self.held.append(conn)
            else:
                await asyncio.wait_for(conn.close(), 2)


class MariadbEngine(Engine):
    """MariaDB, not Oracle's MySQL."""

    kind: ClassVar[str] = "mysql"
    files: ClassVar[str] = "mariadb.attacks.txt"
    reads: ClassVar[tuple[str, ...]] = ("sql.reads.txt", "mariadb.reads.txt")
    parts: ClassVar[dict[str, str]] = {
        "catalogue": """SELECT table_name, table_type, engine, create_options, table_collation, auto_increment FROM information_schema.tables
            WHERE table_schema = 'app' ORDER BY 1""",
        "columns": "SELECT table_name, column_name, column_type, column_default FROM information_schema.columns WHERE table_schema = 'app' ORDER BY 1, ordinal_position",
        "indexes": "SELECT table_name, index_name, column_name FROM information_schema.statistics WHERE table_schema = 'app' ORDER BY 1, 2, seq_in_index",
        "views": "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = 'app' ORDER BY 1",
        "routines": "SELECT db, name, type, body FROM mysql.proc ORDER BY 1, 2",
        "triggers": "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'app' ORDER BY 1",
        "events": "SELECT db, name FROM mysql.event ORDER BY 1",
        "databases": "SELECT schema_name, default_character_set_name FROM information_schema.schemata ORDER BY 1",
        "accounts": r"""SELECT host, user, REGEXP_REPLACE(priv, '"password_last_changed":[0-9]+', '') FROM mysql.global_priv ORDER BY 1, 2""",
        "grants": "SELECT host, db, user, table_name, table_priv FROM mysql.tables_priv ORDER BY 1, 2, 3, 4",
        "servers": "SELECT server_name FROM mysql.servers",
        "plugins": "SELECT name FROM mysql.plugin",
        "column statistics": "SELECT table_name, column_name FROM mysql.column_stats ORDER BY 1, 2",
        "sequences": "SELECT next_not_cached_value FROM app.sq",
        "settings": "SHOW GLOBAL VARIABLES WHERE variable_name NOT LIKE 'gtid%' AND variable_name NOT IN ('timestamp', 'innodb_buffer_pool_load_status')",
        "locks": "SELECT IS_USED_LOCK('canary') IS NOT NULL",
        "transactions": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_rows_locked > 0 OR trx_tables_locked > 0",
    }
    next_borrower: ClassVar[str] = """
        SELECT @@sql_mode, @@autocommit, @@tx_read_only, @@time_zone, @@max_statement_time, @@sql_select_limit, @poison, DATABASE(),
               IS_USED_LOCK('canary'), @@foreign_key_checks, @@character_set_client"""

    def __init__(self, server: Mariadb) -> None:
        self.server, self.admin, self.held = server, None, []

    async def connect(self) -> Any:
        """The plain driver, as root, with all of a server's own manners: several statements at once too."""
        import asyncmy
        from asyncmy.constants import CLIENT

        return await asyncmy.connect(
            host=self.server.host, port=self.server.port, user="root", password=self.server.root_password, db="app",
            charset="utf8mb4", autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS,
        )  # fmt: skip

    async def fetch(self, text: str) -> Any:
        async with self.admin.cursor() as cursor:
            await cursor.execute(text)
            return await cursor.fetchall()

    async def start(self, folder: Path) -> None:
        self.admin = await self.connect()
        self.golden = dict(await self.fetch("SHOW GLOBAL VARIABLES"))
        await self.restore()
        await super().start(folder)

    async def stop(self) -> None:
        await super().stop()
        await self.let_go()
        await self.admin.ensure_closed()

    async def let_go(self) -> None:
        while self.held:
            await self.held.pop().ensure_closed()

    def config(self) -> dict[str, Any]:
        return self.server.config(username="root", password=self.server.root_password, timeout_s=3.0)

    def fill(self, text: str) -> str:
        return text.replace("{dir}", str(self.server.dir)).replace("\\x01", "\x01")

    async def state(self) -> State:
        await asyncio.sleep(SETTLE_S)
        found = {}
        for part, text in self.parts.items():
            try:
                found[part] = digest(await self.fetch(text))
            except Exception as exc:
                found[part] = type(exc).__name__  # what it reads from is gone
        names = [
            name
            for (name,) in await self.fetch(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'app' AND table_type = 'BASE TABLE' ORDER BY 1"
            )
        ]
        found["tables"] = (
            digest(await self.fetch(f"CHECKSUM TABLE {', '.join(f'app.`{name}`' for name in names)} EXTENDED"))
            if names
            else ""
        )
        found["files"] = digest(canaries(self.server.dir))
        if hasattr(self, "service"):
            found["next borrower"] = digest((await self.read(self.next_borrower))["data"])
        return found

    async def restore(self) -> None:
        await self.let_go()
        for (name,) in await self.fetch(
            "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')"
        ):
            await self.fetch(f"DROP DATABASE `{name}`")
        for host, user in await self.fetch(
            "SELECT host, user FROM mysql.global_priv WHERE user NOT IN ('root', 'app', 'mysql', 'mariadb.sys') OR user = ''"
        ):
            await self.fetch(f"DROP USER '{user}'@'{host}'" if host else f"DROP ROLE `{user}`")
        for (name,) in await self.fetch("SELECT server_name FROM mysql.servers"):
            await self.fetch(f"DROP SERVER `{name}`")
        for (name,) in await self.fetch("SELECT name FROM mysql.plugin"):
            await self.fetch(f"UNINSTALL PLUGIN `{name}`")
        await self.fetch("DELETE FROM mysql.column_stats")
        for name, value in await self.fetch("SHOW GLOBAL VARIABLES"):
            if value != self.golden.get(name) and not name.startswith(("gtid", "timestamp", "innodb_buffer_pool_load")):
                with contextlib.suppress(Exception):
                    value = self.golden[name]
                    await self.fetch(
                        f"SET GLOBAL {name} = {value if value.isdigit() or value in ('ON', 'OFF') else repr(value)}"
                    )
        await self.fetch("CREATE DATABASE app CHARACTER SET utf8mb4")
        await self.fetch("USE app")
        for line in (corpus.script("common.schema.sql") + corpus.script("mariadb.schema.sql")).splitlines():
            await self.fetch(line)
        for path in self.server.dir.glob("canary*"):
            path.unlink()

    async def write(self, text: str) -> None:
        conn = await self.connect()
        lock = False
        try:
            async with asyncio.timeout(3):
                async with conn.cursor() as cursor:
                    await cursor.execute(
                        "SET max_statement_time = 2, lock_wait_timeout = 1, innodb_lock_wait_timeout = 1"
                    )
                    with contextlib.suppress(Exception):
                        await cursor.execute(text)
                        while await cursor.nextset():
                            pass
                    await cursor.execute("SELECT IS_USED_LOCK('canary') = CONNECTION_ID()")
                    lock = bool((await cursor.fetchone())[0])
        except Exception:
            pass
        if lock:
            self.held.append(conn)
        else:
            conn.close()


class SqliteEngine(Engine):
    """A file, in a folder that holds nothing else."""

    kind: ClassVar[str] = "sqlite"
    files: ClassVar[str] = "sqlite.attacks.txt"
    reads: ClassVar[tuple[str, ...]] = ("sql.reads.txt", "sqlite.reads.txt")

    async def start(self, folder: Path) -> None:
        import apsw

        self.folder = folder / "studio" / "files"
        self.folder.mkdir(parents=True)
        self.path = self.folder / "oracle.db"
        db = apsw.Connection(str(self.path))
        db.execute(corpus.script("common.schema.sql") + corpus.script("sqlite.schema.sql"))
        db.close()
        self.golden = self.path.read_bytes()
        await super().start(folder)

    def config(self) -> dict[str, Any]:
        return {"path": "oracle.db"}

    def fill(self, text: str) -> str:
        return text.replace("{dir}", str(self.folder))

    async def state(self) -> State:
        found = {path.name: digest(path.read_bytes()) for path in self.folder.iterdir()}
        here = sorted(name for name in os.listdir() if "canary" in name)
        borrower = await self.read(
            "SELECT changes(), total_changes(), (SELECT count(*) FROM pragma_table_list WHERE schema = 'temp')"
        )
        mode = self.path.stat().st_mode
        return {"file": found.pop("oracle.db", "gone"), "others": digest((sorted(found.items()), here)), "mode": str(mode),
                "next borrower": digest(borrower["data"])}  # fmt: skip

    async def restore(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        new = self.folder / "new"
        new.write_bytes(self.golden)
        new.rename(self.path)

    async def write(self, text: str) -> None:
        await asyncio.to_thread(self._write, text)

    def _write(self, text: str) -> None:
        import apsw

        db = apsw.Connection(str(self.path))
        with contextlib.suppress(Exception):
            list(db.execute(text))
        db.close(True)
