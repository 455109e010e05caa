"""Raw bytes through an operation: objects of any size, in constant memory.

`POST …/operations/get` with `Accept: application/octet-stream` answers the object itself: 200, or 206 with
`Content-Range` for the part that `offset` and `length` ask for. There is no `Accept-Ranges`: the header
`Range` is for GET alone (RFC 9110, section 14.2), and the arguments say the same.
`POST …/operations/put?arguments={"key": …}` with `Content-Type: application/octet-stream` takes the
request's body as the object; the arguments stand in the query, since the body is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import parse_qs, quote

import orjson

from studio.api.auth import Door
from studio.api.wire import ClientGone, Receive, Scope, Send, json_object, send_answer, until_client_goes
from studio.contract.operation import Download
from studio.errors import BadRequest, InvalidRequest
from studio.services.connector_service import ConnectorService

BYTES = "application/octet-stream"
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
TAKEN = {BYTES: {"schema": BINARY}}
ARGUMENTS: dict[str, Any] = {
    "name": "arguments",
    "in": "query",
    "description": f"Where the body is {BYTES}: the arguments as a JSON object.",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
ANSWERS: dict[int | str, Any] = {
    206: {
        "description": "With Accept: application/octet-stream, the part that offset and length ask for; 200 for all",
        "headers": {"Content-Range": {"schema": {"type": "string"}}},
        "content": TAKEN,
    }
}
"""What the OpenAPI document says of raw bytes."""
_ETAG = re.compile(r"[!#-~]{1,256}")
_UNUSUAL = re.compile(r"[^A-Za-z0-9 ._-]")


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
    door: Door,
) -> None:
    """Move the bytes. Raises before the first byte is sent; after it, a cut connection tells of a failure."""
    names = {name: value for name, value in parts.items() if value is not None}
    operation = names.pop("operation", None)
    if operation is None:
        raise BadRequest("a query moves no raw bytes: ask for an operation, such as operations/get")
    target = await caller.target(**names)
    if _given(scope, dict(scope["headers"])):
        if b"idempotency-key" in dict(scope["headers"]):
            raise InvalidRequest.at(
                "Idempotency-Key", "is not taken with raw bytes: putting the same object again is safe"
            )
        arguments = _arguments(scope.get("query_string", b""))
        planned = caller.plan(target, operation, arguments, raw=True)
        result = await caller.upload(planned, _received(receive))
        await send_answer(send, 200, {"content-type": "application/json"}, orjson.dumps(result.to_dict()))
        return
    arguments = json_object(await door.raw_body(receive) or b"{}")
    planned = caller.plan(target, operation, arguments, raw=True)
    with until_client_goes(receive):
        async with caller.download(planned) as content:
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
    part = content.size is not None and 0 < content.length < content.size
    headers = [(name.encode(), value.encode("ascii")) for name, value in _headers(content, part=part).items()]
    await send({"type": "http.response.start", "status": 206 if part else 200, "headers": headers})
    async for chunk in content.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(content: Download, *, part: bool) -> dict[str, str]:
    found = {
        "content-type": BYTES,  # whatever the object claims to be: a browser must not run it
        "content-length": str(content.length),
        "content-disposition": _disposition(content.name),
        "x-studio-details": json.dumps(content.details),
    }
    if part:
        last = content.offset + content.length - 1
        found["content-range"] = f"bytes {content.offset}-{last}/{content.size}"
    if content.etag is not None and _ETAG.fullmatch(content.etag):
        found["etag"] = f'"{content.etag}"'
    return found


def _disposition(name: str | None) -> str:
    """RFC 6266: a name for all clients, and the exact one for those that read RFC 8187."""
    if not name:
        return "attachment"
    plain = _UNUSUAL.sub("_", name)
    return f'attachment; filename="{plain}"' + (f"; filename*=UTF-8''{quote(name, safe='')}" if plain != name else "")
