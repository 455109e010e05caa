"""Replies of a server, taken apart as they come.

A server puts 16 MiB of documents into one reply, which would be many times that as Python's objects. Of a reply
that is longer than a part, no more is read than is asked for, and each document is decoded by itself.
Formats: OP_MSG of https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/ and https://bsonspec.org.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import bson
from pymongo.errors import ProtocolError
from pymongo.helpers_shared import _check_command_response
from pymongo.message import _OpMsg
from pymongo.network_layer import PyMongoProtocol

from studio.contract.bounds import MAX_VALUES
from studio.providers.mongodb.errors import unknown
from studio.providers.mongodb.room import ARRAY, COUNTED, FIXED, OBJECT, REGEX, SIZE, Room, decoded, too_large
from studio.providers.mongodb.values import CODEC

MAX_MESSAGE = 17 * 1024 * 1024
"""Bytes of one reply. A server puts at most 16 MiB of documents into one."""
PART = 256 * 1024
"""Bytes that are read at once, and that documents have that are passed on at once."""
SLICE = 100
"""Documents passed on at once: what they become on their way out takes several times their size."""
MAX_HEAD = 4 * 1024 * 1024
"""Bytes of what a reply has besides its list."""
LISTS = frozenset({b"firstBatch", b"nextBatch", b"values", b"writeErrors"})
LONG = "long"
"""Where pymongo's answer has a `Long`."""
_MAX_NAME = 1024
_SMALL = 16 * 1024


class Wire(PyMongoProtocol):
    """pymongo's protocol, but a message longer than `PART` is read in parts."""

    left = 0
    """Bytes of the present message that nobody has asked for."""

    def process_header(self) -> tuple[int, int, int, bool]:
        """As in pymongo. Raises ProtocolError for a compressed message too: none was offered."""
        size, code, answers, packed = super().process_header()
        if packed:
            raise ProtocolError("compressed, which was not offered")
        part = min(size, PART)
        self.left = size - part
        return part, code, answers, False

    async def more(self) -> memoryview:
        """The next part of the present message. Raises as `read`."""
        size = min(self.left, PART)
        if not size:
            raise ProtocolError("the message ends too early")
        self.left -= size
        self._expecting_header, self._message_size = False, size
        self._message = memoryview(bytearray(size))
        data, _ = await self.read(None, MAX_MESSAGE)
        return memoryview(data)


class Whole:
    """A reply of one part, decoded at once."""

    def __init__(self, reply: Mapping[str, Any]) -> None:
        self._reply = reply

    async def slices(self, _room: Room) -> AsyncGenerator[list[Any], None]:
        """The items of its list, some at a time."""
        cursor = self._reply.get("cursor")
        found = cursor if isinstance(cursor, dict) else self._reply
        name = next((name for name in ("firstBatch", "nextBatch", "values") if name in found), "")
        items = found.get(name)
        if not isinstance(items, list):
            raise unknown()
        items.reverse()  # taken from the end, so that what was passed on is let go
        while items:
            yield [items.pop() for _ in range(min(SLICE, len(items)))]

    async def rest(self) -> Mapping[str, Any]:
        """What it has besides the list, and what its cursor has."""
        return {**self._reply, **self._reply.get("cursor", {})}


class Long:
    """A reply of several parts."""

    more_to_come = False

    def __init__(self, wire: Wire, data: memoryview) -> None:
        if len(data) < 9:
            raise ProtocolError("the message is too short")
        flags, kind, size = struct.unpack_from("<IBi", data)
        if flags or kind or size + 5 != len(data) + wire.left:
            raise ProtocolError("the message is not one document")
        self._wire, self._buffer, self._at = wire, bytearray(data), 9
        self._head = bytearray()
        self._open = 1  # documents that have begun and not ended: the reply, its cursor, the list
        self._listing = False
        self._past = self._end = 0  # bytes that the buffer had before, and of both where the list ends

    def unpack_response(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        """What pymongo is told of it: whether it is a refusal stands at its end."""
        return [{"ok": 1.0, LONG: self}]

    async def slices(self, room: Room) -> AsyncGenerator[list[Any], None]:
        """The items of its list, some at a time, until the room is `full`.

        Raises:
            ResultBlocked: one is larger than a document may be, or has more values than are decoded.
        """
        if not await self._list():
            raise unknown()
        items: list[Any] = []
        size = 0
        while True:
            size += self._at_hand(items)
            if len(items) >= SLICE or size >= PART:
                yield items
                items, size = [], 0  # what reads it has let it go by now
                continue
            if (kind := await self._next()) is None:
                break
            length = await self._length(kind)
            if length > room.document:
                raise too_large()
            raw = await self._item(kind, length)
            if len(raw) > MAX_VALUES and not room.fits(raw):
                room.full = True
                break
            items.append(decoded(raw) if kind == OBJECT else decoded(raw)[""])
            del raw
            size += length
        if items:
            yield items

    def _at_hand(self, items: list[Any]) -> int:
        """Take the next documents of the list that are here and small, up to a slice; how many bytes they have."""
        buffer, at, size = self._buffer, self._at, 0
        with memoryview(buffer) as view:
            while len(items) < SLICE and at < len(view) and view[at] == OBJECT:
                start = buffer.find(0, at, at + _MAX_NAME) + 1
                if not start or start + 4 > len(view):
                    break
                length = SIZE.unpack_from(view, start)[0]
                if not 5 <= length <= _SMALL or start + length > len(view):
                    break
                with view[start : start + length] as raw:
                    items.append(bson.decode(raw, CODEC))
                at = start + length
                size += length
        self._at = at
        return size

    async def rest(self) -> Mapping[str, Any]:
        """What it has besides the list, and what its cursor has. Of items that were not taken nothing is kept.

        Raises what pymongo raises for a refusal.
        """
        while self._open:
            if self._listing:
                await self._skip(self._end - self._past - self._at)
                self._listing = False
                self._open -= 1
            await self._list()
        if self._wire.left or len(self._buffer) != self._at:
            raise ProtocolError("the message goes on after its end")
        head = decoded(b"".join((SIZE.pack(len(self._head) + 5), self._head, b"\0")))
        _check_command_response(head, None)
        return head

    async def whole(self) -> Mapping[str, Any]:
        """`rest`, with the first of what failed in a write: the others are not looked at."""
        failed: list[Any] = []
        if await self._list():
            kind = await self._next()
            if kind is not None:
                length = await self._length(kind)
                failed = [decoded(await self._item(kind, length))] if length <= MAX_HEAD else []
        return {**await self.rest(), **({"writeErrors": failed} if failed else {})}

    async def _list(self) -> bool:
        """Go on to the list's first item, or to the end where there is no list any more. The rest is put aside."""
        while self._open and not self._listing:
            kind = await self._kind()
            if not kind:
                self._open -= 1
                continue
            name = await self._name()
            if (kind == ARRAY and name in LISTS) or (kind == OBJECT and name == b"cursor" and self._open == 1):
                length = await self._length(kind)
                self._end = self._past + self._at + length
                self._at += 4
                self._open += 1
                self._listing = kind == ARRAY
                continue
            length = await self._length(kind)
            if len(self._head) + length > MAX_HEAD:
                raise ProtocolError("the reply holds more than any command answers")
            self._head += b"%c%b\0" % (kind, name)
            self._head += await self._take(length)
        return self._listing

    async def _next(self) -> int | None:
        """The type of the list's next item; None, and on, where there is none."""
        if not self._listing:
            return None
        kind = await self._kind()
        if not kind:
            self._listing = False
            self._open -= 1
            return None
        await self._name()
        return kind

    async def _kind(self) -> int:
        await self._need(1)
        self._at += 1
        return self._buffer[self._at - 1]

    async def _name(self) -> bytes:
        end = await self._nul(0, _MAX_NAME)
        name = bytes(self._buffer[self._at : end])
        self._at = end + 1
        return name

    async def _nul(self, after: int, most: int) -> int:
        """Where the next byte of zero is, so many bytes on at least."""
        while (end := self._buffer.find(0, self._at + after)) < 0:
            here = len(self._buffer) - self._at
            if here > most:
                raise ProtocolError("a name is too long")
            await self._need(here + 1)
        return end

    async def _length(self, kind: int) -> int:
        """Bytes of the value that comes."""
        if (fixed := FIXED.get(kind)) is not None:
            return fixed
        if kind == REGEX:
            pattern = await self._nul(0, PART) - self._at
            return await self._nul(pattern + 1, PART) - self._at + 1
        if (beyond := COUNTED.get(kind)) is None:
            raise ProtocolError("a value is of no type that is known")
        await self._need(4)
        counted: int = SIZE.unpack_from(self._buffer, self._at)[0]
        if counted < 0:
            raise ProtocolError("a value is of no length")
        return counted + beyond

    async def _item(self, kind: int, length: int) -> bytes | bytearray:
        """The value that comes as a document: itself, or one that has it under an empty name."""
        raw = await self._take(length)
        return raw if kind == OBJECT else b"".join((SIZE.pack(length + 7), b"%c\0" % kind, raw, b"\0"))

    async def _need(self, count: int) -> None:
        """Have so many bytes at hand."""
        while len(self._buffer) - self._at < count:
            self._buffer, self._past, self._at = self._buffer[self._at :], self._past + self._at, 0
            self._buffer += await self._wire.more()

    async def _take(self, length: int) -> bytearray:
        if length > len(self._buffer) - self._at + self._wire.left:
            raise ProtocolError("a value is longer than its message")
        taken, got = bytearray(length), 0
        while True:
            more = min(length - got, len(self._buffer) - self._at)
            taken[got : got + more] = self._buffer[self._at : self._at + more]
            self._at += more
            got += more
            if got == length:
                return taken
            await self._need(1)

    async def _skip(self, length: int) -> None:
        if length < 0:
            raise ProtocolError("a list is longer than it says")
        while (here := len(self._buffer) - self._at) < length:
            length -= here
            self._at += here
            await self._need(1)
        self._at += length


def listed(reply: Mapping[str, Any]) -> Whole | Long:
    """A reply that is a list."""
    long = reply.get(LONG)
    return long if isinstance(long, Long) else Whole(reply)


def unpacked(wire: Wire, data: memoryview, code: int) -> _OpMsg | Long:
    """A message of the server's. Raises ProtocolError."""
    if code != _OpMsg.OP_CODE:
        raise ProtocolError("the message is of another kind")
    return Long(wire, data) if wire.left else _OpMsg.unpack(data)
