"""Routes of the audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from studio.api import answers
from studio.api.auth import Caller
from studio.api.problems import as_studio, problem
from studio.api.schemas import NAME, PLAIN, PROBLEMS, gives
from studio.api.wire import answer
from studio.services.audit import HEAD
from studio.services.connector_service import ConnectorService

router = APIRouter(prefix="/api/v1/audit", tags=["audit"], responses=PROBLEMS)
NDJSON = "application/x-ndjson"
_PAGE = 1000
Word = Annotated[str, Field(min_length=1, max_length=255, pattern=PLAIN)] | None
_TIME = {"format": "date-time"}


@router.get("", summary="List the audit log", responses=gives(answers.AUDIT, **{NDJSON: {"schema": answers.TEXT}}))
async def list_audit(
    caller: Caller,
    since: Annotated[
        str | None, Query(description="ISO 8601; rows of that moment and after it.", json_schema_extra=_TIME)
    ] = None,
    until: Annotated[
        str | None, Query(description="ISO 8601; rows before that moment.", json_schema_extra=_TIME)
    ] = None,
    subject: Word = None,
    agent_id: Annotated[str | None, Query(json_schema_extra={"pattern": NAME["pattern"]})] = None,
    connector_id: Word = None,
    operation: Word = None,
    event: Word = None,
    verdict: Annotated[str | None, Query(json_schema_extra={"enum": list(answers.VERDICTS)})] = None,
    code: Word = None,
    request_id: Word = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[
        str | None,
        Query(description="`next_cursor` of the page before.", json_schema_extra={"pattern": "^[0-9]{1,18}$"}),
    ] = None,
    oldest_first: bool = False,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
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


@router.get("/verify", summary="Check that nothing in the audit log was changed", responses=gives(answers.AUDIT_REPORT))
async def verify_audit(
    caller: Caller,
    head: Annotated[
        str | None, Query(description="SEQ:HASH of a row that was kept elsewhere.", json_schema_extra={"pattern": HEAD})
    ] = None,
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
