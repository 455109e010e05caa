"""`POST /mcp`: MCP over Streamable HTTP, as a small ASGI application beside the management API.

One POST is one JSON-RPC message and gets one JSON answer; only a call that has progress to tell is
answered by a stream of events. There are no sessions, so GET and DELETE are not allowed, and closing
the connection cancels the work. Sources:
https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http and
https://modelcontextprotocol.io/specification/2025-11-25/basic/transports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qs

import orjson

from studio.api.auth import Door
from studio.api.problems import Refused, problem, refusal, require_post, status_of
from studio.api.wire import (
    ClientGone,
    Receive,
    Scope,
    Send,
    json_object,
    send_answer,
    until_client_goes,
)
from studio.errors import BadRequest, InsufficientScope, StudioError, TooLarge, as_studio
from studio.mcp import protocol
from studio.mcp.agent import Agent
from studio.mcp.headers import check_headers, check_media, single
from studio.mcp.progress import Tell
from studio.mcp.protocol import Message, RpcError
from studio.mcp.tools import Tools
from studio.mcp.toolsets import tools_of
from studio.services.connector_service import ConnectorService

PATHS = frozenset({"/mcp", "/mcp/"})
_JSON = {"content-type": "application/json"}
_EVENTS = b"text/event-stream"
_STATUS = {protocol.METHOD_NOT_FOUND: 404, protocol.INTERNAL_ERROR: 500}
_LEGACY_STATUS = {protocol.PARSE_ERROR: 400, protocol.INVALID_REQUEST: 400, protocol.UNSUPPORTED_VERSION: 400}


def match(scope: Scope) -> bool:
    """Whether a request is for this endpoint."""
    return scope["type"] == "http" and scope["path"] in PATHS


class Mcp:
    """Checks who asks, then answers one message."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; a client that goes away cancels its work."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            require_post(scope["method"])
            caller = await self._door.caller(scope, headers)
            check_media(headers)
            body = await self._door.raw_body(receive)
            with until_client_goes(receive):
                reply = _Reply(send)
                tell = reply.tell if _EVENTS in headers.get(b"accept", b"") else None
                await reply.end(*await _answer(body, scope, headers, _tools(caller, scope["query_string"]), tell))
        except ClientGone:
            return
        except Refused as exc:
            await send_answer(send, *refusal(exc))
        except Exception as exc:
            await send_answer(send, *problem(as_studio(exc)))


class _Reply:
    """One JSON answer; or, from the first notification on, a stream of events that ends with it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams = False

    async def tell(self, message: Message) -> None:
        """Send a notification ahead of the answer."""
        if not self._streams:
            self._streams = True
            headers = [(b"content-type", _EVENTS), (b"cache-control", b"no-store")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._event(orjson.dumps(message), more=True)

    async def end(self, status: int, content: bytes) -> None:
        """Send the answer."""
        if self._streams:
            await self._event(content, more=False)
        else:
            await send_answer(self._send, status, _JSON if content else {}, content)

    async def _event(self, data: bytes, *, more: bool) -> None:
        body = b"event: message\ndata: " + data + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _tools(caller: ConnectorService, query: bytes) -> Tools:
    """The tools of the key's own agent, or of the one that `?agent=` names; `?tools=` says which set."""
    given = parse_qs(query.decode("latin-1")) if query else {}
    agent_id = given.get("agent", [caller.principal.agent_id])[-1]
    return tools_of(Agent(caller, agent_id), given.get("tools", [None])[-1])


async def _answer(
    body: bytes, scope: Scope, headers: Mapping[bytes, bytes], tools: Tools, tell: Tell | None
) -> tuple[int, bytes]:
    """Status and content. A notification has neither result nor error to carry, and gets no content."""
    message: Message = {}
    modern = True
    try:
        message = _read(body)
        modern = _is_modern(message, headers)
        if not modern and "method" not in message and ("result" in message or "error" in message):
            return 202, b""  # legacy clients may answer requests; we never make any
        protocol.check_message(message)
        if "id" not in message:
            return 202, b""
        if modern:
            _check_modern(message, scope["headers"])
        answer = await protocol.handle(message, tools, modern=modern, transport="tcp", tell=tell)
        return 200, orjson.dumps(answer)
    except RpcError as exc:
        return _failed(message, exc, modern=modern)
    except InsufficientScope:
        raise  # answered as HTTP has it: with 403 and a challenge
    except StudioError as exc:
        return _failed(message, protocol.rpc_error(exc, status_of(exc)), modern=modern)


def _failed(message: Message, error: RpcError, *, modern: bool) -> tuple[int, bytes]:
    status = error.status or (_STATUS.get(error.code, 400) if modern else _LEGACY_STATUS.get(error.code, 200))
    return status, orjson.dumps(protocol.failure(protocol.id_of(message), error))


def _read(body: bytes) -> Message:
    try:
        return json_object(body)
    except TooLarge:
        raise
    except BadRequest as exc:
        code = protocol.INVALID_REQUEST if body.lstrip()[:1] == b"[" else protocol.PARSE_ERROR
        raise RpcError(code, f"the body is not one JSON-RPC message ({exc.message})") from None


def _is_modern(message: Message, headers: Mapping[bytes, bytes]) -> bool:
    """By what the message says of itself, else by its header; without either it is an earlier version's.

    Raises:
        RpcError: the header names a version of neither era.
    """
    version = single(headers, b"mcp-protocol-version")
    if protocol.is_modern(message) or version in protocol.MODERN:
        return True
    if version is not None:
        protocol.check_version(version, [*protocol.MODERN, *protocol.LEGACY])
    return False


def _check_modern(message: Message, raw: Iterable[tuple[bytes, bytes]]) -> None:
    protocol.check_envelope(message)
    check_headers(message, raw)
    protocol.check_version(protocol.meta_of(message)[protocol.VERSION_KEY])
