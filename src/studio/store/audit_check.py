"""Reading the audit log: pages of rows, the check of a whole chain, and what is left after pruning."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, delete, func, select

from studio.models import AuditEntry
from studio.store.audit import NAMES, OPENED, REOPENED, STORE, AuditLog, Head
from studio.store.engine import Database
from studio.store.tables import audit_heads, audit_log

PAGE = 1000
"""Rows that are checked between two looks at the clock."""
EXACT = ("subject", "agent_id", "connector_id", "operation", "event", "verdict", "code", "request_id")
_KEYS = ("organization_id", "seq", *NAMES, "hash")
_COLUMNS = [audit_log.c[name] for name in _KEYS]


@dataclass
class Book:
    """What the check of one chain found. `problems` are tampering; the two lists after it are not.

    `unfinished` are effects that were begun and whose outcome was never written, `unclosed` processes
    that wrote here and never said that they ended.
    """

    organization_id: str
    first: int = 0
    last: int = 0
    head: str | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)
    unfinished: dict[str, dict[str, Any]] = field(default_factory=dict)
    unclosed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def problem(self, seq: int, what: str) -> None:
        """Note one; past a hundred only that there are more."""
        if len(self.problems) < 100:
            self.problems.append({"seq": seq, "what": what})
        elif len(self.problems) == 100:
            self.problems.append({"seq": seq, "what": "and more from here on"})


async def page(
    database: Database,
    organization_id: str,
    exact: Mapping[str, str | None],
    *,
    since: str | None = None,
    until: str | None = None,
    after: int | None = None,
    oldest_first: bool = False,
    limit: int,
) -> list[dict[str, Any]]:
    """Rows that match, newest first unless said otherwise, from beyond the row `after`."""
    where: list[ColumnElement[bool]] = [audit_log.c.organization_id == organization_id]
    where += [audit_log.c[name] == exact[name] for name in EXACT if exact.get(name) is not None]
    if since is not None:
        where.append(audit_log.c.at >= since)
    if until is not None:
        where.append(audit_log.c.at < until)
    if after is not None:
        where.append(audit_log.c.seq > after if oldest_first else audit_log.c.seq < after)
    order = audit_log.c.seq.asc() if oldest_first else audit_log.c.seq.desc()
    statement = select(*_COLUMNS).where(*where).order_by(order).limit(limit)
    return await database.read(
        lambda connection: [dict(zip(_KEYS, row, strict=True)) for row in connection.execute(statement)]
    )


async def books(database: Database) -> list[str]:
    """The organizations that have rows or a head."""
    statement = select(audit_heads.c.organization_id).union(select(audit_log.c.organization_id).distinct())
    found = await database.read(lambda connection: connection.execute(statement).scalars().all())
    return sorted(found)


async def count(database: Database) -> int:
    """Rows of all books, as their heads have it."""
    statement = select(func.sum(audit_heads.c.seq - audit_heads.c.base_seq))
    return int(await database.read(lambda connection: connection.scalar(statement)) or 0)


async def check(log: AuditLog, organization_id: str, known: str | None = None) -> AsyncGenerator[Book, None]:
    """Check one chain from its beginning to its end; gives the same `Book` again and again as it grows.

    `known` is a `SEQ:HASH` that was kept elsewhere: the row must still be there with that hash, which
    is how a store that was put back as a whole is found.
    """
    book = Book(organization_id)
    head = await _head(log, book)
    kept = _known(known)
    book.first, book.last, before = head.base_seq + 1, head.base_seq, head.base_hash
    while book.last < head.seq:
        rows = await log.database.read(partial(_next, book=book, last=head.seq))
        if not rows:
            book.problem(book.last + 1, f"the last {head.seq - book.last} rows are missing")
            break
        for row in rows:
            _check_row(log, book, row, before, kept)
            book.last, before = row.seq, row.hash
            _follow(book, row)
        yield book
    if book.last == head.seq and before != head.hash:
        book.problem(book.last, "the last row is not the one that the head names")
    if kept[0] > head.seq:
        book.problem(kept[0], "the row was known elsewhere, and the chain ends before it")
    book.head = f"{head.seq}:{head.hash}"
    yield book


async def _head(log: AuditLog, book: Book) -> Head:
    """Where the chain ends; as far as the rows tell, where the head itself cannot be believed."""
    head, highest = await log.database.read(lambda connection: _end(connection, book.organization_id))
    if head is None or not log.is_sound(head):
        book.problem(0, "the head is missing" if head is None else "the head was changed")
        return replace(head or Head(book.organization_id), seq=highest)
    if highest > head.seq:
        book.problem(head.seq + 1, "there are rows past the end of the chain")
    return head


def _check_row(log: AuditLog, book: Book, row: Any, before: str, kept: tuple[int, str]) -> None:
    if row.seq != book.last + 1:
        book.problem(book.last + 1, f"{row.seq - book.last - 1} rows are missing")
    elif not hmac.compare_digest(log.row_hash(book.organization_id, row.seq, before, row[2:-1]), row.hash):
        book.problem(row.seq, "the row was changed, or the one before it")
    if row.seq == kept[0] and row.hash != kept[1]:
        book.problem(row.seq, "the row is another one than was known elsewhere")


async def check_books(log: AuditLog, found: Sequence[Book]) -> None:
    """Hold the store's own book against the others: one that was taken away whole leaves a name there."""
    own = next((book for book in found if book.organization_id == STORE), None)
    by_name = {book.organization_id: book for book in found}
    named: set[str] = set()
    after = 0
    while rows := await page(log.database, STORE, {}, after=after, oldest_first=True, limit=PAGE):
        after = rows[-1]["seq"]
        for row in rows:
            if row["event"] not in {OPENED, REOPENED}:
                continue
            named.add(row["target"])
            if row["event"] == REOPENED and row["target"] in by_name:
                by_name[row["target"]].problem(
                    orjson.loads(row["details"])["after"], "the head was lost, changed or put back here"
                )
    for missing in sorted(named - set(by_name)):
        if own is not None:
            own.problem(0, f"the book of the organization {missing} is missing")
    for book in found:
        if book.organization_id not in {*named, STORE}:
            book.problem(0, "the store's own book does not know of this one")


async def prune(log: AuditLog, organization_id: str, before: str, entry: AuditEntry) -> int:
    """Drop the rows older than `before`, up to the first that is not; how many. The chain then begins there.

    `entry` says so in the chain itself. The store's own book is never pruned: it names the others.
    """

    def work(connection: Connection) -> int:
        mine = audit_log.c.organization_id == organization_id
        _, last, _ = log.append(connection, [entry])
        younger = connection.scalar(select(func.min(audit_log.c.seq)).where(mine, audit_log.c.at >= before))
        through = (younger or last) - 1
        made = connection.scalar(select(audit_log.c.hash).where(mine, audit_log.c.seq == through))
        head, _ = _end(connection, organization_id)
        if made is None or head is None:
            return 0
        log.put_head(connection, replace(head, base_seq=through, base_hash=made))
        return connection.execute(delete(audit_log).where(mine, audit_log.c.seq <= through)).rowcount

    return await log.database.write(work)


def _end(connection: Connection, organization_id: str) -> tuple[Head | None, int]:
    """The head and the highest number, of one moment."""
    highest = select(func.max(audit_log.c.seq)).where(audit_log.c.organization_id == organization_id)
    statement = select(audit_heads, highest.scalar_subquery()).where(audit_heads.c.organization_id == organization_id)
    row = connection.execute(statement).first()
    if row is None:
        return None, connection.scalar(highest) or 0
    return Head(*row[:-1]), row[-1] or 0


def _next(connection: Connection, *, book: Book, last: int) -> Sequence[Any]:
    mine = (audit_log.c.organization_id == book.organization_id, audit_log.c.seq > book.last, audit_log.c.seq <= last)
    return connection.execute(select(*_COLUMNS).where(*mine).order_by(audit_log.c.seq).limit(PAGE)).all()


def _known(text: str | None) -> tuple[int, str]:
    seq, _, made = (text or "0:").partition(":")
    return int(seq), made


def _follow(book: Book, row: Any) -> None:
    """Pair what was begun with what ended it."""
    shown = {name: getattr(row, name) for name in ("seq", "at", "request_id", "subject", "operation", "connector_id")}
    if row.verdict == "started":
        book.unfinished[row.request_id] = shown
    elif row.event == "execute":
        book.unfinished.pop(row.request_id, None)
    elif row.event == "writer.opened":
        book.unclosed[row.writer] = {"writer": row.writer, "at": row.at, **orjson.loads(row.details or "{}")}
    elif row.event == "writer.closed":
        _closed(book, row)
    if row.writer in book.unclosed:
        one = book.unclosed[row.writer]
        one["rows"] = one.get("rows", 0) + 1


def _closed(book: Book, row: Any) -> None:
    opened = book.unclosed.pop(row.writer, None)
    said = orjson.loads(row.details)["rows"]
    if opened is not None and opened["rows"] - 1 != said:  # its first row says that it began
        book.problem(row.seq, f"the process that ended here had written {said} rows, and {opened['rows'] - 1} are left")
