"""The audit log: one chain of rows an organization, each row authenticated together with the one before it.

    hash(n) = HMAC-SHA256(key, ["row", organization, n, hash(n - 1), fields …])

The chain's end (and, after pruning, its beginning) stands in `audit_heads` under the same key, so that
a writer of the store can neither change nor drop a row without `studio.store.audit_check` seeing it.
Rows are appended under a lock on the head, inside whatever transaction they belong to.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from studio.errors import Internal
from studio.models import AuditEntry
from studio.store.engine import Database, announce, insert_rows, is_unique_violation, upsert
from studio.store.tables import audit_heads, audit_log

T = TypeVar("T")
STORE = ""
"""The organization of what happens to the store as a whole: keys, and which books there are."""
OPENED, REOPENED = "book.opened", "book.reopened"
NAMES = tuple(one.name for one in fields(AuditEntry) if one.name != "organization_id")
"""The fields of a row that its hash covers, in this order, beside organization, number and predecessor."""
_VALUES = attrgetter(*NAMES)
_NONE = "0" * 64
_BLOCK = 64
"""Bytes of a block of SHA-256."""
_SHORT = 4_096
"""Bytes of a statement whose digest is remembered: statements come again."""


@dataclass(frozen=True)
class Head:
    """Where a chain ends, and after which row it begins; `mac` authenticates both."""

    organization_id: str
    seq: int = 0
    hash: str = _NONE
    base_seq: int = 0
    base_hash: str = _NONE
    mac: str = ""


@dataclass
class Batch:
    """Entries to append once, however often it is tried: `attempt` is where the last one of them would stand."""

    entries: list[AuditEntry]
    attempt: tuple[str, int, str] | None = None


class Marker:
    """HMAC-SHA256 (RFC 2104) under one key. Its two first blocks are hashed once: 2 µs a call in place of 10."""

    def __init__(self, key: bytes) -> None:
        key = hashlib.sha256(key).digest() if len(key) > _BLOCK else key
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def __call__(self, message: bytes) -> bytes:
        """The mark of a message, 32 bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class AuditLog:
    """Appends rows. Shared by everything in this process that writes to one store."""

    def __init__(self, database: Database, key: bytes) -> None:
        self.database = database
        self._mark = Marker(key)
        self._digest = Marker(self._mark(b"digests of statements"))
        self._digest_of_short = lru_cache(1024)(self._digest)
        self._seen: dict[str, int] = {}

    def __repr__(self) -> str:
        return "AuditLog()"

    def digest(self, statement: bytes) -> str:
        """A name for a statement: equal ones have equal names, and without the key none can be guessed."""
        made = self._digest_of_short(statement) if len(statement) <= _SHORT else self._digest(statement)
        return made.hex()[:32]

    async def write(self, work: Callable[[Connection], T], entry: AuditEntry | Callable[[T], AuditEntry | None]) -> T:
        """Run one transaction that changes something, together with the row that says so.

        `entry` may be a function of what `work` found; one that gives None says that nothing changed.
        """

        def whole(connection: Connection) -> T:
            result = work(connection)
            made = entry if isinstance(entry, AuditEntry) else entry(result)
            if made is not None:
                self.append(connection, [made])
                announce(connection)
            return result

        return await self.database.write(whole)

    async def write_batch(self, batch: Batch) -> None:
        """Append a batch in a transaction of its own; one that was committed already is left alone."""
        await self.database.write(lambda connection: self._once(connection, batch))

    def append(self, connection: Connection, entries: Sequence[AuditEntry]) -> tuple[str, int, str]:
        """Append rows inside the caller's transaction; where the last one stands.

        The heads stay locked until the transaction ends, in the order of their organizations: do it last.
        """
        books = {entry.organization_id for entry in entries}
        heads, news = self._locked(connection, books)
        ends = {name: (head.seq, head.hash) for name, head in heads.items()}
        rows: list[tuple[Any, ...]] = []
        for entry in [*entries, *news]:
            seq, before = ends[entry.organization_id]
            values = _VALUES(entry)
            made = self.row_hash(entry.organization_id, seq + 1, before, values)
            ends[entry.organization_id] = (seq + 1, made)
            rows.append((entry.organization_id, seq + 1, *values, made))
        try:
            insert_rows(connection, audit_log, ("organization_id", "seq", *NAMES, "hash"), rows)
        except IntegrityError as exc:
            if not is_unique_violation(exc):
                raise
            raise Internal("the audit log holds rows past its own end; run: studio audit verify") from None
        for name, (seq, made) in ends.items():
            self.put_head(connection, replace(heads[name], seq=seq, hash=made))
        last = rows[len(entries) - 1]
        return last[0], last[1], last[-1]

    def _once(self, connection: Connection, batch: Batch) -> None:
        if batch.attempt is not None:
            organization_id, seq, made = batch.attempt
            here = (audit_log.c.organization_id == organization_id, audit_log.c.seq == seq)
            if connection.scalar(select(audit_log.c.hash).where(*here)) == made:
                return
        batch.attempt = self.append(connection, batch.entries)

    # -- heads ----------------------------------------------------------------------------------

    def _locked(self, connection: Connection, books: set[str]) -> tuple[dict[str, Head], list[AuditEntry]]:
        """The heads, locked; and what the store's own book is to say about those that were not there.

        Whoever makes a head holds the store's own one first, so that no two transactions wait for
        each other.
        """
        news: list[AuditEntry] = []
        if not books <= self._seen.keys() and books - set(_heads(connection, books, lock=False)):
            news += self._make(connection, STORE)
            for organization_id in sorted(books - set(_heads(connection, books, lock=False))):
                news += self._make(connection, organization_id)
            books = books | {STORE}
        heads = _heads(connection, books, lock=True)
        for organization_id in sorted(books):
            head = heads.get(organization_id)
            if head is None or not self.is_sound(head) or head.seq < self._seen.get(organization_id, 0):
                heads[organization_id] = self._rebuilt(connection, organization_id, head)
                news.append(_about(REOPENED, organization_id, heads[organization_id].seq))
            self._seen[organization_id] = heads[organization_id].seq
        if news and STORE not in heads:
            heads |= self._locked(connection, {STORE})[0]
        return heads, news

    def _make(self, connection: Connection, organization_id: str) -> list[AuditEntry]:
        """Make the head if it is not there, and lock it; what the store's own book is to say about that."""
        if _heads(connection, {organization_id}, lock=True):
            return []
        head = self._by_rows(connection, Head(organization_id))
        made = upsert(connection, audit_heads, self._authenticated(head), {})
        _heads(connection, {organization_id}, lock=True)
        if not made:  # by another writer, since we looked: the rows that we saw are its own, and nothing was lost
            return []
        if head.seq:
            return [_about(REOPENED, organization_id, head.seq)]
        return [_about(OPENED, organization_id, 0)] if organization_id != STORE else []

    def _rebuilt(self, connection: Connection, organization_id: str, found: Head | None) -> Head:
        """A head in place of one that was taken away, forged or put back; the finding stays in the log."""
        head = self._by_rows(connection, found if found and self.is_sound(found) else Head(organization_id))
        if found is None:
            upsert(connection, audit_heads, self._authenticated(head), {})
        return head

    def _by_rows(self, connection: Connection, head: Head) -> Head:
        """The head, with the end of the chain as far as the rows and this process's memory tell."""
        mine = audit_log.c.organization_id == head.organization_id
        newest = select(audit_log.c.seq, audit_log.c.hash).where(mine).order_by(audit_log.c.seq.desc()).limit(1)
        row = connection.execute(newest).first()
        seq, made = (row[0], row[1]) if row else (0, _NONE)
        return replace(head, seq=max(seq, self._seen.get(head.organization_id, 0)), hash=made)

    def put_head(self, connection: Connection, head: Head) -> None:
        """Store a head, authenticated."""
        connection.execute(_PUT, {"book": head.organization_id, **self._authenticated(head)})

    def _authenticated(self, head: Head) -> dict[str, Any]:
        values = [head.organization_id, head.seq, head.hash, head.base_seq, head.base_hash]
        return dict(zip((column.name for column in audit_heads.c), [*values, self._mac(head)], strict=True))

    def is_sound(self, head: Head) -> bool:
        """Whether this log wrote the head."""
        return hmac.compare_digest(head.mac, self._mac(head))

    def _mac(self, head: Head) -> str:
        return self._hash("head", head.organization_id, head.seq, head.hash, head.base_seq, head.base_hash)

    def row_hash(self, organization_id: str, seq: int, before: str, values: Iterable[Any]) -> str:
        """The hash of one row; `values` in the order of `NAMES`."""
        return self._hash("row", organization_id, seq, before, *values)

    def _hash(self, *parts: Any) -> str:
        return self._mark(orjson.dumps(parts)).hex()


_HEADS = (
    select(audit_heads)
    .where(audit_heads.c.organization_id.in_(bindparam("books", expanding=True)))
    .order_by(audit_heads.c.organization_id)
)
_LOCKED = _HEADS.with_for_update()
_PUT = update(audit_heads).where(audit_heads.c.organization_id == bindparam("book"))
"""Constants, as every transaction of the log needs them: built anew, they cost more than the database takes."""


def _heads(connection: Connection, books: set[str], *, lock: bool) -> dict[str, Head]:
    rows = connection.execute(_LOCKED if lock else _HEADS, {"books": sorted(books)}).all()
    return {row[0]: Head(*row) for row in rows}


def _about(event: str, organization_id: str, seq: int) -> AuditEntry:
    """A row of the store's own book about another one."""
    details = orjson.dumps({"after": seq}).decode()
    return AuditEntry(STORE, event, "studio", target=organization_id, details=details)
