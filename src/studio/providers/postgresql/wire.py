"""What we put between asyncpg and the socket: a judge of addresses and log-ins, and a pipeline.

**Log-in.** asyncpg sends the password in clear text when a server asks for it, on any connection.
`GuardedLoop` is the event loop as asyncpg sees it: it lets only permitted addresses be dialled and
reads the server's authentication requests before asyncpg does.

**Pipeline.** PostgreSQL answers messages in order and skips the rest up to the next Sync after an
error. So `BEGIN READ ONLY` and its kin can be written directly ahead of asyncpg's own messages:
they take effect first or nothing after them does, without a round trip of their own. asyncpg's
state machine passes over their acknowledgements (ParseComplete, BindComplete, CommandComplete).
Protocol: https://www.postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable
from typing import Any

from studio.contract import Network
from studio.providers._tcp import Dialling

MAX_LOGIN_MESSAGE = 65_536
"""Bytes of one message before the log-in is done; real ones have a few hundred."""
MAX_SCRAM_ITERATIONS = 200_000
"""The server names the work that the client does on its event loop: 4,096 is usual, 2^31 a weapon."""

_OK, _CLEAR_TEXT, _MD5, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 3, 5, 10, 11, 12
_ALWAYS = {_OK, _SASL, _SASL_CONTINUE, _SASL_FINAL}
_ONLY_WITH_TLS = {_CLEAR_TEXT, _MD5}


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def parse(sql: str) -> bytes:
    """A Parse message for the unnamed statement: the server's own grammar judges the text."""
    return _message(b"P", b"\0" + sql.encode() + b"\0\0\0")


def run(sql: str) -> bytes:
    """Parse, Bind and Execute of a constant statement that returns no rows."""
    return parse(sql) + _message(b"B", b"\0" * 8) + _message(b"E", b"\0" * 5)


ROLLBACK = run("ROLLBACK")


class Refused(Exception):
    """The server asked for something that must not be answered; the message says what."""


class NotSpoken(Refused):
    """What was received is not PostgreSQL's protocol: another kind of server answers there."""


class Channel:
    """A transport that sends what lies in `ahead` in front of the next message, as one packet with it.

    asyncpg's protocol and our session share it: what asyncpg writes next is what the preamble is for.
    `room` is how many bytes may still come as the answer to what was written last; below zero it is over.
    `share` is the part of the room, one in so many, that the next answer may take.
    """

    def __init__(self, transport: Any, guard: GuardedLoop) -> None:
        self._transport = transport
        self._guard = guard
        self.ahead = b""
        self.room = guard.most
        self.share = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        """Send `data`; what waited in `ahead` leaves with it, in one packet."""
        self.room = self._guard.most // self.share
        if self.ahead:
            data, self.ahead = self.ahead + bytes(data), b""
        self._transport.write(data)

    def set_protocol(self, protocol: Any) -> None:
        """asyncpg calls this after a TLS handshake, with the protocol that will log in."""
        self._transport.set_protocol(_LoginGate(protocol, self._guard, self._transport, self, tls=True))


class GuardedLoop:
    """The event loop for one asyncpg connection: dials only what the network permits, judges log-ins.

    An answer has `most` bytes at most: asyncpg would keep whatever comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, network: Network, dialling: Dialling, most: int) -> None:
        self._loop = loop
        self.most = most
        self._network = network
        self._dialling = dialling
        self.refusal: Refused | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, **options: Any) -> Any:
        """As asyncio's; asyncpg calls it for log-ins, TLS negotiations and cancel requests."""
        self._network.permit(host, port)
        transport, outer = await self._loop.create_connection(lambda: self._judged(factory()), host, port, **options)
        self._dialling.taken()
        if isinstance(outer, _LoginGate):
            return outer.channel, outer.inner
        return transport, outer

    async def start_tls(self, transport: Any, protocol: Any, context: Any, **options: Any) -> Any:
        """As asyncio's; the log-in that follows goes through the judge too."""
        upgraded = await self._loop.start_tls(transport, protocol, context, **options)
        return upgraded and Channel(upgraded, self)

    def _judged(self, protocol: Any) -> Any:
        """A judge in front of a log-in; a TLS negotiation or a cancel request gets none."""
        return _LoginGate(protocol, self) if hasattr(protocol, "get_server_pid") else protocol


class _Meter(asyncio.Protocol):
    """Passes everything on, and ends the connection where an answer is larger than is read."""

    def __init__(self, inner: Any, channel: Channel) -> None:
        self.inner, self.channel = inner, channel
        self.connection_lost = inner.connection_lost  # type: ignore[method-assign]
        self.pause_writing, self.resume_writing = inner.pause_writing, inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        self.channel.room -= len(data)
        if self.channel.room < 0:
            self.channel.abort()
        else:
            self.inner.data_received(data)


class _LoginGate(asyncio.Protocol):
    """Passes whole messages on until AuthenticationOk, then steps aside for a meter."""

    def __init__(
        self,
        inner: Any,
        guard: GuardedLoop,
        transport: Any = None,
        channel: Channel | None = None,
        *,
        tls: bool = False,
    ) -> None:
        self.inner = inner
        self.guard = guard
        self.transport = transport
        self.tls = tls
        self.channel = channel
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.channel = Channel(transport, self.guard)
        self.inner.connection_made(self.channel)

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def data_received(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= 5:
            kind, length = struct.unpack_from("!ci", self._held)
            if not 4 <= length <= MAX_LOGIN_MESSAGE:
                return self._refuse(NotSpoken("the answer is not PostgreSQL's protocol"))
            if len(self._held) <= length:
                return None
            whole, self._held = self._held[: length + 1], self._held[length + 1 :]
            if kind == b"R" and (reason := self._judge(whole[5:])):
                return self._refuse(Refused(reason))
            if kind == b"R" and whole[5:9] == b"\0\0\0\0":
                assert self.channel is not None
                self.transport.set_protocol(_Meter(self.inner, self.channel))
                return self.inner.data_received(whole + self._held)  # type: ignore[no-any-return]
            self.inner.data_received(whole)
        return None

    def _judge(self, body: bytes) -> str | None:
        """Why this request must not be answered, or None."""
        code = int.from_bytes(body[:4], "big")
        if code in _ONLY_WITH_TLS and not self.tls:
            return (
                "it asks for the password in clear text or as MD5 without TLS; turn ssl on, or use scram-sha-256 there"
            )
        if code not in _ALWAYS | _ONLY_WITH_TLS:
            return "it asks for a way of log-in that is not offered here"
        rounds = re.search(rb",i=(\d+)", body) if code == _SASL_CONTINUE else None
        if rounds and (len(rounds[1]) > 9 or int(rounds[1]) > MAX_SCRAM_ITERATIONS):
            return "it asks for an unreasonable amount of work in the log-in"
        return None

    def _refuse(self, refusal: Refused) -> None:
        self.guard.refusal = refusal
        self._held = b""
        self.transport.abort()
