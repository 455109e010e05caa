"""MCP over stdio: one JSON-RPC message a line, answers in whatever order they are ready.

Source: https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/stdio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from studio.api.wire import json_object
from studio.errors import BadRequest, StudioError, as_studio
from studio.mcp import protocol
from studio.mcp.progress import Tell
from studio.mcp.protocol import Message, RpcError
from studio.mcp.tools import Tools

Answer = Callable[[Message, Tell], Awaitable[Message | None]]
"""What answers a message; None for one that gets no answer. Notifications about it are told meanwhile."""
_CANCELLED = "notifications/cancelled"
_GRACE_S = 5.0
_CHUNK = 1 << 16


def answering(tools: Callable[[], Awaitable[Tools]]) -> Answer:
    """Answer in this process. `tools` is asked for each message, so that a revoked key counts at once."""

    async def answer(message: Message, tell: Tell) -> Message | None:
        try:
            protocol.check_message(message)
            if "id" not in message:
                return None
            modern = protocol.is_modern(message) or message["method"] == "server/discover"
            if modern:
                protocol.check_envelope(message)
                protocol.check_version(protocol.meta_of(message)[protocol.VERSION_KEY])
            return await protocol.handle(message, await tools(), modern=modern, transport="pipe", tell=tell)
        except RpcError as exc:
            return protocol.failure(protocol.id_of(message), exc)
        except Exception as exc:
            return protocol.failure(protocol.id_of(message), protocol.rpc_error(as_studio(exc)))

    return answer


class Stdio:
    """Reads lines until the input ends, and answers each. Requests run side by side and can be cancelled."""

    def __init__(self, answer: Answer, *, source: int, sink: int, max_bytes: int) -> None:
        self._answer = answer
        self._source, self._sink, self._max_bytes = source, sink, max_bytes
        self._running: dict[Any, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    async def serve(self) -> None:
        """Returns when the input has ended and what was begun is answered (or `_GRACE_S` is over)."""
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(line: bytes | None) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        # A thread of its own, because a file as stdin cannot be waited for, and a daemon, because
        # nothing ends a read of a terminal.
        threading.Thread(target=_read_lines, args=(self._source, self._max_bytes, put), daemon=True).start()
        while (line := await lines.get()) is not None:
            if line.strip():
                await self._take(line)
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _take(self, line: bytes) -> None:
        try:
            message = json_object(line) if len(line) <= self._max_bytes else _too_long(self._max_bytes)
        except StudioError as exc:
            await self._write(protocol.failure(None, RpcError(protocol.PARSE_ERROR, exc.message)))
            return
        if message.get("method") == _CANCELLED:
            params = message.get("params")
            self._cancel(params.get("requestId") if isinstance(params, dict) else None)
            return
        key = protocol.id_of(message)
        if key in self._running:
            error = RpcError(protocol.INVALID_REQUEST, "a request with this id is still running")
            await self._write(protocol.failure(key, error))
            return
        task = asyncio.create_task(self._run(message))
        self._running[key if key is not None else task] = task
        task.add_done_callback(lambda done: self._forget(key if key is not None else done))

    def _cancel(self, request_id: Any) -> None:
        """Stop a request; it gets no answer. One that is done or unknown is left alone."""
        task = self._running.get(request_id) if isinstance(request_id, str | int) else None
        if task is not None:
            task.cancel()

    def _forget(self, key: Any) -> None:
        self._running.pop(key, None)

    async def _run(self, message: Message) -> None:
        answer = await self._answer(message, self._write)
        if answer is not None:
            await self._write(answer)

    async def _write(self, message: Message) -> None:
        data = orjson.dumps(message) + b"\n"
        # A reader that went away closes our input too, which ends everything in order.
        async with self._turn:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(_write_all, self._sink, data)


def _too_long(limit: int) -> Message:
    raise BadRequest(f"the message is longer than {limit} bytes")


def _write_all(sink: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(sink, left) :]


def _read_lines(source: int, max_bytes: int, put: Callable[[bytes | None], None]) -> None:
    """Lines of a file descriptor, then None. Of a line that is too long only the beginning is kept."""
    line = b""
    try:
        while chunk := os.read(source, _CHUNK):
            *whole, rest = chunk.split(b"\n")
            for part in whole:
                put(line + part)
                line = b""
            line = (line + rest)[: max_bytes + 1]
        if line:
            put(line)
    except OSError:
        pass  # closed under us: that is an end too
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            put(None)
