"""Connections and channels to one RabbitMQ server.

aiormq, the protocol layer of aio-pika, speaks AMQP on a socket that we opened to a checked address.
aio-pika's own connections are not used: they take a URL with the password in it, look names up
themselves, and its robust ones dial again behind one's back.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, TypeVar

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as _Channel
from aiormq.connection import TransportFactory
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from studio.contract.network import TlsContext
from studio.providers._tcp import Tcp, tls_failure
from studio.providers.rabbitmq import tables
from studio.providers.rabbitmq.errors import Lost, login_error

FRAME_MAX = 131_072
"""Bytes of one frame: RabbitMQ's own default, and the most that a server can make us read at once."""
USUAL_HEAD = 1024
HEAD_COST = 10
CLOSE_S = 1.0
Answer = TypeVar("Answer")

# It logs a traceback for every cut, and the user's name with it; what matters is raised.
logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)
tables.install()


async def driven(work: Awaitable[Answer]) -> Answer:
    """Await the driver, which says that it is cancelled when its connection broke. Raises Lost then."""
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Lost from None


class _Reader(asyncio.StreamReader):
    async def readexactly(self, n: int) -> bytes:
        if n > FRAME_MAX:
            raise ConnectionError("frame too large")
        return await super().readexactly(n)


class _Given(TransportFactory):
    """Streams on a connected socket."""

    def __init__(self, sock: socket.socket, tls: TlsContext | None, host: str) -> None:
        self._sock, self._tls, self._host = sock, tls, host
        self.transport: asyncio.Transport | None = None

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = _Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, sock=self._sock, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        except OSError as exc:
            raise tls_failure(exc) from exc
        self.transport = transport
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class Cut(DeliveredMessage):
    """A message for which there was no room."""


class Channel(_Channel):
    """A channel that stops keeping messages when there is no `room` for them any more: their properties and body go.

    `largest` is the most that one of them took of it.
    """

    room = 0
    largest = 0
    _weight = 0

    async def _get_frame(self) -> Any:
        weight, frame = await self.frames.get()
        self.frames.task_done()
        if isinstance(frame, ContentHeader):
            self._weight = weight
        return frame

    async def _read_content(self, frame: Any, header: Any) -> DeliveredMessage:
        # Small values of a table take some ten times the memory of their bytes; a usual head has no 1 KiB of them.
        taken = header.body_size + self._weight + HEAD_COST * max(0, self._weight - USUAL_HEAD)
        self.room -= taken
        self.largest = max(self.largest, taken)
        if self.room >= 0:
            return await super()._read_content(frame, header)
        header.properties = spec.Basic.Properties(message_id=header.properties.message_id)
        left = header.body_size
        while left > 0:
            content = await self._get_frame()
            if not isinstance(content, ContentBody):
                raise ValueError("a frame that is no content")
            left -= len(content.value)
        return Cut(delivery=frame, header=header, body=b"", channel=self)


class Wire(aiormq.Connection):
    """aiormq's connection on a given socket. It never dials, and knows no URL."""

    def __init__(self, given: _Given, *, username: str, password: str, virtual_host: str) -> None:
        super().__init__("amqp://localhost", transport_factory=given)
        self._given = given
        self.vhost = virtual_host
        self._plain = f"\0{username}\0{password}"
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        """Whether it can be used, as far as can be told without asking the server."""
        return bool(self.is_opened)

    def _client_properties(self, **kwargs: Any) -> dict[str, Any]:
        kept: dict[str, Any] = super()._client_properties()
        return {"product": "studio-connectors", "capabilities": kept["capabilities"]}

    def _credentials_class(self, start_frame: Any) -> Any:
        if "PLAIN" not in start_frame.mechanisms.split():
            raise aiormq.exceptions.AuthenticationError(start_frame.mechanisms, ["PLAIN"])
        return SimpleNamespace(name="PLAIN", value=lambda _: SimpleNamespace(marshal=lambda: self._plain))

    @staticmethod
    async def _rpc(request: Any, writer: Any, frame_receiver: Any, wait_response: bool = True) -> Any:
        """As in aiormq, but a refusal keeps its code, and frames stay small."""
        writer.write(marshal(request, 0))
        await writer.drain()
        if not wait_response:
            return None
        _, _, frame = await frame_receiver.get_frame()
        if isinstance(frame, spec.Connection.Close):
            if frame.reply_code == 403:
                raise aiormq.exceptions.ProbableAuthenticationError(frame.reply_text)
            raise aiormq.connection.exception_by_code(frame)
        if request.synchronous and frame.name not in request.valid_responses:
            raise aiormq.exceptions.InvalidFrameError("unexpected")
        if isinstance(frame, spec.Connection.Tune):
            frame.frame_max = min(frame.frame_max or FRAME_MAX, FRAME_MAX)
        return frame

    async def open_channel(self, *, confirms: bool) -> Channel:
        """A new channel; publishing on it raises for a message that no queue takes. Raises Lost."""
        if not self.alive:
            raise Lost
        number = next(number for number in range(1, 65_536) if number not in self.channels)
        channel = Channel(self, number, publisher_confirms=confirms, on_return_raises=True)
        self.channels[number] = channel
        await driven(channel.open())
        return channel

    def leave(self, channel: Channel) -> None:
        """Close a channel in the background. What was not acknowledged on it goes back to its queue."""
        if not channel.is_closed and self.alive:
            self._later(channel.close())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            with suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_S):
                    await work

        task = asyncio.ensure_future(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Close it, and everything on it."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.is_closed:
            with suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_S):
                    await self.close()
        self.cut()

    def cut(self) -> None:
        """Close it without a word: a server that is silent would keep it open."""
        if self._given.transport is not None:
            self._given.transport.abort()


class Link:
    """One connection, made when it is needed and again after it broke."""

    def __init__(self, tcp: Tcp, log_in: Callable[[socket.socket, TlsContext | None], Awaitable[Wire]]) -> None:
        self._tcp, self._log_in = tcp, log_in
        self._wire: Wire | None = None
        self._lock = asyncio.Lock()

    async def wire(self) -> Wire:
        """The connection. Raises what connecting raises."""
        async with self._lock:
            if self._wire is None or not self._wire.alive:
                old, self._wire = self._wire, None
                if old is not None:
                    await old.end()
                self._wire = await self._tcp.open(self._log_in)
            return self._wire

    async def close(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.end()


class Lane:
    """A channel as one session of a pool."""

    def __init__(self, wire: Wire, channel: Channel) -> None:
        self.reused = False
        self.wire = wire
        self.channel = channel
        self._kept = False

    @property
    def closed(self) -> bool:
        """Whether it is of no use to the pool any more."""
        return self._kept or self.channel.is_closed or not self.wire.alive

    def keep(self) -> None:
        """Take the channel away from the pool: messages that were handed out belong to it."""
        self._kept = True

    def abort(self) -> None:
        """Close the channel, unless it was kept."""
        if not self._kept:
            self.wire.leave(self.channel)


async def log_in(
    sock: socket.socket, tls: TlsContext | None, *, host: str, username: str, password: str, virtual_host: str
) -> Wire:
    """A connection on a connected socket. Raises StudioError."""
    given = _Given(sock, tls, host)
    wire = Wire(given, username=username, password=password, virtual_host=virtual_host)
    try:
        await driven(wire.connect())
    except Exception as exc:
        raise login_error(exc) from exc
    finally:
        if given.transport is None:
            sock.close()
    return wire


async def lane(link: Link, *, confirms: bool) -> Lane:
    """A channel of its own on a link."""
    wire = await link.wire()
    try:
        return Lane(wire, await wire.open_channel(confirms=confirms))
    except Lost:  # an idle connection that was cut without a word
        wire = await link.wire()
        return Lane(wire, await wire.open_channel(confirms=confirms))
