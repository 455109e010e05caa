"""A fault proxy: TCP to an upstream, with whatever fault is chosen at the moment.

    async with FaultProxy("127.0.0.1", 5432) as proxy:
        ...                                      # a client of 127.0.0.1 and proxy.port works
        await proxy.inject(Fault.BLACK_HOLE)     # from now on it gets no answer, on open connections too
        await proxy.inject(Fault.NONE)

The faults are those that a network makes of a connection (RFC 9293): nobody listens, nothing answers,
everything is late, it is reset, it ends in one direction, its bytes trickle.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from enum import Enum
from typing import Self

_CHUNK = 65_536
_RESETS = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing then sends RST (socket(7))."""


class Fault(Enum):
    """What happens to new connections and, where not said otherwise, to those that are open."""

    NONE = "none"
    REFUSE = "refuse"
    """Nobody listens. Open connections go on."""
    BLACK_HOLE = "black hole"
    """Connections are accepted and no byte passes; what was held back passes when the fault ends."""
    LATENCY = "latency"
    """Each piece waits `latency_s` before it passes."""
    RESET = "reset"
    """The next byte in either direction ends in a reset (RST) on both sides."""
    HALF_CLOSE = "half-close"
    """In place of the next answer its direction ends (FIN); what the client sends goes on passing."""
    SLOW = "slow"
    """One byte passes each `slow_s`."""


class FaultProxy:
    """Listens on `port` of 127.0.0.1 within `async with`, and passes bytes to the upstream and back."""

    def __init__(
        self, host: str, port: int, *, fault: Fault = Fault.NONE, latency_s: float = 0.2, slow_s: float = 0.05
    ) -> None:
        self.port = 0
        self.connections = 0
        """Accepted since the start."""
        self.fault = fault
        """The fault in force; `inject` changes it."""
        self._upstream = (host, port)
        self._latency_s, self._slow_s = latency_s, slow_s
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # It never listens: it keeps the port ours while nobody does.
        self._keeper = _bound(0)
        self.port = self._keeper.getsockname()[1]
        await self.inject(self.fault)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._server is not None:
            self._server.close()
        self._keeper.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def inject(self, fault: Fault) -> None:
        """Put a fault in force; `Fault.NONE` ends the present one."""
        if fault is Fault.REFUSE and self._server is not None:
            self._server.close()
            self._server = None
        elif fault is not Fault.REFUSE and self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self.port))
        async with self._changed:
            self.fault = fault
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):  # asyncio would log a handler that was cancelled
            await self._talk(reader, writer)
        writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._held()
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(writer)
            raise
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, up_writer, answers=False))
                pumps.create_task(self._pump(up_reader, writer, answers=True))
        except* OSError:
            _reset(writer)
            _reset(up_writer)
        finally:
            up_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(_CHUNK):
            await self._held()
            if self.fault is Fault.RESET:
                raise ConnectionResetError
            if self.fault is Fault.HALF_CLOSE and answers:
                break
            await self._pass(data, writer)
        await self._held()
        writer.write_eof()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.fault is Fault.LATENCY:
            await asyncio.sleep(self._latency_s)
        at = 0
        while self.fault is Fault.SLOW and at < len(data):
            writer.write(data[at : at + 1])
            at += 1
            await asyncio.sleep(self._slow_s)
        writer.write(data[at:])
        await writer.drain()

    async def _held(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.fault is not Fault.BLACK_HOLE)


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _reset(writer: asyncio.StreamWriter) -> None:
    opened = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
    writer.transport.abort()
