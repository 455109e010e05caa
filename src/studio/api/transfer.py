"""Raw bytes through an operation: objects of any size, in constant memory.

`POST …/operations/get` with `Accept: application/octet-stream` answers the object itself.
`POST …/operations/put?arguments={"key": …}` with `Content-Type: application/octet-stream` takes the
request's body as the object; the arguments stand in the query, since the body is taken.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson

from studio.api.wire import ClientGone, Receive, Scope, Send, json_object, read_body, send_answer, until_client_goes
from studio.contract.operation import Download
from studio.errors import BadRequest
from studio.services.connector_service import ConnectorService

BYTES = "application/octet-stream"


def asked(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request means the form of its operation that moves raw bytes."""
    return _given(scope, headers) or BYTES in headers.get(b"accept", b"").decode("latin-1")


def _given(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is the bytes. The type alone does not say so: some clients send it with any body."""
    content_type = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip()
    return content_type == BYTES and scope.get("query_string", b"").startswith(b"arguments=")


async def answer(
    caller: ConnectorService,
    parts: Mapping[str, str | None],
    scope: Scope,
    receive: Receive,
    send: Send,
    max_body_bytes: int,
) -> None:
    """Move the bytes. Raises before the first byte is sent; after it, a cut connection tells of a failure."""
    names = {name: value for name, value in parts.items() if value is not None}
    operation = names.pop("operation", None)
    if operation is None:
        raise BadRequest("a query moves no raw bytes: ask for an operation, such as operations/get")
    target = await caller.target(**names)
    if _given(scope, dict(scope["headers"])):
        arguments = _arguments(scope.get("query_string", b""))
        planned = caller.plan(target, operation, arguments, raw=True)
        result = await caller.upload(planned, _received(receive))
        await send_answer(send, 200, {"content-type": "application/json"}, orjson.dumps(result.to_dict()))
        return
    arguments = json_object(await read_body(receive, max_body_bytes) or b"{}")
    planned = caller.plan(target, operation, arguments, raw=True)
    async with until_client_goes(receive), caller.download(planned) as content:
        await _send(content, send)


def _arguments(query: bytes) -> dict[str, Any]:
    found = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    if set(found) - {"arguments"} or len(found.get("arguments", [])) > 1:
        raise BadRequest.at("arguments", "must be the one query parameter: a JSON object")
    return json_object(found["arguments"][0].encode("utf-8", "surrogatepass")) if found else {}


async def _received(receive: Receive) -> AsyncGenerator[bytes, None]:
    """The request's body as it comes; the socket holds the sender back while nobody takes a chunk."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = bool(message.get("more_body"))
        if chunk := message.get("body", b""):
            yield chunk


async def _send(content: Download, send: Send) -> None:
    headers = [
        (b"content-type", BYTES.encode()),  # whatever the object claims to be: a browser must not run it
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", str(content.length).encode()),
        (b"x-studio-details", json.dumps(content.details).encode("ascii")),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for chunk in content.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
