"""Use cases on the audit log: list, export, verify; and pruning, for whoever holds the store's settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from studio.contract import Text
from studio.errors import Conflict, InvalidRequest
from studio.models import AuditEntry, Role
from studio.security import policy
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.core import Core, open_core
from studio.services.inputs import Body, Identifier, Time, timestamp
from studio.services.recorder import state_of
from studio.settings import Settings
from studio.store import audit_check
from studio.store.audit import STORE
from studio.store.audit_check import Book

_WORD = Annotated[Text, Field(min_length=1, max_length=255)]
HEAD = r"^[1-9][0-9]{0,17}:[0-9a-f]{64}$"


class AuditFilter(Body):
    """What a listing or an export of the audit log is narrowed to. `since` is included, `until` is not."""

    since: Time | None = None
    until: Time | None = None
    subject: _WORD | None = None
    agent_id: Identifier | None = None
    connector_id: _WORD | None = None
    operation: _WORD | None = None
    event: _WORD | None = None
    verdict: Literal["ok", "started", "refused", "failed", "cancelled"] | None = None
    code: _WORD | None = None
    request_id: _WORD | None = None


class AuditListing(AuditFilter):
    """A page of it. `cursor` is the `next_cursor` of the page before."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    cursor: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None = None
    oldest_first: bool = False


class Audit(Bound):
    """See the methods."""

    @refusals("audit.list")
    async def list_audit(
        self,
        *,
        organization_id: str | None = None,
        filters: Mapping[str, str | None] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        oldest_first: bool = False,
    ) -> Record:
        """A page of the organization's log: `{"records": […], "next_cursor": …}`, newest first.

        Args:
            organization_id: whose, in process; left out there, what happened to the store as a whole.
            filters: `since`, `until`, `subject`, `agent_id`, `connector_id`, `operation`, `event`,
                `verdict`, `code`, `request_id`.
            limit: 1 to 1000.
        """
        policy.require_role(self._principal, Role.ADMIN)
        given = {**(filters or {}), "limit": limit, "cursor": cursor, "oldest_first": oldest_first}
        asked = AuditListing.parse(given)
        core = await self._home.core()
        await core.recorder.flush()
        rows = await audit_check.page(
            core.database,
            self._principal.organization_id or organization_id or STORE,
            asked.model_dump(include=set(audit_check.EXACT)),
            since=asked.since,
            until=asked.until,
            after=int(asked.cursor) if asked.cursor else None,
            oldest_first=oldest_first,
            limit=asked.limit + 1,
        )
        more = len(rows) > asked.limit
        records = [_shown(row) for row in rows[: asked.limit]]
        return {"records": records, "next_cursor": str(records[-1]["seq"]) if more else None}

    @refusals("audit.verify")
    async def verify_audit(self, *, organization_id: str | None = None, head: str | None = None) -> Record:
        """Check the organization's chain from its first row to its last.

        Args:
            organization_id: whose, in process; left out there, the store's own.
            head: a `SEQ:HASH` that an earlier call or an export gave: the row must still be that one.

        Returns:
            `ok` (nothing was changed, removed or put in), `problems`, `head`, and two lists that are no
            sign of tampering: `unfinished` effects, and `processes` that did not close their book.
        """
        policy.require_role(self._principal, Role.ADMIN)
        given = AuditHead.parse({"head": head})
        core = await self._home.core()
        await core.recorder.flush()
        organization_id = self._principal.organization_id or organization_id or STORE
        return _report(core, await _checked(core, organization_id, given.head))


class AuditHead(Body):
    """Where a chain was known to be."""

    head: Annotated[str, Field(pattern=HEAD)] | None = None


@dataclass(frozen=True)
class Progress:
    """How far a check of all books has come: rows checked, of how many; `report` at the end."""

    done: int
    total: int
    report: Record | None = None


async def verify_store(settings: Settings) -> AsyncGenerator[Progress, None]:
    """Check every chain of the store, and that none of them was taken away."""
    async with AsyncExitStack() as stack:
        core = await open_core(settings, stack)
        names = sorted({STORE, *await audit_check.books(core.database)})
        total = await audit_check.count(core.database)
        done, found = 0, list[Book]()
        for name in names:
            book = Book(name)
            async for book in audit_check.check(core.log, name):
                yield Progress(min(done + book.last - book.first + 1, total), total)
            done += book.last - book.first + 1
            found.append(book)
        await audit_check.check_books(core.log, found)
        reports = [_report(core, book) for book in found]
        yield Progress(total, total, {"ok": all(one["ok"] for one in reports), "rows": done, "books": reports})


async def prune_store(settings: Settings, before: str, *, organization_id: str) -> Record:
    """Drop an organization's rows that are older than `before` (ISO 8601); the chain stays whole from there on.

    Raises:
        InvalidRequest: `before` is no time, or this is the store's own book, which names the others.
        Conflict: the chain is not whole now; what is wrong with it must not go away with its rows.
    """
    try:
        when = timestamp(before)
    except ValueError as exc:
        raise InvalidRequest.at("before", str(exc)) from None
    if organization_id == STORE:
        raise InvalidRequest.at("organization", "names none; the store's own book is never pruned")
    async with AsyncExitStack() as stack:
        core = await open_core(settings, stack)
        book = await _checked(core, organization_id, None)
        if book.problems:
            raise Conflict("the chain is not whole, so nothing was dropped; see: studio audit verify")
        details = orjson.dumps({"before": when}).decode()
        dropped = await audit_check.prune(
            core.log, organization_id, when, AuditEntry(organization_id, "audit.prune", "operator", details=details)
        )
        return {"organization_id": organization_id, "before": when, "dropped": dropped}


async def _checked(core: Core, organization_id: str, head: str | None) -> Book:
    return [book async for book in audit_check.check(core.log, organization_id, head)][-1]


def _report(core: Core, book: Book) -> Record:
    processes = [
        {
            "id": one["writer"],
            "since": one["at"],
            "host": one.get("host"),
            "pid": one.get("pid"),
            "rows": one["rows"],
            "state": state_of(one),
        }
        for one in book.unclosed.values()
        if one["writer"] != core.recorder.id
    ]
    return {
        "organization_id": book.organization_id,
        "ok": not book.problems,
        "rows": book.last - book.first + 1,
        "first": book.first,
        "head": book.head,
        "problems": book.problems,
        "unfinished": list(book.unfinished.values()),
        "processes": processes,
    }


def _shown(row: Mapping[str, Any]) -> Record:
    """A row as callers see it."""
    shown = {name: value for name, value in row.items() if name not in {"micros", "details"}}
    shown["latency_ms"] = None if row["micros"] is None else row["micros"] / 1000
    shown["details"] = orjson.loads(row["details"]) if row["details"] else None
    return shown
