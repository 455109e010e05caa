"""Recorders on loopback, and a witness of every connect that this process makes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

Hook = Callable[[str, tuple[Any, ...]], None]
"""An audit hook of Python."""
_LOG_IN = struct.pack("!cii", b"R", 8, 3)  # PostgreSQL: AuthenticationCleartextPassword
_MYSQL = (
    b"\x0a5.5.5-10.11.1-MariaDB\0" + struct.pack("<I", 7) + b"12345678\0"
    + struct.pack("<HBHHB", 0xF7FE, 45, 2, 0x81FF, 21) + bytes(10) + b"123456789012\0mysql_clear_password\0"
)  # fmt: skip


class Sink:
    """Listens, records every byte, and answers just enough to be sent a credential.

    `http`: the answer to a request. `reply`: the answer to anything else that is not understood. What is set as
    `say` answers everything in place of those.
    """

    def __init__(self, kind: str = "", *, http: bytes | None = None, reply: bytes = b"") -> None:
        self.seen = bytearray()
        self.connections = 0
        refused = kind in {"s3", "minio", "sqs"}  # whose clients would try anything else again
        self._kind, self._http, self._reply = kind, http or answer(b"{}", 403 if refused else 200), reply
        self.say: Callable[[bytes], bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        task.add_done_callback(self._tasks.discard)
        try:
            if self._kind == "mysql":
                writer.write(struct.pack("<I", len(_MYSQL)) + _MYSQL)
            while data := await reader.read(65_536):
                self.seen += data
                said = self._say(data)
                if not said:
                    break  # silence would only cost time
                writer.write(said)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _say(self, data: bytes) -> bytes:
        if self.say is not None:
            return self.say(data)
        if data[4:8] == struct.pack("!i", 80877103):
            return b"N"
        if self._kind == "postgresql":
            return _LOG_IN if b"user\0" in data else b""
        if self._kind == "rabbitmq":
            return _amqp_start() if data.startswith(b"AMQP") else b""
        if re.match(rb"[A-Z]+ \S+ HTTP/1\.1\r\n", data):
            return self._http
        if data.startswith(b"*"):
            return self._reply or b"+OK\r\n" * data.count(b"\r\n*") + b"+OK\r\n"
        return self._reply

    async def __aenter__(self) -> Sink:
        self._server = await asyncio.start_server(self._serve, ["127.0.0.1", "127.0.0.2", "::1"], self.port or 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """An HTTP answer; underscores in header names stand for dashes."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "content-type: application/json"]
    return "\r\n".join([*lines, *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()), "", ""]).encode() + body


def _amqp_start() -> bytes:
    from pamqp import commands, frame

    start = commands.Connection.Start(mechanisms="PLAIN AMQPLAIN EXTERNAL", locales="en_US")
    return bytes(frame.marshal(start, 0))


@asynccontextmanager
async def sink(kind: str = "", **more: Any) -> AsyncIterator[Sink]:
    """A running sink on one free port of 127.0.0.1, 127.0.0.2 and ::1."""
    found = Sink(kind, **more)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        found.port = probe.getsockname()[1]
    async with found:
        yield found


_watching: list[tuple[list[Any], Hook | None]] = []
_hooked: list[bool] = []


def _witness(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for seen, hook in _watching:
            seen.append(arguments[1])
            if hook is not None:
                hook(event, arguments)


@contextmanager
def connects(hook: Hook | None = None) -> Iterator[list[Any]]:
    """Every address that this process dials meanwhile, whichever library does it; `hook` is asked about each."""
    if not _hooked:
        sys.addaudithook(_witness)  # for good; it costs nothing while nobody watches
        _hooked.append(True)
    seen: list[Any] = []
    entry = (seen, hook)
    _watching.append(entry)
    try:
        yield seen
    finally:
        with contextlib.suppress(ValueError):
            _watching.remove(entry)
