"""The chains: whole after honest use, broken by every way to falsify them; on both databases."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, update
from tests import poison
from tests.store.conftest import KEY, Home

from studio.models import AuditEntry
from studio.store.audit import NAMES, STORE, AuditLog, Batch, Head
from studio.store.audit_check import Book, books, check, check_books, page, prune
from studio.store.engine import Database
from studio.store.tables import audit_heads, audit_log

ROWS = 12


def entry(number: int = 0, organization_id: str = "acme", **more: Any) -> AuditEntry:
    values = {"event": "execute", "agent_id": "agent-1", "alias": "db", "connector_id": "c", "operation": "query", "effect": "read",
              "digest": "d", "rows": number, "bytes": 5, "micros": 7, "target": "t", "code": "x", "details": "{}",
              "writer": "w"}  # fmt: skip
    return AuditEntry(organization_id, **{**values, "subject": f"key:{number}", **more})


@pytest.fixture
def log(database: Database) -> AuditLog:
    return AuditLog(database, KEY)


async def written(log: AuditLog, count: int = ROWS, organization_id: str = "acme") -> None:
    for number in range(0, count, 4):
        await log.write_batch(Batch([entry(number + step, organization_id) for step in range(min(4, count - number))]))


async def checked(log: AuditLog, organization_id: str = "acme", known: str | None = None) -> Book:
    return [book async for book in check(log, organization_id, known)][-1]


async def found(log: AuditLog, organization_id: str = "acme") -> list[int]:
    """The numbers at which something is wrong, in all books together."""
    every = [await checked(log, name) for name in sorted({STORE, *await books(log.database)})]
    await check_books(log, every)
    return [problem["seq"] for book in every for problem in book.problems]


def at(seq: int) -> Any:
    return (audit_log.c.organization_id == "acme", audit_log.c.seq == seq)


async def tamper(database: Database, *statements: Any) -> None:
    def work(connection: Connection) -> None:
        for statement in statements:
            assert connection.execute(statement).rowcount, "the attack did nothing"

    await database.write(work)


# -- honest use ---------------------------------------------------------------------------------


async def test_a_chain_that_nobody_touched_is_whole(log: AuditLog) -> None:
    await written(log)
    await written(log, 3, "beta")
    book = await checked(log)
    assert (book.problems, book.first, book.last) == ([], 1, ROWS)
    assert await found(log) == []
    rows = await page(log.database, "acme", {}, limit=100, oldest_first=True)
    assert [row["seq"] for row in rows] == list(range(1, ROWS + 1))
    assert [row["rows"] for row in rows] == list(range(ROWS))


async def test_a_change_and_its_row_stand_or_fall_together(log: AuditLog) -> None:
    def broken(connection: Connection) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await log.write(broken, entry())
    assert await page(log.database, "acme", {}, limit=9) == []
    await log.write(lambda connection: None, entry())
    await log.write(lambda connection: None, lambda _: None)
    assert len(await page(log.database, "acme", {}, limit=9)) == 1
    assert await found(log) == []


async def test_a_row_that_cannot_be_written_takes_its_change_back(log: AuditLog) -> None:
    with pytest.raises(Exception, match=r"NOT NULL|not-null"):
        await log.write(lambda c: c.execute(insert(audit_heads).values(_head("made"))), entry(verdict=None))
    assert await books(log.database) == []


def _head(name: str) -> dict[str, Any]:
    return {"organization_id": name, "seq": 0, "hash": "", "base_seq": 0, "base_hash": "", "mac": ""}


async def test_a_batch_that_was_committed_unseen_is_not_written_twice(log: AuditLog) -> None:
    batch = Batch([entry(number) for number in range(3)])
    for _ in range(3):
        await log.write_batch(batch)
    assert len(await page(log.database, "acme", {}, limit=9)) == 3
    lost = Batch([entry(9)])
    lost.attempt = ("acme", 4, "0" * 64)  # tried, and rolled back
    await log.write_batch(lost)
    assert len(await page(log.database, "acme", {}, limit=9)) == 4
    assert await found(log) == []


async def test_two_handles_take_turns(log: AuditLog, other: Database) -> None:
    second = AuditLog(other, KEY)
    await asyncio.gather(*(written(each, 20, name) for each in (log, second) for name in ("acme", "beta", "acme")))
    assert await found(log) == []
    assert (await checked(log)).last == 80


async def test_a_head_that_another_writer_makes_meanwhile_was_not_lost(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(connection: Connection, head: Head) -> Head:
        """The other's head and its first row, committed between our look at the heads and our look at the rows."""
        connection.execute(insert(audit_heads).values(**log._authenticated(replace(head, seq=1))))
        return replace(head, seq=1)

    monkeypatch.setattr(log, "_by_rows", late)
    assert await log.database.write(lambda connection: log._make(connection, "acme")) == []


APPEND = """
import asyncio, json, sys
from pathlib import Path
from studio.models import AuditEntry
from studio.store.audit import AuditLog, Batch
from studio.store.engine import open_database

async def main():
    url, folder, writer = json.loads(sys.argv[1])
    database = open_database(url, Path(folder))
    log = AuditLog(database, bytes(32))
    for turn in range(15):
        entries = [AuditEntry(f"org-{(turn + step) % 3}", "execute", writer) for step in range(4)]
        await log.write_batch(Batch(entries))
    await database.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("text", ["x" * 400, "a\0b", "\ud800", "ü" * 300, "日本", "\x1b[31m"])
async def test_no_name_can_hold_the_log_up(log: AuditLog, text: str) -> None:
    await log.write_batch(Batch([entry(subject=text, operation=text)]))
    assert await found(log) == []
    assert (await checked(log)).last == 1


def append_in_processes(home: Home, count: int) -> None:
    environment = poison.program(home.folder)
    jobs = [json.dumps([home.url, str(home.folder), f"w{number}"]) for number in range(count)]
    running = [
        subprocess.Popen([sys.executable, "-c", APPEND, job], env=environment, stderr=subprocess.PIPE) for job in jobs
    ]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


async def test_processes_that_append_at_once_make_one_chain(log: AuditLog, home: Home) -> None:
    await asyncio.to_thread(append_in_processes, home, 3)
    assert await found(log) == []
    assert sum([(await checked(log, f"org-{number}")).last for number in range(3)]) == 3 * 15 * 4


# -- falsifying ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "hash", "seq"])
async def test_a_changed_field_of_a_row_is_found(log: AuditLog, name: str) -> None:
    await written(log)
    number = {"rows", "bytes", "micros", "count"}
    new = 1000 if name in number | {"seq"} else "0" * 64 if name == "hash" else "other"
    await tamper(log.database, update(audit_log).where(*at(5)).values({name: new}))
    assert await found(log)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in {"event", "subject", "verdict", "count", "request_id", "at"}]
)
async def test_an_emptied_field_of_a_row_is_found(log: AuditLog, name: str) -> None:
    await written(log)
    await tamper(log.database, update(audit_log).where(*at(5)).values({name: None}))
    assert await found(log) == [5]


@pytest.mark.parametrize("name", ["seq", "hash", "base_seq", "base_hash", "mac"])
async def test_a_changed_head_is_found(log: AuditLog, name: str) -> None:
    await written(log)
    new = 3 if name.endswith("seq") else "1" * 64
    await tamper(log.database, update(audit_heads).where(audit_heads.c.organization_id == "acme").values({name: new}))
    assert await found(log)


def swapped(one: int, two: int) -> list[Any]:
    return [
        update(audit_log).where(*at(one)).values(seq=999),
        update(audit_log).where(*at(two)).values(seq=one),
        update(audit_log).where(*at(999)).values(seq=two),
    ]


def past(seq: int) -> Any:
    return delete(audit_log).where(audit_log.c.organization_id == "acme", audit_log.c.seq > seq)


def truncated(seq: int) -> list[Any]:
    """With a head to match, as far as somebody without the key can make one."""
    kept = select(audit_log.c.hash).where(*at(seq)).scalar_subquery()
    head = update(audit_heads).where(audit_heads.c.organization_id == "acme").values(seq=seq, hash=kept)
    return [past(seq), head]


def inserted(seq: int) -> list[Any]:
    """Room for one more row, and a copy of the one before it."""
    columns = [audit_log.c.organization_id, (audit_log.c.seq + 1).label("seq"), *(audit_log.c[name] for name in NAMES)]
    copied = select(*columns, audit_log.c.hash).where(*at(seq - 1))
    up = update(audit_log).where(audit_log.c.organization_id == "acme", audit_log.c.seq >= seq)
    return [
        up.values(seq=audit_log.c.seq + 1000),
        insert(audit_log).from_select(["organization_id", "seq", *NAMES, "hash"], copied),
        update(audit_log).where(audit_log.c.organization_id == "acme", audit_log.c.seq > 1000)
        .values(seq=audit_log.c.seq - 999),
    ]  # fmt: skip


ATTACKS: dict[str, Callable[[], list[Any]]] = {
    "a row in the middle removed": lambda: [delete(audit_log).where(*at(6))],
    "several removed": lambda: [delete(audit_log).where(audit_log.c.seq.between(4, 8))],
    "the first removed": lambda: [delete(audit_log).where(*at(1))],
    "the last removed": lambda: [delete(audit_log).where(*at(ROWS))],
    "the tail removed": lambda: [past(7)],
    "the tail removed and the head moved": lambda: truncated(7),
    "all removed and the head too": lambda: [
        past(0),
        delete(audit_heads).where(audit_heads.c.organization_id == "acme"),
    ],
    "the head removed": lambda: [delete(audit_heads).where(audit_heads.c.organization_id == "acme")],
    "two swapped": lambda: swapped(4, 9),
    "neighbours swapped": lambda: swapped(4, 5),
    "one put in": lambda: inserted(6),
    "one appended past the end": lambda: [
        insert(audit_log).values(organization_id="acme", seq=ROWS + 1, event="execute", subject="x", verdict="ok",
                                 count=1, request_id="r", at="t", hash="0" * 64)
    ],
    "renumbered over a gap": lambda: [
        delete(audit_log).where(*at(6)), update(audit_log).where(*at(7)).values(seq=6),
    ],
    "moved to another organization": lambda: [
        update(audit_log).where(audit_log.c.organization_id == "acme").values(organization_id="beta"),
        update(audit_heads).where(audit_heads.c.organization_id == "acme").values(organization_id="beta"),
    ],
    "the store's own book removed": lambda: [
        delete(audit_log).where(audit_log.c.organization_id == STORE),
        delete(audit_heads).where(audit_heads.c.organization_id == STORE),
    ],
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_attack_on_the_rows_is_found(log: AuditLog, attack: str) -> None:
    await written(log)
    assert await found(log) == []
    await tamper(log.database, *ATTACKS[attack]())
    assert await found(log)


@pytest.mark.parametrize("attack", ["the tail removed", "the tail removed and the head moved", "the head removed"])
async def test_the_next_rows_do_not_cover_an_attack_up(log: AuditLog, other: Database, attack: str) -> None:
    """By another process, which has not seen the chain before, and by the one that has."""
    await written(log)
    await tamper(log.database, *ATTACKS[attack]())
    await written(AuditLog(other, KEY), 4)
    await written(log, 4)
    assert await found(log)


async def test_an_older_tail_and_head_that_were_put_back_are_found_while_the_process_lives(log: AuditLog) -> None:
    await written(log, 4)
    statement = select(audit_heads).where(audit_heads.c.organization_id == "acme")
    old = dict((await log.database.read(lambda c: c.execute(statement).mappings().one())).items())
    await written(log, 4)
    await written(log, 4)
    await tamper(log.database, past(4), update(audit_heads).where(audit_heads.c.organization_id == "acme").values(old))
    assert await found(log) == []  # this alone cannot be told from an honest chain …
    assert (await checked(log, known=f"12:{'0' * 64}")).problems  # … but by whoever kept its head elsewhere
    await written(log, 4)
    assert await found(log), "the process remembers how long the chain was"


async def test_a_row_known_elsewhere_must_still_be_that_one(log: AuditLog) -> None:
    await written(log)
    head = (await checked(log)).head
    assert head is not None
    await written(log, 4)
    assert (await checked(log, known=head)).problems == []
    assert (await checked(log, known=f"{ROWS}:{'0' * 64}")).problems
    assert (await checked(log, known=f"99:{'0' * 64}")).problems


async def test_without_the_key_no_row_can_be_forged(log: AuditLog, other: Database) -> None:
    await written(log)
    forger = AuditLog(other, bytes(31) + b"x")
    await forger.write_batch(Batch([entry(7)]))
    assert await found(log)


async def test_the_check_is_what_finds_it(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the comparison a changed row passes."""
    await written(log)
    await tamper(log.database, update(audit_log).where(*at(5)).values(subject="other"))
    assert await found(log) == [5]
    monkeypatch.setattr("studio.store.audit_check.hmac.compare_digest", lambda *_: True)
    assert await found(log) == []


# -- pruning and pages --------------------------------------------------------------------------


async def test_a_pruned_chain_is_whole_from_the_first_row_that_stays(log: AuditLog) -> None:
    for number in range(10):
        await log.write_batch(Batch([entry(number, at=f"2026-01-{number + 1:02}T00:00:00.000000Z")]))
    dropped = await prune(log, "acme", "2026-01-04T00:00:00.000000Z", entry(0, event="audit.prune"))
    assert dropped == 3
    book = await checked(log)
    assert (book.problems, book.first, book.last) == ([], 4, 11)
    await tamper(log.database, delete(audit_log).where(*at(4)))
    assert (await checked(log)).problems
    await written(log, 4)
    assert [problem["seq"] for problem in (await checked(log)).problems] == [4]


async def test_pages_go_on_where_the_last_one_ended(log: AuditLog) -> None:
    await written(log)
    seen: list[int] = []
    after = None
    while rows := await page(log.database, "acme", {}, after=after, limit=5):
        seen += [row["seq"] for row in rows]
        after = seen[-1]
    assert seen == list(range(ROWS, 0, -1))
    assert [row["seq"] for row in await page(log.database, "acme", {"subject": "key:3"}, limit=9)] == [4]
    assert await page(log.database, "beta", {}, limit=9) == []


def test_equal_statements_have_equal_digests_that_the_key_makes(database: Database) -> None:
    one, two = AuditLog(database, KEY), AuditLog(database, bytes(31) + b"x")
    assert one.digest(b"SELECT 1") == one.digest(b"SELECT 1") != one.digest(b"SELECT 2")
    assert one.digest(b"SELECT 1") != two.digest(b"SELECT 1")
