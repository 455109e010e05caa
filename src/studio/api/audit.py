"""Routes of the audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from studio.api.auth import Caller
from studio.api.problems import as_studio, problem
from studio.api.schemas import PROBLEMS
from studio.api.wire import answer
from studio.services.connector_service import ConnectorService

router = APIRouter(prefix="/api/v1/audit", tags=["audit"], responses=PROBLEMS)
NDJSON = "application/x-ndjson"
_PAGE = 1000
Word = Annotated[str | None, Query(max_length=255)]


@router.get("", summary="List the audit log")
async def list_audit(
    caller: Caller,
    since: Annotated[str | None, Query(description="ISO 8601; rows of that moment and after it.")] = None,
    until: Annotated[str | None, Query(description="ISO 8601; rows before that moment.")] = None,
    subject: Word = None,
    agent_id: Word = None,
    connector_id: Word = None,
    operation: Word = None,
    event: Word = None,
    verdict: Word = None,
    code: Word = None,
    request_id: Word = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    oldest_first: bool = False,
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """Newest first. With `Accept: application/x-ndjson` all that match, oldest first, one object a line."""
    filters = {
        "since": since, "until": until, "subject": subject, "agent_id": agent_id, "connector_id": connector_id,
        "operation": operation, "event": event, "verdict": verdict, "code": code, "request_id": request_id,
    }  # fmt: skip
    if NDJSON in (accept or ""):
        first = await caller.list_audit(filters=filters, limit=_PAGE, cursor=cursor, oldest_first=True)
        return StreamingResponse(_lines(caller, filters, first), media_type=NDJSON)
    return answer(await caller.list_audit(filters=filters, limit=limit, cursor=cursor, oldest_first=oldest_first))


@router.get("/verify", summary="Check that nothing in the audit log was changed")
async def verify_audit(
    caller: Caller, head: Annotated[str | None, Query(description="SEQ:HASH of a row that was kept elsewhere.")] = None
) -> Response:
    """200 also where it was: see `ok` and `problems`."""
    return answer(await caller.verify_audit(head=head))


async def _lines(
    caller: ConnectorService, filters: dict[str, str | None], page: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """The rows, then one line under `$result`; without that line the export was cut."""
    count = 0
    try:
        while True:
            count += len(page["records"])
            yield b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in page["records"])
            if page["next_cursor"] is None:
                break
            page = await caller.list_audit(filters=filters, limit=_PAGE, cursor=page["next_cursor"], oldest_first=True)
        end: dict[str, Any] = {"success": True, "row_count": count}
    except Exception as exc:
        end = {"success": False, "row_count": count, **orjson.loads(problem(as_studio(exc))[2])}
    yield orjson.dumps({"$result": end}, option=orjson.OPT_APPEND_NEWLINE)
