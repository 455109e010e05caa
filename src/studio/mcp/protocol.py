"""JSON-RPC 2.0 as the Model Context Protocol uses it, in both of its eras.

* *modern* (2026-07-28): each request stands alone and says in `_meta` which version it speaks and
  what its client can do; there is no handshake.
* *legacy* (2025-11-25, 2025-06-18): `initialize` comes first. We keep no session, so that requests
  of either era can reach any replica in any order.

Source: https://modelcontextprotocol.io/specification/2026-07-28/basic and …/2025-11-25/basic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from studio import __version__, errors
from studio.errors import StudioError
from studio.mcp.observed import TOOL_ERROR, observed
from studio.mcp.progress import Tell, reporting
from studio.mcp.tools import Tools

MODERN = ("2026-07-28",)
LEGACY = ("2025-11-25", "2025-06-18")
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
_SERVER_KEY = "io.modelcontextprotocol/serverInfo"

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

SERVER_INFO = {"name": "studio-connectors", "title": "Studio Connectors", "version": __version__}
_CAPABILITIES: dict[str, Any] = {"tools": {}}
_DISCOVER_TTL_MS = 3_600_000
_TOOLS_TTL_MS = 60_000
"""A minute: what may be listed changes with each attachment."""

Message = dict[str, Any]


class RpcError(Exception):
    """A JSON-RPC error: `code`, a message, and data that is safe to show. `status` is for HTTP."""

    def __init__(self, code: int, message: str, data: Any = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.status = status

    def to_dict(self) -> dict[str, Any]:
        """The `error` member of an answer."""
        return {"code": self.code, "message": self.message} | ({} if self.data is None else {"data": self.data})


def rpc_error(error: StudioError, status: int | None = None) -> RpcError:
    """One of our errors as one of JSON-RPC's, where there is no tool result that could carry it."""
    code = INVALID_PARAMS if isinstance(error, errors.InvalidRequest) else INTERNAL_ERROR
    return RpcError(code, error.message, {"code": error.code, "retryable": error.retryable}, status=status)


def answer(message: Message, result: Mapping[str, Any]) -> Message:
    """A successful answer."""
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def failure(request_id: Any, error: RpcError) -> Message:
    """An answer that is an error; `request_id` is None where the request's own could not be read."""
    return {"jsonrpc": "2.0", "id": request_id, "error": error.to_dict()}


def check_message(message: Message) -> None:
    """Raises RpcError unless this is one request or one notification."""
    if message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        raise RpcError(INVALID_REQUEST, "the body must be one JSON-RPC 2.0 request or notification")
    if "id" in message and (not isinstance(message["id"], str | int) or isinstance(message["id"], bool)):
        raise RpcError(INVALID_REQUEST, "id must be a string or an integer")
    if not isinstance(message.get("params", {}), dict):
        raise RpcError(INVALID_PARAMS, "params must be an object")


def id_of(message: Message) -> Any:
    """The request's id, where it can be answered under one."""
    found = message.get("id")
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None


def meta_of(message: Message) -> Mapping[str, Any]:
    """`params._meta`, empty where there is none."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta if isinstance(meta, dict) else {}


def is_modern(message: Message) -> bool:
    """Whether the message says of itself that it belongs to the modern era."""
    return VERSION_KEY in meta_of(message)


def check_envelope(message: Message) -> None:
    """Raises RpcError where a modern request's `_meta` lacks a required key, or holds a wrong type."""
    meta = meta_of(message)
    missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]
    if missing:
        raise RpcError(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    if not isinstance(meta[VERSION_KEY], str) or not isinstance(meta[CAPABILITIES_KEY], dict):
        raise RpcError(INVALID_PARAMS, f"{VERSION_KEY} must be a string, {CAPABILITIES_KEY} an object")


def check_version(requested: str, served: Sequence[str] = MODERN) -> None:
    """Raises RpcError for a version that this request may not name.

    Only the modern ones may stand in `_meta`, so a modern request is told of these alone: an earlier
    one is chosen by `initialize`, never by retrying with another `_meta`.
    """
    if requested not in served:
        data = {"supported": list(served), "requested": requested}
        raise RpcError(UNSUPPORTED_VERSION, "unsupported protocol version", data)


async def handle(message: Message, tools: Tools, *, modern: bool, transport: str, tell: Tell | None = None) -> Message:
    """The answer to a checked request of either era. Raises RpcError; StudioError from listing tools.

    `transport` is `tcp` or `pipe`. A call that gave a `progressToken` is reported on through `tell`.
    """
    method = _MODERN_METHODS.get(message["method"]) if modern else _LEGACY_METHODS.get(message["method"])
    if method is None:
        raise RpcError(METHOD_NOT_FOUND, "there is no such method here")
    params, meta = message.get("params") or {}, meta_of(message)
    tool = params.get("name") if method is _call_tool else None
    token = meta.get("progressToken")
    version = str(meta[VERSION_KEY]) if modern else "legacy"
    with observed(message["method"], meta, tool if isinstance(tool, str) else None, version, transport) as outcome:
        if tell is not None and tool is not None and isinstance(token, str | int):
            async with reporting(token, tell):
                result = await method(params, tools)
        else:
            result = await method(params, tools)
        if result.get("isError"):
            outcome.error = TOOL_ERROR
    if modern:
        result |= {"resultType": "complete", "_meta": {_SERVER_KEY: SERVER_INFO}}
    return answer(message, result)


async def _discover(_params: Mapping[str, Any], tools: Tools) -> Message:
    return {
        "supportedVersions": list(MODERN),
        "capabilities": _CAPABILITIES,
        "instructions": tools.instructions,
        "ttlMs": _DISCOVER_TTL_MS,
        "cacheScope": "public",
    }


async def _initialize(params: Mapping[str, Any], tools: Tools) -> Message:
    requested = params.get("protocolVersion")
    return {
        "protocolVersion": requested if requested in LEGACY else LEGACY[0],
        "capabilities": _CAPABILITIES,
        "serverInfo": SERVER_INFO,
        "instructions": tools.instructions,
    }


async def _ping(_params: Mapping[str, Any], _tools: Tools) -> Message:
    return {}


async def _list_tools(params: Mapping[str, Any], tools: Tools) -> Message:
    if params.get("cursor") is not None:
        raise RpcError(INVALID_PARAMS, "the tools stand on one page: there is no such cursor")
    return {"tools": await tools.definitions()}


async def _list_cacheable_tools(params: Mapping[str, Any], tools: Tools) -> Message:
    # Private: what is listed depends on the key.
    return {**await _list_tools(params, tools), "ttlMs": _TOOLS_TTL_MS, "cacheScope": "private"}


async def _call_tool(params: Mapping[str, Any], tools: Tools) -> Message:
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        raise RpcError(INVALID_PARAMS, "params.name must be a string")
    if arguments is not None and not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "params.arguments must be an object")
    called = await tools.call(name, arguments or {})
    if called is None:
        raise RpcError(INVALID_PARAMS, "unknown tool; tools/list names those that there are")
    return called


Method = Callable[[Mapping[str, Any], Tools], Awaitable[Message]]
_MODERN_METHODS: dict[str, Method] = {
    "server/discover": _discover,
    "tools/list": _list_cacheable_tools,
    "tools/call": _call_tool,
}
_LEGACY_METHODS: dict[str, Method] = {
    "initialize": _initialize,
    "ping": _ping,
    "tools/list": _list_tools,
    "tools/call": _call_tool,
}
