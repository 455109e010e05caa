"""The hot routes, as a small ASGI application beside the management API.

`POST /api/v1/connectors/{id}/query` and `…/operations/{operation}`, and the same below
`/api/v1/agents/{agent_id}/connectors/{alias}`. They share the service and the errors with the
other routes, and leave out what costs more than the work itself: routing tables, dependency
injection and response models.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from studio.api import problems, transfer
from studio.api.auth import Door
from studio.api.problems import Refused
from studio.api.schemas import PROBLEMS, RESULT, inline
from studio.api.wire import (
    ClientGone,
    Receive,
    Scope,
    Send,
    json_object,
    send_answer,
    until_client_goes,
)
from studio.contract.caps import Capped
from studio.models import Result
from studio.services.connector_service import ConnectorService
from studio.services.execution import Planned
from studio.services.inputs import NewQuery

NDJSON = "application/x-ndjson"
_PATH = re.compile(
    r"/api/v1/(?:connectors/(?P<connector_id>[^/]+)|agents/(?P<agent_id>[^/]+)/connectors/(?P<alias>[^/]+))"
    r"/(?:query|operations/(?P<operation>[^/]+))"
)
_END = "$result"
_FAREWELL_S = 1.0
"""Time past the deadline in which the last line of a stream may still reach its reader, seconds."""


def match(scope: Scope) -> re.Match[str] | None:
    """The parts of a hot route's path, else None."""
    if scope["type"] != "http":
        return None
    return _PATH.fullmatch(scope["path"])


def template(parts: re.Match[str]) -> str:
    """The route as the OpenAPI document has it."""
    base = "connectors/{connector_id}" if parts["connector_id"] else "agents/{agent_id}/connectors/{alias}"
    return f"/api/v1/{base}/{'operations/{operation}' if parts['operation'] else 'query'}"


class Execute:
    """Parse, call, shape: one operation for one request."""

    def __init__(self, door: Door, max_timeout_s: float) -> None:
        self._door = door
        self._max_timeout_s = max_timeout_s

    async def __call__(self, parts: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; a client that goes away cancels its work."""
        headers = dict(scope["headers"])
        try:
            problems.require_post(scope["method"])
            caller = await self._door.caller(scope, headers)
            if transfer.asked(scope, headers):
                await transfer.answer(caller, parts.groupdict(), scope, receive, send, self._door)
                return
            body = json_object(await self._door.body(receive, headers) or b"{}")
            planned = await self._plan(caller, parts.groupdict(), body)
            async with until_client_goes(receive):
                if NDJSON in headers.get(b"accept", b"").decode("latin-1"):
                    await self._stream(caller, planned, send)
                else:
                    await send_answer(
                        send, 200, {"content-type": "application/json"}, encode(await caller.run(planned))
                    )
        except ClientGone:
            return
        except Refused as exc:
            await send_answer(send, *problems.refusal(exc))
        except Exception as exc:
            await send_answer(send, *problems.problem(problems.as_studio(exc)))

    async def _stream(self, caller: ConnectorService, planned: Planned, send: Send) -> None:
        """Stream the rows. A client that stops reading keeps its session no longer than one that reads."""
        limit = min(planned.target.timeout_s, self._max_timeout_s) + _FAREWELL_S
        try:
            async with asyncio.timeout(limit):
                await _stream(caller.stream(planned), send)
        except TimeoutError as exc:
            raise ClientGone from exc

    async def _plan(self, caller: ConnectorService, parts: Mapping[str, str | None], body: dict[str, Any]) -> Planned:
        names = {name: value for name, value in parts.items() if value is not None}
        operation = names.pop("operation", None)
        target = await caller.target(**names, operation=operation)
        if operation is not None:
            return caller.plan(target, operation, body)
        given = NewQuery.parse(body)
        return caller.plan_query(target, given.query, given.params)


def encode(result: Result) -> bytes:
    """A result in its public form."""
    return orjson.dumps(result.to_dict())


async def _stream(parts: AsyncGenerator[Capped, None], send: Send) -> None:
    """Rows as NDJSON, one object a line, then one line under `$result` that says how it ended.

    A stream without that line was cut. An error before the first row is an ordinary problem
    document; after it, it stands in the last line.
    """
    count, truncated, began = 0, False, False
    try:
        async with aclosing(parts):
            async for part in parts:
                if not began:
                    began = True
                    await send(_start(NDJSON))
                count, truncated = count + len(part.rows), part.truncated
                await send(_chunk(_lines(part), more=True))
        end: dict[str, Any] = {"success": True, "row_count": count, "truncated": truncated}
    except Exception as exc:
        if not began:
            raise
        end = {"success": False, "row_count": count, **orjson.loads(problems.problem(problems.as_studio(exc))[2])}
    if not began:
        await send(_start(NDJSON))
    await send(_chunk(orjson.dumps({_END: end}) + b"\n", more=False))


def _lines(part: Capped) -> bytes:
    rows = part.rows
    if not part.documents:
        names = [column["name"] for column in part.columns]
        rows = [dict(zip(names, row, strict=True)) for row in rows]
    return b"\n".join([*map(orjson.dumps, rows), b""])


def _start(media_type: str) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type.encode())]}


def _chunk(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def openapi_paths() -> dict[str, Any]:
    """The hot routes' part of the OpenAPI document."""
    answers = {
        "200": {
            "description": "The result; with Accept: application/x-ndjson its rows as a stream",
            "content": {"application/json": {"schema": RESULT}, NDJSON: {"schema": {"type": "string"}}},
        },
        **PROBLEMS,
    }
    query = {"required": True, "content": {"application/json": {"schema": inline(NewQuery)}}}
    free = {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}
    bases = {"/api/v1/connectors/{connector_id}": ("connectors", ["connector_id"]),
             "/api/v1/agents/{agent_id}/connectors/{alias}": ("agents", ["agent_id", "alias"])}  # fmt: skip
    paths: dict[str, Any] = {}
    for base, (tag, names) in bases.items():
        for tail, more, body in (("/query", [], query), ("/operations/{operation}", ["operation"], free)):
            parameters = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names + more
            ]
            moved = transfer.ANSWERS if more else {}
            paths[base + tail] = {
                "post": {
                    "tags": [tag],
                    "summary": "Run an operation" if more else "Run a query",
                    "operationId": f"{tag}_{'operation' if more else 'query'}",
                    "parameters": parameters,
                    "requestBody": body,
                    "responses": {**answers, **moved},
                    "security": [{"HTTPBearer": []}],
                }
            }
    return paths
