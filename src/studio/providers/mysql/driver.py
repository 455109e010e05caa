"""asyncmy's connection with a reader of ours. Imported when the first connection is made.

Of asyncmy remain the transport, the packets and the row parser, all of it compiled. Ours are the
log-in (`login.py`) and prepared statements whose rows are read in parts instead of all at
once, within bounds: 64 KiB a packet that is no row, 16 MiB a row.
Protocol: https://mariadb.com/kb/en/clientserver-protocol/
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from asyncmy.errors import OperationalError
from asyncmy.protocol import pack_binary_params, parse_binary_rows_from_buffer

from studio.providers.mysql.errors import GARBAGE, Garbled
from studio.providers.mysql.login import CACHE_METADATA, EXTENDED_METADATA, MAX_ROW, MAX_SMALL, Login
from studio.providers.mysql.values import MAX_COLUMNS, Plan

COM_QUERY, COM_PREPARE, COM_EXECUTE, COM_CLOSE, COM_RESET = 0x03, 0x16, 0x17, 0x19, 0x1F
MORE_RESULTS = 8
MUCH = 1 << 20
"""Bytes of a buffer that was read from which on it is let go."""

Method = TypeVar("Method", bound=Callable[..., Any])


def _protocol(method: Method) -> Method:
    """Whatever a parser raises on bytes that are no packet is one exception outside."""

    @wraps(method)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **kwargs)
        except GARBAGE as exc:
            raise Garbled("the server sent what is not MySQL's protocol") from exc

    return wrapped  # type: ignore[return-value]


class Connection(Login):
    """One session's conversation with the server."""

    max_row = MAX_ROW
    """Bytes of one row that are read."""

    @_protocol
    async def run(self, sql: str) -> None:
        """One constant statement of ours that returns no rows."""
        await self._send(COM_QUERY, sql.encode())
        self._done(await self._small())

    @_protocol
    async def reset(self) -> None:
        """Give the session the state of a new one; its prepared statements are gone."""
        await self._send(COM_RESET, b"")
        self._done(await self._small())

    @_protocol
    async def prepare_plan(self, sql: str) -> Plan:
        """Let the server parse one statement with `?` marks. It takes no second one, whatever the text."""
        await self._send(COM_PREPARE, sql.encode())
        head = await self._small()
        if head[:1] != b"\0" or len(head) < 9:
            raise Garbled("the server answered something else than it was asked")
        number, columns, marks = struct.unpack_from("<IHH", head, 1)
        await self._definitions(marks)
        plan = Plan(
            number, marks, await self._definitions(columns),
            extended=bool(self._extensions & EXTENDED_METADATA),
        )  # fmt: skip
        self.busy = False
        return plan

    async def close_plan(self, plan: Plan) -> None:
        """Let the server forget a statement. It does not answer."""
        await self._execute_command(COM_CLOSE, struct.pack("<I", plan.number))

    @_protocol
    async def start(self, plan: Plan, values: tuple[Any, ...]) -> bool:
        """Execute with bound values; whether rows follow."""
        bound = pack_binary_params(values, "utf8") if values else b""
        await self._send(COM_EXECUTE, struct.pack("<IBI", plan.number, 0, 1) + bound)
        return await self.result(plan)

    @_protocol
    async def result(self, plan: Plan) -> bool:
        """Read the head of a result; whether rows follow."""
        head = await self._small()
        if head[:1] == b"\0":
            self._done(head)
            return False
        if head[:1] == b"\xfb":
            raise Garbled("the server asked for a file of this machine")
        columns, at = (head[0], 1) if head[0] < 251 else (int.from_bytes(head[1:3], "little"), 3)
        if columns > MAX_COLUMNS or head[0] > 252:
            raise Garbled("the server sent more columns than MySQL has")
        if not self._extensions & CACHE_METADATA or head[at]:
            plan.describe(await self._definitions(columns))
        elif columns != len(plan.columns):
            raise Garbled("the server sent rows of unknown columns")
        elif not self._deprecate_eof:
            await self.read_packet()
        return True

    @_protocol
    async def rows(self, plan: Plan) -> tuple[Sequence[tuple[Any, ...]], bool]:
        """The rows that have come by now, at least one unless it is over; and whether it is."""
        rows: list[tuple[Any, ...]] = []
        proto = self._proto
        self.limit = self.max_row
        while True:
            self._parse(plan, rows)
            if rows and not self._buffered():
                return plan.rows(rows), False
            # What the parser stopped at: the end, an error, or a row that has not come wholly yet.
            size = await self._peek()
            if size and proto.buffer[proto.pos + 3] == self._next_seq_id and proto.buffer[proto.pos + 4] == 0:
                continue
            data = (await self.read_packet()).get_all_data()
            if data[:1] != b"\xfe":
                raise Garbled("the server sent something else than a row")
            self._done(data)
            return plan.rows(rows), True

    def _parse(self, plan: Plan, rows: list[tuple[Any, ...]]) -> None:
        """Parse the whole rows in the buffer.

        asyncmy's parser reads numbers of 1 to 4 bytes without a look at where the row ends, so that a
        server could make it show this process's memory; in a copy with padding there is none to see.
        """
        proto, start = self._proto, self._proto.pos
        buffer, at, end = proto.buffer, start, proto.length
        if plan.padding:
            buffer = buffer[start:end] + bytes(plan.padding)
            at, end = 0, end - start
        after, self._next_seq_id = parse_binary_rows_from_buffer(
            buffer, at, end, plan.specs, self._next_seq_id, rows, self._deprecate_eof
        )
        proto.pos = start + after - at
        if proto.pos > MUCH:  # what was read is not kept beside the rows
            rest = proto.buffer[proto.pos : proto.length]
            proto.buffer, proto.pos, proto.length = rest + bytes(MUCH), 0, len(rest)

    def _buffered(self) -> bool:
        """Whether a whole packet waits to be read."""
        proto = self._proto
        left = proto.length - proto.pos - 4
        return bool(left >= 0 and left >= int.from_bytes(proto.buffer[proto.pos : proto.pos + 3], "little"))

    async def _send(self, command: int, payload: bytes) -> None:
        if self._proto is not None and self._proto.length != self._proto.pos:
            # Unasked: a last word before it closed an idle session, or the answers are out of step.
            self.close()
            raise OperationalError(2013, "the server spoke out of turn")
        await self._execute_command(command, payload)
        self.busy = True

    async def _small(self) -> bytes:
        """A packet that is not a row."""
        self.limit = MAX_SMALL
        return (await self.read_packet()).get_all_data()  # type: ignore[no-any-return]

    def _done(self, data: bytes) -> None:
        """The end of a result: an OK packet, or the older end-of-file packet."""
        if data[:1] not in {b"\0", b"\xfe"}:
            raise Garbled("the server answered something else than it was asked")
        if data[0] == 0xFE and not self._deprecate_eof:
            self.server_status = int.from_bytes(data[3:5], "little")
        else:
            self.affected, at = _number(data, 1)
            self.inserted, at = _number(data, at)
            self.server_status = int.from_bytes(data[at : at + 2], "little")
        self.busy = bool(self.server_status & MORE_RESULTS)

    async def _definitions(self, count: int) -> Sequence[bytes]:
        packets = [await self._small() for _ in range(count)]
        if count and not self._deprecate_eof:
            await self._small()
        return packets


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer, and where the next one begins."""
    first = data[at]
    if first < 251:
        return first, at + 1
    width = {252: 2, 253: 3, 254: 8}[first]
    return int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width
