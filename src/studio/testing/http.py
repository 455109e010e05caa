"""Small hostile upstreams: a server that answers whatever a test wants, and counts who came."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = bytes | Callable[["Received"], Awaitable[bytes] | bytes]


@dataclass
class Received:
    """One request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Upstream:
    """A running server. `connections` counts all, `open` those that are open now."""

    answer: Answer
    port: int = 0
    scheme: str = "http"
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most: int = 0

    @property
    def url(self) -> str:
        """Its origin."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def drained(self, within_s: float = 2) -> bool:
        """Whether every connection was closed soon."""
        for _ in range(int(within_s * 100)):
            if not self.open:
                break
            await asyncio.sleep(0.01)
        return not self.open

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: answer each request; an answer of nothing closes without one."""
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while (received := await _request(reader)) is not None:
                self.requests.append(received)
                work = asyncio.ensure_future(self._answer(received))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    work.cancel()
                    return
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
                if not work.result():
                    return
                writer.write(work.result())
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, received: Received) -> bytes:
        answer = self.answer if isinstance(self.answer, bytes) else self.answer(received)
        return answer if isinstance(answer, bytes) else await answer


@asynccontextmanager
async def upstream(answer: Answer, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """A server on loopback that gives `answer` (see `reply`) to every request, or what it returns for it."""
    running = Upstream(answer, scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(running.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> Received | None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:] if line)]
        received = Received(head[0], headers, b"")
        received.body = await reader.readexactly(int(received.header("Content-Length") or 0))
        return received
    return None


def reply(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of an answer; underscores in header names stand for dashes."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
