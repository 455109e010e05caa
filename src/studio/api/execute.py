"""The hot routes, as a small ASGI application beside the management API.

`POST /api/v1/connectors/{id}/query` and `…/operations/{operation}`, and the same below
`/api/v1/agents/{agent_id}/connectors/{alias}`. They share the service and the errors with the
other routes, and leave out what costs more than the work itself: routing tables, dependency
injection and response models.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from studio.api import answers, problems, repeats, streams, transfer
from studio.api.auth import Door
from studio.api.problems import Refused
from studio.api.schemas import JSON, NAME, PROBLEMS, gives, inline
from studio.api.wire import (
    ClientGone,
    Receive,
    Scope,
    Send,
    json_object,
    send_answer,
    until_client_goes,
)
from studio.models import Effect, Result
from studio.services.connector_service import ConnectorService
from studio.services.forms import Form
from studio.services.inputs import NewQuery
from studio.services.planning import Planned

_PATH = re.compile(
    r"/api/v1/(?:connectors/(?P<connector_id>[^/]+)|agents/(?P<agent_id>[^/]+)/connectors/(?P<alias>[^/]+))"
    r"/(?:query|operations/(?P<operation>[^/]+))"
)
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
            raw = await self._door.body(receive, headers)
            planned = await self._plan(caller, parts.groupdict(), json_object(raw or b"{}"))
            if repeats.asked(scope, headers) and planned.effect is not Effect.READ:
                repeats.require_json(headers)
                request = await repeats.request_of(caller, scope, headers, raw)
                await repeats.once(request, partial(_encoded, caller, planned), send)
                return
            with until_client_goes(receive):
                if (form := streams.asked(headers.get(b"accept", b"").decode("latin-1"))) is not None:
                    await self._stream(caller, planned, form, send)
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

    async def _stream(self, caller: ConnectorService, planned: Planned, form: Form, send: Send) -> None:
        """Stream the rows. A client that stops reading keeps its session no longer than one that reads."""
        limit = min(planned.target.timeout_s, self._max_timeout_s) + _FAREWELL_S
        try:
            async with asyncio.timeout(limit):
                await streams.send_stream(caller.stream(planned), form, send)
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


async def _encoded(caller: ConnectorService, planned: Planned) -> bytes:
    return encode(await caller.run(planned))


def encode(result: Result) -> bytes:
    """A result in its public form."""
    return orjson.dumps(result.to_dict())


def openapi_paths() -> dict[str, Any]:
    """The hot routes' part of the OpenAPI document."""
    query = {"required": True, "content": {JSON: {"schema": inline(NewQuery)}}}
    free = {"required": False, "content": {JSON: {"schema": answers.ANY_OBJECT}, **transfer.TAKEN}}
    told = gives(answers.RESULT, **streams.openapi_content())
    told[200]["description"] = (
        "The result; under another media type its rows as a stream. With Accept: "
        "application/json; stream=true the document itself is streamed, its data before what the end knows"
    )
    moved = {200: {**told[200], "content": {**told[200]["content"], **transfer.TAKEN}}, **transfer.ANSWERS}
    bases = {"/api/v1/connectors/{connector_id}": ("connectors", {"connector_id": answers.ID}),
             "/api/v1/agents/{agent_id}/connectors/{alias}": ("agents", {"agent_id": NAME, "alias": NAME})}  # fmt: skip
    paths: dict[str, Any] = {}
    for base, (tag, names) in bases.items():
        operation = {**names, "operation": answers.TEXT}
        paths[f"{base}/query"] = _post(tag, "query", "Run a query", names, query, told)
        paths[f"{base}/operations/{{operation}}"] = one = _post(
            tag, "operation", "Run an operation", operation, free, moved
        )
        one["post"]["parameters"].append(transfer.ARGUMENTS)
    return paths


def _post(
    tag: str, name: str, summary: str, names: dict[str, Any], body: dict[str, Any], told: dict[int | str, Any]
) -> dict[str, Any]:
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "operationId": f"{tag}_{name}",
            "parameters": [
                {"name": place, "in": "path", "required": True, "schema": schema} for place, schema in names.items()
            ],
            "requestBody": body,
            "responses": {**{str(status): one for status, one in told.items()}, **PROBLEMS},
            "security": [{"HTTPBearer": []}],
        }
    }
