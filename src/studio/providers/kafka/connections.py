"""Connections to the brokers of a cluster: every one through the gate, with answers of a bounded size.

A broker's metadata says where the other brokers are, and the driver dials what it says. aiokafka opens
its sockets with the loop's `create_connection` and nothing else, so its connections are given a loop whose
`create_connection` asks the gate. That holds for the first connection, and for every one that follows.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections.abc import Callable
from typing import Any

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from studio.contract import Network
from studio.contract.network import TlsContext
from studio.errors import AuthFailed, EgressDenied, StudioError, Unreachable
from studio.providers._tcp import Dialling, tls_failure, within
from studio.providers.kafka import codec as kafka_codec
from studio.providers.kafka.config import KafkaConfig
from studio.providers.kafka.errors import login_error

MOST_ROUNDS = 200_000
"""SCRAM iterations that a server may ask for: each costs it nothing and us CPU. Kafka's own default is 4,096."""
LEAST_ROUNDS = 4096
"""RFC 7677, section 4: fewer would make the password easy to guess from what we answer."""
ANSWER_ROOM = 4 << 20
"""Bytes of an answer beyond max_bytes: one batch larger than what was asked for is given nevertheless."""

# It logs each failed connect with its address, and a warning about passwords; what matters is raised.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
kafka_codec.install()


class _Loop:
    """The running loop, but connections come from the gate."""

    def __init__(self, network: Network, dialling: Dialling) -> None:
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._dialling = dialling

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, *, ssl: Any) -> Any:
        sock = await self._network.connect(host, port)
        self._dialling.taken()
        try:
            return await self._loop.create_connection(
                factory, sock=sock, ssl=ssl, server_hostname=host if ssl else None
            )
        except OSError as exc:
            raise tls_failure(exc) from exc


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """aiokafka's connection that dials through the gate."""

    room = ANSWER_ROOM

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """As in aiokafka, but to ask about a topic never makes it."""
        if isinstance(request, MetadataRequest):
            request._allow_auto_topic_creation = False
        return super().send(request, expect_response)

    def close(self, reason: Any = None, exc: Any = None) -> Any:
        """As in aiokafka, but at once: a broker that is silent would keep a TLS connection open for 30 s."""
        writer = self._writer
        closed = super().close(reason, exc)
        if writer is not None:
            writer.transport.abort()
        return closed

    def authenticator_scram(self) -> Any:
        """As in aiokafka, with bounds on the rounds that the other side may ask for."""
        return _BoundedScram(super().authenticator_scram())

    @staticmethod
    async def _read(self_ref: Any) -> None:
        """As in aiokafka, but an answer may not be larger than `room`."""
        self = self_ref()
        if self is None:
            return
        reader, room = self._reader, self.room
        del self
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            if not 0 <= size <= room:
                raise ConnectionError("an answer that is too large")
            answer = await reader.readexactly(size)
            self = self_ref()
            if self is None:
                return
            self._handle_frame(answer)
            del self, answer  # until the next one comes


class _BoundedScram:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def step(self, payload: bytes | None) -> Any:
        found = re.search(rb",i=(\d{1,12})(?:,|$)", payload or b"")
        if found and not LEAST_ROUNDS <= int(found[1]) <= MOST_ROUNDS:
            raise errors.SaslAuthenticationFailed("rounds")
        try:
            return await self._inner.step(payload)
        except (ValueError, KeyError):  # a server that does not know the password cannot sign
            raise errors.SaslAuthenticationFailed("signature") from None


class Door:
    """How a connection is made: address checked, TLS, log-in, all within `connect_timeout_s`."""

    def __init__(self, network: Network, config: KafkaConfig, context: TlsContext | None) -> None:
        self.servers, self.context = config.servers, context
        self._network, self._config = network, config

    async def connect(self, host: str, port: int, on_close: Any = None) -> Connection:
        """A logged-in connection. Raises StudioError."""
        config = self._config
        connection = Connection(
            host, port, client_id=config.client_id, request_timeout_ms=int(config.timeout_s * 1000) + 1000,
            ssl_context=self.context, security_protocol=config.security_protocol, max_idle_ms=540_000,
            on_close=on_close, sasl_mechanism=config.sasl_mechanism, sasl_plain_username=config.username,
            sasl_plain_password=config.password.get_secret_value() if config.password else None,
        )  # fmt: skip
        connection.room = ANSWER_ROOM + config.max_bytes
        try:
            async with within(config.connect_timeout_s) as dialling:
                connection._loop = _Loop(self._network, dialling)
                await connection.connect()
        except Exception as exc:
            connection.close()
            raise login_error(exc) from exc
        except BaseException:
            connection.close()
            raise
        return connection

    async def first(self, on_close: Any = None) -> Connection:
        """A connection to the first bootstrap server that answers. Raises what the first one raised."""
        failure: StudioError | None = None
        for host, port in self.servers:
            try:
                return await self.connect(host, port, on_close)
            except (AuthFailed, EgressDenied):
                raise
            except StudioError as exc:
                failure = failure or exc
        assert failure is not None
        raise failure


class Client(AIOKafkaClient):  # type: ignore[misc]
    """aiokafka's client over a `Door`. `failure` is why the last connect came to nothing."""

    door: Door
    failure: StudioError | None = None
    refused: asyncio.Event
    _sync_task: asyncio.Task[None] | None

    @classmethod
    def adopt(cls, client: Any, door: Door) -> Client:
        """Turn the client that a consumer has made for itself into one that dials through the door."""
        client.__class__ = cls
        found: Client = client
        found.door, found.refused = door, asyncio.Event()
        return found

    async def bootstrap(self) -> None:
        """As in aiokafka, but what goes wrong is raised. Raises StudioError."""
        connection = await self.door.first()
        try:
            self.cluster.update_metadata(await connection.send(MetadataRequest([])))
        finally:
            connection.close()
        if not self.cluster.brokers():
            raise Unreachable("the cluster names no broker")
        if self._sync_task is None:
            self._sync_task = asyncio.ensure_future(self._md_synchronizer())

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        key = (node_id, group)
        found = self._conns.get(key)
        if found is not None and found.connected():
            return found
        broker = self.cluster.broker_metadata(node_id)
        try:
            if broker is None:
                raise Unreachable("the cluster's metadata are changing; try again")
            async with self._get_conn_lock:
                found = self._conns.get(key)
                if found is None or not found.connected():
                    if found is not None:
                        found.close()
                    self._conns[key] = await self.door.connect(broker.host, broker.port, self._on_connection_closed)
        except StudioError as exc:
            self.failure = exc
            if isinstance(exc, AuthFailed | EgressDenied):
                self.refused.set()
            self.force_metadata_update()
            return None
        self.failure = None
        return self._conns[key]
