"""MCP messages from stdin to a server's `/mcp`: for clients that can only start a program."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from studio.client.transport import Transport, error_of
from studio.errors import UpstreamError, as_studio
from studio.mcp import protocol
from studio.mcp.headers import METHOD, NAME, NAMED, VERSION
from studio.mcp.progress import Tell
from studio.mcp.protocol import Message


class Bridge(Transport):
    """Answers a message with what the server answers; cancelling the call cancels the server's work."""

    def __init__(self, url: str, key: str | None, *, agent_id: str | None = None, tools: str | None = None) -> None:
        super().__init__(url, key)
        given = {"agent": agent_id, "tools": tools}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        self._url = URL(f"{self._base}/mcp" + (f"?{query}" if query else ""), encoded=True)

    async def answer(self, message: Message, tell: Tell) -> Message | None:
        """The server's answer; an error of ours where there is none. None for a notification.

        What the server says meanwhile is told on.
        """
        try:
            return await self._post(message, tell)
        except Exception as exc:
            error = protocol.rpc_error(as_studio(exc))
            return protocol.failure(protocol.id_of(message), error) if "id" in message else None

    async def _post(self, message: Message, tell: Tell) -> Message | None:
        headers = {**_headers(message), "accept": "application/json, text/event-stream"}
        try:
            async with self._opened().post(
                self._url, data=orjson.dumps(message), headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                content = await _last(response, tell)
        except TimeoutError as exc:
            raise self._late(exc) from exc
        except aiohttp.ClientError as exc:
            raise self._unreachable(exc) from exc
        return _read(status, content)


async def _last(response: aiohttp.ClientResponse, tell: Tell) -> bytes:
    """The answer's body; of a stream of events the one that is the answer, with the notifications told."""
    if response.content_type != "text/event-stream":
        return await response.read()
    content = rest = b""
    async for chunk in response.content.iter_any():
        *events, rest = (rest + chunk).split(b"\n\n")
        for data in (event.partition(b"data: ")[2] for event in events):
            message = orjson.loads(data)
            if "method" in message:
                await tell(message)
            else:
                content = data
    return content


def _headers(message: Message) -> dict[str, str]:
    """What must stand in the headers too, read off the body."""
    if not protocol.is_modern(message):
        return {} if message.get("method") == "initialize" else {VERSION: protocol.LEGACY[0]}
    method, params = message.get("method"), message.get("params") or {}
    named = {NAME: params.get(NAMED[str(method)])} if method in NAMED else {}
    values = {VERSION: protocol.meta_of(message)[protocol.VERSION_KEY], METHOD: method, **named}
    return {name: _safe(value) for name, value in values.items() if isinstance(value, str)}


def _safe(value: str) -> str:
    """A header's value as it stands, or in the form that carries any text."""
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _read(status: int, content: bytes) -> Message | None:
    if status == 202:
        return None
    try:
        answer: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = None
    if isinstance(answer, dict) and answer.get("jsonrpc") == "2.0":
        return answer
    if isinstance(answer, dict) and "code" in answer:
        raise error_of(status, answer)
    raise UpstreamError(f"the answer ({status}) is not that of an MCP server; check the URL")
