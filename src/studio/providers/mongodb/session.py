"""Sessions to one MongoDB server.

pymongo's client is not used: it keeps monitors that dial whatever addresses a server's `hello` names,
looks names up itself, and waits for a dead server. Here its connection speaks the protocol on a
socket that we opened to a checked address; there is no topology that another host could enter.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections.abc import Mapping
from typing import Any

from pymongo.asynchronous.pool import AsyncConnection, Pool
from pymongo.auth_shared import _build_credentials_tuple
from pymongo.network_layer import AsyncNetworkingInterface
from pymongo.pool_options import PoolOptions
from pymongo.read_preferences import ReadPreference

from studio.contract.network import TlsContext
from studio.errors import AuthFailed, UpstreamError
from studio.providers._tcp import tls_failure
from studio.providers.mongodb.config import MongodbConfig
from studio.providers.mongodb.errors import login_error
from studio.providers.mongodb.values import CODEC
from studio.providers.mongodb.wire import LONG, MAX_MESSAGE, Long, Wire, unpacked

MAX_ROUNDS = 600_000
"""PBKDF2 rounds of a log-in; they run on the event loop, 100,000 take some 50 ms."""
_ROUNDS = re.compile(rb"(?:^|,)i=(\d+)")


class _Connection(AsyncConnection):
    """pymongo's connection, which reads long replies in parts, and does no more work for a log-in than it may ask."""

    async def receive_message(self, request_id: int | None) -> Any:
        """As in pymongo; a `Long` for a reply that has not come wholly yet."""
        wire: Any = self.conn.get_conn  # of the class `Wire`
        try:
            data, code = await wire.read(request_id, self.max_message_size)
            return unpacked(wire, memoryview(data), code)
        except BaseException as error:
            await self._raise_connection_failure(error)

    async def command(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As in pymongo. Raises AuthFailed for a log-in that would keep this process busy."""
        reply: dict[str, Any] = await super().command(*arguments, **options)
        if not self.ready:
            speculative = reply.get("speculativeAuthenticate") or {}
            for payload in (reply.get("payload"), speculative.get("payload")):
                found = _ROUNDS.search(payload) if isinstance(payload, bytes) else None
                if found and int(found[1][:20]) > MAX_ROUNDS:
                    raise AuthFailed("the server asks for more work in a log-in than this service does")
        return reply


class Opener:
    """Logs in, again and again, as one account."""

    def __init__(self, config: MongodbConfig) -> None:
        self._config = config
        # Only what a connection asks its pool for; no connection is ever made by this pool.
        self._pool = Pool((config.host, config.port), PoolOptions(is_sync=False, credentials=_credentials(config)))

    async def log_in(self, sock: socket.socket, tls: TlsContext | None) -> Session:
        """A session on a connected socket.

        Raises:
            StudioError: TlsFailed, AuthFailed, Unreachable or UpstreamError.
        """
        loop = asyncio.get_running_loop()
        try:
            pair = await loop.create_connection(
                lambda: Wire(timeout=None), sock=sock, ssl=tls,
                server_hostname=self._config.host if tls else None,
            )  # fmt: skip
        except OSError as exc:
            raise tls_failure(exc) from exc
        address = (self._config.host, self._config.port)
        conn = _Connection(AsyncNetworkingInterface(pair), self._pool, address, 1, False)
        session = Session(conn, *pair)
        try:
            await self._greet(conn)
        except BaseException as exc:
            session.abort()
            if isinstance(exc, Exception):
                raise login_error(exc) from exc
            raise
        return session

    async def _greet(self, conn: _Connection) -> None:
        hello: Any = await conn.hello()
        conn.max_message_size = MAX_MESSAGE
        wanted = self._config.replica_set
        if wanted is not None and hello.replica_set_name != wanted:
            raise UpstreamError("the server is not a member of the replica set that replica_set names")
        await conn.authenticate()


class Session:
    """One logged-in connection."""

    def __init__(self, conn: AsyncConnection, transport: Any, wire: Wire) -> None:
        self.reused = False
        self._conn = conn
        self._transport, self._wire = transport, wire
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    @property
    def closed(self) -> bool:
        """Whether either side closed it, or a part of what was sent was not read.

        pymongo stops reading between two commands, so the loop would not hear of an end; the socket does.
        """
        ended = self._conn.closed or self._transport.is_closing()
        return ended or self._wire.left > 0 or bool(self._poll.poll(0))

    def abort(self) -> None:
        """Close it at once; the server ends what a reading client has left behind."""
        self._conn.closed = True
        self._transport.abort()

    async def call(
        self, database: str, command: Mapping[str, Any], *, reading: bool = False, listed: bool = False
    ) -> Mapping[str, Any]:
        """Run one command and give its reply. Raises what pymongo raises.

        Args:
            listed: the reply is a list, for `wire.listed`, which may not have come wholly yet.
        """
        # A server that is named alone may be a secondary, which answers reads only where that is asked.
        preference = ReadPreference.PRIMARY_PREFERRED if reading else ReadPreference.PRIMARY
        reply = await self._conn.command(database, dict(command), read_preference=preference, codec_options=CODEC)  # type: ignore[arg-type]
        long = reply.get(LONG)
        return await long.whole() if isinstance(long, Long) and not listed else reply


def _credentials(config: MongodbConfig) -> Any:
    if config.username is None or config.password is None:
        return None
    mechanism = config.auth_mechanism or "DEFAULT"
    secret = config.password.get_secret_value()
    return _build_credentials_tuple(mechanism, config.auth_source, config.username, secret, {}, None)
