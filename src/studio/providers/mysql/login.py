"""asyncmy's connection with a log-in of ours. Imported when the first connection is made.

It asks for no multi-statements and offers no local files, upgrades to TLS before any secret is sent
or not at all, and answers only those ways of log-in that keep the password from whoever listens.
Protocol: https://mariadb.com/kb/en/connection/
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import asyncmy.auth
import asyncmy.connection
from asyncmy.constants import CLIENT
from asyncmy.errors import MySQLError
from asyncmy.protocol import MysqlPacket

from studio.contract.network import TlsContext
from studio.providers._sql.server import row_too_large
from studio.providers.mysql.errors import Garbled, NoTls, Refused, from_server

# asyncmy's stubs do not tell what a subclass sees.
_connection: Any = asyncmy.connection
_Connection: Any = _connection.Connection
_auth: Any = asyncmy.auth

MAX_SMALL = 65_536
"""Bytes of one packet that is no row."""
MAX_ROW = 0xFFFFFE
"""Longer rows come in several packets, without a bound that the server would have to keep to."""
READ_AHEAD = 1 << 20
"""Bytes that may wait for their consumer."""
IN_TRANSACTION = 1
EXTENDED_METADATA, CACHE_METADATA = 8, 16
"""MariaDB's own capabilities: names of types, and no column definitions where they are known already."""

# FOUND_ROWS counts the rows that an UPDATE matched, as other databases do.
_WANTED = (
    CLIENT.LONG_FLAG | CLIENT.FOUND_ROWS | CLIENT.PROTOCOL_41 | CLIENT.TRANSACTIONS | CLIENT.SECURE_CONNECTION
    | CLIENT.MULTI_RESULTS | CLIENT.PS_MULTI_RESULTS | CLIENT.PLUGIN_AUTH | CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA
    | CLIENT.CONNECT_ATTRS | CLIENT.CONNECT_WITH_DB | CLIENT.DEPRECATE_EOF
)  # fmt: skip
"""What we can do. Neither MULTI_STATEMENTS nor LOCAL_FILES is among it."""
_NEEDED = CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH
_UTF8MB4 = 45
_NATIVE = b"mysql_native_password"


class _Reader(_connection._MySQLProtocol):  # type: ignore[misc]
    """asyncmy's receiving end, which reads no further ahead of its consumer than `READ_AHEAD`.

    asyncmy's own takes in whatever comes, so a slow reader would have the whole result in memory.
    """

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        super().buffer_updated(nbytes)
        if self.length - self.pos > READ_AHEAD and not self.transport.is_closing():
            self.transport.pause_reading()

    async def wait_for_data(self, need: int) -> None:
        """Wait for more bytes; by then all that is there was looked at."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        await super().wait_for_data(need)


class Login(_Connection):  # type: ignore[misc]
    """A connection up to the end of its log-in.

    Args:
        sock: a connected socket; it is closed with the connection.
        username, password, database: as UTF-8.
        tls: the context to upgrade with, or None for no TLS.
    """

    _transport: Any
    _next_seq_id: int

    def __init__(
        self,
        sock: socket.socket,
        *,
        username: str,
        password: str,
        database: str,
        tls: TlsContext | None,
        timeout: float,
    ) -> None:
        # Every field is given: asyncmy fills what is left out from option files and from this machine's user.
        super().__init__(
            sock=sock, host="", port=3306, user=username, password=password.encode(), database=None, unix_socket=None,
            read_default_file=None, read_default_group=None, init_command=None, local_infile=False, charset="utf8mb4",
            autocommit=None, connect_timeout=timeout, ssl=None,
        )  # fmt: skip
        self.limit = MAX_SMALL
        self.busy = False
        """Whether an answer is still to come; a session that is busy cannot be used again."""
        self.affected = self.inserted = 0
        self._tls = tls
        self._login = (username.encode(), password.encode(), database.encode())
        self._extensions = 0
        self.address = str(sock.getpeername()[0])

    @property
    def closed(self) -> bool:
        """Whether no more can be sent."""
        return bool(self._stream_broken)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, by the server's last word."""
        return bool(self.server_status & IN_TRANSACTION)

    @property
    def is_mariadb(self) -> bool:
        """Whether the server says that it is MariaDB."""
        return "mariadb" in self.server_version.lower()

    async def read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        """As asyncmy's, within `limit` bytes. An error packet raises, and ends the answer."""
        await self._peek()
        try:
            return await super().read_packet(packet_type)
        except MySQLError as exc:
            self.busy = self.busy and not from_server(exc)
            raise

    def close(self) -> None:
        """Close at once, without a word to the server. asyncmy's own would wait for the end of TLS."""
        transport = self._transport
        super().close()
        if transport is not None:
            transport.abort()

    async def _peek(self) -> int:
        """Wait until the next packet is whole; its size."""
        proto = self._proto
        if proto.length - proto.pos < 4:
            await self._fill_buffer(4)
        size = int.from_bytes(proto.buffer[proto.pos : proto.pos + 3], "little")
        if size > self.limit > MAX_SMALL:
            raise row_too_large()
        if size > self.limit:
            raise Garbled("the server sent more in one packet than is taken")
        if proto.length - proto.pos < size + 4:
            await self._fill_buffer(size + 4)
        return size

    # -- log-in -----------------------------------------------------------------------------------

    async def _request_authentication(self) -> None:
        """The client's part of the handshake, called by asyncmy's `connect` after the server's greeting."""
        self._proto.__class__ = _Reader  # asyncmy makes it, and takes no other
        self._transport.set_protocol(self._proto)  # a transport keeps the methods that it found
        if self.server_capabilities & _NEEDED != _NEEDED:
            raise Refused("it is too old: it offers no log-in that protects the password")
        flags = _WANTED & (self.server_capabilities | CLIENT.FOUND_ROWS)
        self._extensions = self._mariadb_ext_caps & (EXTENDED_METADATA | CACHE_METADATA)
        if not self._extensions:
            flags |= CLIENT.LONG_PASSWORD  # the bit by which MySQL's own clients tell themselves from MariaDB's
        self._deprecate_eof = bool(flags & CLIENT.DEPRECATE_EOF)
        if self._tls is not None:
            await self._start_tls(self._head(flags | CLIENT.SSL), self._tls)
            flags |= CLIENT.SSL
        username, password, database = self._login
        plugin = self._auth_plugin_name.encode()
        if plugin not in {_NATIVE, b"caching_sha2_password"}:
            plugin = _NATIVE  # the server switches to the account's own
        answer = self._answer(plugin, password, self.salt)
        attributes = b"".join(bytes([len(text)]) + text for text in (b"program_name", b"studio-connectors"))
        self.write_packet(
            self._head(flags) + username + b"\0" + bytes([len(answer)]) + answer + database + b"\0" + plugin + b"\0"
            + (bytes([len(attributes)]) + attributes if flags & CLIENT.CONNECT_ATTRS else b"")
        )  # fmt: skip
        await self._finish_login(plugin, password)

    def _head(self, flags: int) -> bytes:
        return struct.pack("<IIB19xI", flags, 0xFFFFFF, _UTF8MB4, self._extensions)

    async def _start_tls(self, request: bytes, tls: TlsContext) -> None:
        if not self.server_capabilities & CLIENT.SSL:
            raise NoTls
        proto = self._proto
        if proto.length != proto.pos:
            raise Garbled("the server sent something before it was its turn")
        self.write_packet(request)
        try:
            transport = await self._loop.start_tls(self._transport, proto, tls, server_hostname=tls.server_hostname)
        except OSError as exc:
            raise NoTls from exc
        self._transport = proto.transport = transport

    async def _finish_login(self, plugin: bytes, password: bytes) -> None:
        for _ in range(4):
            data = (await self.read_packet()).get_all_data()
            if data[:1] == b"\0":
                self.limit = MAX_ROW
                return
            if data[:1] == b"\xfe":
                plugin, _, salt = data[1:].partition(b"\0")
                self.write_packet(self._answer(plugin, password, salt[:20]))
            elif plugin == b"caching_sha2_password" and data == b"\1\4":
                self.write_packet(self._clear(password, "turn ssl on, as its first log-in needs the password itself"))
            elif plugin != b"caching_sha2_password" or data != b"\1\3":
                raise Refused("it asks for something that is not answered here")
        raise Refused("it does not come to an end with the log-in")

    def _answer(self, plugin: bytes, password: bytes, salt: bytes) -> bytes:
        """What proves the password to the server without handing it over, for the ways that can do so."""
        if plugin == _NATIVE:
            return bytes(_auth.scramble_native_password(password, salt))
        if plugin == b"caching_sha2_password":
            return bytes(_auth.scramble_caching_sha2(password, salt)) if password else b""
        if plugin == b"sha256_password":
            return self._clear(password, "turn ssl on, or use caching_sha2_password there")
        raise Refused("it asks for the password in clear text, or for a way of log-in that is not offered here")

    def _clear(self, password: bytes, advice: str) -> bytes:
        # Without TLS asyncmy would encrypt it for a public key that the server, whoever that is, sends along.
        if self._tls is None:
            raise Refused(f"it asks for the password itself without TLS; {advice}")
        return password + b"\0"
