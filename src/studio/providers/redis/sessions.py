"""Sessions to one Redis server, for the providers `redis` and `redis_pubsub`.

redis-py's own pool and client are not used: they retry commands that may have run, look names up
themselves, reconnect behind one's back, and follow MOVING notifications of the server to other hosts.
Here redis-py speaks the protocol (RESP3) on a socket that we opened to a checked address.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis._parsers.hiredis import _AsyncHiredisParser
from redis.asyncio.connection import Connection as _Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from studio.contract.bounds import MAX_VALUES
from studio.contract.network import TlsContext
from studio.providers._tcp import tls_failure
from studio.providers.redis.errors import TooLarge, login_error

Argument = bytes | str | int | float | memoryview


_TEXTS, _GROUPS = frozenset(b"$!="), frozenset(b"*>%~|")
"""First bytes of what says its length, and of what says how many elements it has (the RESP3 specification)."""
_LONGEST_LINE = 64


class _Parser(_AsyncHiredisParser):
    """Counts what comes in, so that no reply can fill the memory."""

    _stream: Any
    _reader: Any
    left = 1 << 20
    elements: float = MAX_VALUES
    _line, _skip = b"", 0
    """The beginning of a line whose end has not come, and how many bytes come before the next one begins."""

    async def read_from_socket(self) -> bool:
        """As in redis-py, up to `left` bytes and `elements`. Raises TooLarge."""
        buffer = await self._stream.read(self._read_size)
        if not buffer:
            raise redis.ConnectionError("closed")
        self.left -= len(buffer)
        self.elements -= buffer.count(b"\r\n") / 2  # each element has one line or two
        if self.left < 0 or self.elements < 0:
            raise TooLarge
        self._judge(buffer)
        self._reader.feed(buffer)
        return True

    def _judge(self, buffer: bytes) -> None:
        """hiredis makes room for as many elements as a list says it has: twelve bytes asked for 8 GB of it.

        Raises:
            TooLarge: a list, or the like, says that it has more than MAX_VALUES.
            ValueError: no number stands where one belongs.
        """
        data, at = self._line + buffer, self._skip
        while at < len(data) and (end := data.find(b"\r\n", at)) >= 0:
            kind, start, at = data[at], at + 1, end + 2
            if kind in _TEXTS:
                size = int(data[start:end])  # -1 is no text
                at += size + 2 if size >= 0 else 0
            elif kind in _GROUPS and int(data[start:end]) > MAX_VALUES:
                raise TooLarge
        rest = data[at:]
        if len(rest) > _LONGEST_LINE:
            if rest[0] in _TEXTS | _GROUPS:
                raise ValueError("no number")
            rest = rest[:1] + rest[-1:]  # a text to its line's end
        self._line, self._skip = rest, max(0, at - len(data))


class _Wire(_Connection):
    """redis-py's connection on a given socket. It never dials."""

    async def _connect(self) -> None:
        raise redis.ConnectionError("closed")

    async def adopt(self, sock: socket.socket, tls: TlsContext | None) -> None:
        """Take over a connected socket, with TLS on it where that is asked. Raises TlsFailed."""
        try:
            self._reader, self._writer = await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=self.host if tls else None
            )
        except OSError as exc:
            raise tls_failure(exc) from exc


class Session:
    """One logged-in connection.

    Args:
        limit: bytes that one reply may have on the wire.
    """

    def __init__(self, wire: Any, limit: int) -> None:
        self.reused = False
        self._wire = wire
        self._limit = limit
        self._transport = wire._writer.transport

    @property
    def closed(self) -> bool:
        """Whether either side closed it, or sent what nobody asked for."""
        reader = self._wire._reader
        return reader is None or reader.at_eof() or bool(reader._buffer) or self._transport.is_closing()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()
        self._wire._parser.on_disconnect()
        self._wire._reader = self._wire._writer = None

    async def call(self, *arguments: Argument) -> Any:
        """Send one command and read its reply. Raises what redis-py raises, and TooLarge."""
        wire = self._wire
        self._allow()
        wire._writer.write(hiredis.pack_command(arguments))  # type: ignore[arg-type] # its stub takes one argument
        await wire._writer.drain()
        return await self.read()

    async def calls(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send several commands at once; the replies in order, refusals as exceptions in their place."""
        self._allow()
        self._wire._writer.write(b"".join(hiredis.pack_command(tuple(command)) for command in commands))  # type: ignore[arg-type]
        await self._wire._writer.drain()
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await self.read())
            except redis.ResponseError as exc:
                replies.append(exc)
        return replies

    def _allow(self) -> None:
        self._wire._parser.left, self._wire._parser.elements = self._limit, MAX_VALUES

    async def read(self, *, pushes: bool = False) -> Any:
        """One reply, or a push where these are waited for. Raises what redis-py raises, and TooLarge."""
        try:
            return await self._wire.read_response(push_request=pushes)
        except (TypeError, ValueError, IndexError) as exc:  # a map with a list as key, a bad number, an empty push
            raise redis.InvalidResponse from exc


async def log_in(
    sock: socket.socket,
    tls: TlsContext | None,
    *,
    host: str,
    port: int,
    username: str | None,
    password: str | None,
    db: int,
    limit: int,
) -> Session:
    """A session on a connected socket.

    Raises:
        StudioError: TlsFailed, AuthFailed, Unreachable or UpstreamError.
    """
    # Every field is given, so that redis-py has nothing to fill in.
    wire = _Wire(
        host=host, port=port, db=db, username=username, password=password, protocol=3, parser_class=_Parser,
        retry=Retry(NoBackoff(), 0), socket_timeout=None, socket_connect_timeout=None, driver_info=None,
        health_check_interval=0, maint_notifications_config=None, credential_provider=None, client_name=None,
    )  # fmt: skip
    await wire.adopt(sock, tls)
    session = Session(wire, limit)
    try:
        await wire.on_connect()
    except BaseException as exc:
        session.abort()
        if isinstance(exc, Exception):
            raise login_error(exc) from exc
        raise
    return session
