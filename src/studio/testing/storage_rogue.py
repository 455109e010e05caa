"""A hostile or silent HTTP server on loopback that records what it is sent, and a meter of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

Behaviour = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Gets the head of a request, and answers it in its own way."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Rogue:
    """Counts connections and keeps every byte. It behaves as it is told; without a word, it says nothing."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour
        self.connections = 0
        self.seen = bytearray()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._over = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Rogue:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        self._over.set()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._talk(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                return
            self.seen += head
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    self.seen += await reader.readexactly(int(line.partition(b":")[2]))
            if self.behaviour is None:
                await self._over.wait()
                return
            await self.behaviour(head, writer)
            await writer.drain()


def answering(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Always the same answer."""
    more = [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *more]
    answer = "\r\n".join([*lines, "", ""]).encode() + body

    async def behave(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return behave


def raw(answer: bytes) -> Behaviour:
    """These bytes, and the end of the connection."""

    async def behave(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    return behave


class Memory:
    """The most resident memory above where it began, in bytes; sampled while it is open."""

    def __init__(self) -> None:
        self.most = 0

    async def __aenter__(self) -> Memory:
        self._base = self._now()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.most = max(self.most, self._now() - self._base)

    def _now(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE

    async def _watch(self) -> None:
        while True:
            self.most = max(self.most, self._now() - self._base)
            await asyncio.sleep(0.005)


async def repeated(size: int, piece: bytes = bytes(1024 * 1024)) -> AsyncIterator[bytes]:
    """So many bytes, from one buffer."""
    left = size
    while left > 0:
        yield piece[:left] if left < len(piece) else piece
        left -= len(piece)
