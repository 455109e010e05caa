"""What a statement may do to an SQLite file: SQLite's own guards, all of them, each enough for its case.

Imported by the worker process: apsw and built-in modules only.
"""

from __future__ import annotations

import apsw

READS = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})
WRITES = frozenset(
    {
        apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE, apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_REINDEX, apsw.SQLITE_ANALYZE,
        apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_CREATE_VIEW, apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_DROP_VIEW, apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_DROP_VTABLE,
    }
)  # fmt: skip
_CHANGES = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
)
"""They read the catalogue and take a table's name. All others may change something, or tell paths."""
_BARE_PRAGMAS = frozenset({"data_version", "page_size"})
"""Full-text tables ask for these themselves; without an argument they only read."""
_MODULES = frozenset({"fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"})
DENIED_FUNCTIONS = frozenset(
    {"load_extension", "fts3_tokenizer", "writefile", "readfile", "edit", "optimize", "sqlite_log", "geopoly_debug"}
)
"""`optimize` writes from inside of a SELECT; some are not in apsw's build today."""


class Refused(Exception):
    """A statement that is not run: `args` hold why (`write`, `second`, `names`, `large`)."""


class Authorizer:
    """Allows what is listed and remembers what it refused last.

    `trusted` is set while our own statements run. `shadows` are the storage tables of virtual ones:
    R-Tree prepares its writes to them when it is opened, though a SELECT never runs them.
    """

    def __init__(self, actions: frozenset[int]) -> None:
        self.actions = actions
        self.trusted = False
        self.shadows: frozenset[str] = frozenset()
        self.denied: tuple[str, str] | None = None

    def __call__(self, action: int, one: str | None, two: str | None, _database: str | None, _by: str | None) -> int:
        """SQLite's authorizer call (`sqlite3_set_authorizer`): `SQLITE_OK` or `SQLITE_DENY`."""
        if self.trusted or self._allows(action, one, two):
            return apsw.SQLITE_OK
        name = str(apsw.mapping_authorizer_function[action]).removeprefix("SQLITE_")
        self.denied = (name, (two if action == apsw.SQLITE_FUNCTION else one) or "")
        return apsw.SQLITE_DENY

    def _allows(self, action: int, one: str | None, two: str | None) -> bool:
        if action == apsw.SQLITE_FUNCTION:
            return (two or "").lower() not in DENIED_FUNCTIONS
        if action == apsw.SQLITE_PRAGMA:
            name = (one or "").lower()
            return name in _PRAGMAS or (name in _BARE_PRAGMAS and two is None)
        if action == apsw.SQLITE_CREATE_VTABLE:
            return action in self.actions and (two or "").lower() in _MODULES
        if action in _CHANGES and one in self.shadows:
            return True
        return action in self.actions


def connect(
    path: str, flags: int, authorizer: Authorizer, *, length: int, busy_ms: int, spill: bool = False
) -> apsw.Connection:
    """A connection behind every guard that SQLite has. `spill`: sorts may use temporary files. Raises apsw.Error."""
    db = apsw.Connection(path, flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)
    db.set_busy_timeout(busy_ms)
    for option, value in (
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
        (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1),
    ):
        db.config(option, value)
    for limit, value in (
        (apsw.SQLITE_LIMIT_ATTACHED, 0),
        (apsw.SQLITE_LIMIT_LENGTH, length),
        (apsw.SQLITE_LIMIT_SQL_LENGTH, 1_000_000),  # the schema's own statements pass this limit too
        (apsw.SQLITE_LIMIT_VDBE_OP, 1_000_000),
        (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        db.limit(limit, value)
    reading = flags & apsw.SQLITE_OPEN_READONLY
    for pragma in (
        "temp_store=FILE" if spill else "temp_store=MEMORY",
        "cell_size_check=ON",
        "query_only=ON" if reading else "synchronous=EXTRA",
    ):
        list(db.execute(f"PRAGMA {pragma}", can_cache=False))
    db.authorizer = authorizer
    return db


def blank(text: str) -> bool:
    """Whether nothing but space, comments and semicolons is left."""
    while text := text.lstrip(" \t\r\n\f;"):
        if text.startswith("--"):
            text = text.partition("\n")[2]
        elif text.startswith("/*"):
            text = text.partition("*/")[2]
        else:
            return False
    return True
