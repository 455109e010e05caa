"""Bombs in the documents of MongoDB: a rogue server says them, and the bounds are those of `served`."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bson
from tests.attack.served import LIMITS, MIB, Bounds, Served
from tests.upstreams.mongodb import Mongodb

FULL = 16 * MIB
FIND = '{"find": "things"}'
HELLO = bson.encode({"ok": 1.0, "isWritablePrimary": True, "minWireVersion": 9, "maxWireVersion": 25})
OK = b"\x01ok\0" + struct.pack("<d", 1)


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def named(kind: int, name: str, value: bytes) -> bytes:
    return bytes([kind]) + name.encode() + b"\0" + value


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


def wide(size: int) -> bytes:
    """A text of which Python keeps four bytes for each of its characters, for the sake of the last one."""
    return b"x" * (size - 4) + "🙂".encode()


def many(kind: int, value: bytes, count: int) -> bytes:
    """A document with a list of so many values, under the shortest key that there is."""
    return document(named(0x04, "l", document(named(kind, "", value) * count)))


def batch(items: bytes, name: str = "firstBatch", cursor: int = 0) -> bytes:
    """The answer to `find`, or to `getMore`."""
    found = [
        named(0x04, name, document(items)),
        named(0x12, "id", struct.pack("<q", cursor)),
        named(0x02, "ns", text(b"a.b")),
    ]
    return document(named(0x03, "cursor", document(*found)), OK)


def full(one: bytes) -> bytes:
    """As many of a document as a server puts into one batch."""
    item = named(0x03, "0", one)
    return batch(item * max(1, FULL // len(item)))


def nested(depth: int, kind: int = 0x03) -> bytes:
    """A document in a document, and so on."""
    inner = b"".join(struct.pack("<i", 5 + 8 * (depth - at)) + bytes([kind]) + b"a\0" for at in range(depth))
    return inner + document() + b"\0" * depth


SMALL = named(0x0A, "ab", b"")
OBJECT = document(SMALL)
DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "empty documents": lambda: full(document()),
    "documents of a small value": lambda: full(OBJECT),
    "documents of 100 bytes": lambda: full(document(named(0x02, "text", text(b"x" * 80)))),
    "documents of 200 values": lambda: full(document(*(named(0x10, f"field {n}", bytes(4)) for n in range(200)))),
    "documents of 16 KiB": lambda: full(document(named(0x02, "text", text(b"x" * 16_000)))),
    "documents of 1 MiB": lambda: full(document(named(0x02, "text", text(b"x" * MIB)))),
    "documents of as many bytes as are shown": lambda: full(document(named(0x02, "a", text(b"x" * (4 * MIB - 100))))),
    "documents of as many bytes as are read": lambda: full(document(named(0x02, "a", text(b"x" * (5 * MIB - 100))))),
    "a wide text in each": lambda: full(document(named(0x02, "a", text(wide(4 * MIB - 100))))),
    "a wide text beyond max_bytes": lambda: full(document(named(0x02, "a", text(wide(5 * MIB - 100))))),
    "wide texts": lambda: full(document(named(0x02, "a", text(wide(2 * MIB))))),
    "wide names": lambda: full(document(named(0x0A, wide(3 * MIB).decode(), b""))),
    "one document": lambda: full(document(named(0x02, "text", text(b"x" * (FULL - 100))))),
    "one document of bytes": lambda: full(document(named(0x05, "b", struct.pack("<iB", FULL, 0) + bytes(FULL)))),
    "bytes": lambda: full(document(named(0x05, "b", struct.pack("<iB", 3 * MIB, 0) + bytes(3 * MIB)))),
    "one document of small values": lambda: full(many(0x0A, b"", FULL // 2)),
    "one document of small objects": lambda: full(many(0x03, OBJECT, FULL // 13)),
    "as many small values as are read": lambda: full(many(0x0A, b"", 99_000)),
    "as many small objects as are read": lambda: full(many(0x03, OBJECT, 33_000)),
    "as many empty objects as are read": lambda: full(many(0x03, document(), 49_000)),
    "as many numbers as are read": lambda: full(many(0x01, b"\x9a\x99\x99\x99\x99\x99\xb9\x3f", 99_000)),
    "as many integers as are read": lambda: full(many(0x12, struct.pack("<q", 1 << 40), 99_000)),
    "as many texts as are read": lambda: full(many(0x02, text(b"xy"), 99_000)),
    "as many dates as are read": lambda: full(many(0x09, struct.pack("<q", 1 << 40), 49_000)),
    "as many decimals as are read": lambda: full(many(0x13, b"1" * 14 + b"\x40\x30", 24_900)),
    "as many ObjectIds as are read": lambda: full(many(0x07, b"123456789012", 99_000)),
    "as many UUIDs as are read": lambda: full(many(0x05, struct.pack("<iB", 16, 4) + b"1" * 16, 49_000)),
    "as many timestamps as are read": lambda: full(many(0x11, b"12345678", 99_000)),
    "as many expressions as are read": lambda: full(many(0x0B, b"a\0i\0", 99_000)),
    "as many references as are read": lambda: full(
        many(0x03, document(named(0x02, "$ref", text(b"a")), named(0x0A, "$id", b"")), 24_000)
    ),
    "as many members as are read": lambda: full(
        document(*(named(0x10, f"member {n}", struct.pack("<i", n)) for n in range(99_000)))
    ),
    "deep": lambda: full(nested(2_000_000)),
    "deep in few bytes": lambda: full(nested(14_000)),
    "as deep as MongoDB stores": lambda: full(nested(180)),
}  # fmt: skip


def errors(name: str) -> bytes:
    """What a server says of each document that it did not take."""
    one = document(named(0x10, "index", bytes(4)), named(0x10, "code", bytes(4)), named(0x02, "errmsg", text(b"no")))
    item = named(0x03, "0", one)
    return document(named(0x04, name, document(item * (FULL // len(item)))), OK)


QUERIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "values": ('{"distinct": "things", "key": "a"}', lambda: document(named(0x04, "values", document(named(0x10, "0", bytes(4)) * 1_800_000)), OK)),
    "values that are documents": ('{"distinct": "things", "key": "a"}', lambda: document(named(0x04, "values", document(named(0x03, "0", OBJECT) * 1_000_000)), OK)),
    "collections": ('{"listCollections": 1}', lambda: full(document(named(0x02, "name", text(b"x"))))),
    "a count with documents": ('{"count": "things"}', lambda: full(OBJECT)),
    "a count with more than it should": ('{"count": "things"}', lambda: document(named(0x03, "x", many(0x0A, b"", FULL // 2)), OK)),
    "errors of a write": ('{"insert": "things", "documents": [{"a": 1}]}', lambda: errors("writeErrors")),
    "more than a write answers": ('{"insert": "things", "documents": [{"a": 1}]}', lambda: errors("upserted")),
    "a long refusal": (FIND, lambda: document(named(0x01, "ok", bytes(8)), named(0x02, "errmsg", text(b"x" * FULL)))),
    "a long name": (FIND, lambda: document(named(0x0A, "x" * FULL, b""), OK)),
    "a value without a length": (FIND, lambda: batch(named(0x03, "0", struct.pack("<i", -1)) * (FULL // 7))),
    "a value longer than the message": (FIND, lambda: batch(named(0x03, "0", struct.pack("<i", 2_000_000_000)) * (FULL // 7))),
    "a value of no type": (FIND, lambda: batch(named(0x77, "0", bytes(FULL)))),
}  # fmt: skip
"""What else is asked, and what is answered."""


def message(reply: bytes, request: int) -> bytes:
    return struct.pack("<iiiiIB", len(reply) + 21, 1, request, 2013, 0, 0) + reply


def packed(request: int) -> bytes:
    """OP_COMPRESSED (2012), which nobody asked for."""
    body = zlib.compress(b"\0\0\0\0\0" + full(document())[: FULL - 10])
    return struct.pack("<iiiiiiB", len(body) + 25, 1, request, 2012, 2013, FULL, 2) + body


MESSAGES: dict[str, Callable[[int], bytes]] = {
    "a claim of 48 MB": lambda request: struct.pack("<iiii", 48_000_000, 1, request, 2013) + bytes(FULL),
    "a claim of 16 MiB and nothing": lambda request: struct.pack("<iiii", FULL, 1, request, 2013),
    "compressed": packed,
    "several sections": lambda request: struct.pack("<iiiiIB", FULL + 21, 1, request, 2013, 0, 1) + bytes(FULL),
    "more than one message": lambda request: message(batch(b""), request) + bytes(FULL),
    "of another kind": lambda request: struct.pack("<iiii", FULL, 1, request, 1) + bytes(FULL - 16),
}


def endless(items: bytes) -> Callable[[str], bytes]:
    """A cursor that never ends."""
    return lambda command: batch(items, "nextBatch" if command == "getMore" else "firstBatch", 7)


CURSORS: dict[str, Callable[[], Callable[[str], bytes]]] = {
    "of empty batches": lambda: endless(b""),
    "of small documents": lambda: endless(named(0x03, "0", OBJECT)),
    "of many values": lambda: endless(named(0x03, "0", many(0x03, OBJECT, 10_000))),
    "that grows": lambda: (
        lambda command: (
            batch(named(0x03, "0", document()) * (FULL // 8), "nextBatch")
            if command == "getMore"
            else batch(b"", cursor=7)
        )
    ),
}


class Rogue:
    """A server that answers every command but `hello` as `say` has it: a command's name and number to bytes."""

    def __init__(self) -> None:
        self.say: Callable[[str, int], bytes] = lambda _command, request: message(batch(b""), request)

    async def __aenter__(self) -> Rogue:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size, request = struct.unpack_from("<ii", head := await reader.readexactly(16))
                body = await reader.readexactly(size - len(head))
                name = body[10 : body.index(0, 10)].decode()
                writer.write(message(HELLO, request) if name in {"hello", "ismaster"} else self.say(name, request))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def config(rogue: Rogue, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": rogue.port, "database": "app", "read_only": False, **LIMITS, **more}


def bombs() -> Iterator[tuple[str, str, Callable[[str, int], bytes]]]:
    """Name, query, and the answers, one after the other: each has 16 MiB."""
    for name, make in DOCUMENTS.items():
        reply = make()
        yield name, FIND, lambda _, request, reply=reply: message(reply, request)
    for name, (query, make) in QUERIES.items():
        reply = make()
        yield name, query, lambda _, request, reply=reply: message(reply, request)
    for name, say in MESSAGES.items():
        yield name, FIND, lambda _, request, say=say: say(request)
    for name, turns in CURSORS.items():
        say = turns()
        yield f"a cursor {name}", FIND, lambda command, request, say=say: message(say(command), request)


async def test_no_reply_of_mongodb_takes_more(served: Served) -> None:
    bounds = Bounds("mongodb")
    async with Rogue() as rogue:
        warm = await served.create("mongodb", config(rogue, timeout_s=20.0))
        rogue.say = lambda _, request: message(full(document(named(0x02, "a", text(b"x" * 1000)))), request)
        await served.warm(partial(served.query, warm, FIND))
        made = await served.create("mongodb", config(rogue))
        await served.warm(partial(served.query, made, FIND))
        for name, query, say in bombs():
            rogue.say = say
            await bounds.hold(name, partial(served.query, made, query))
    assert not bounds.broken


STORED: dict[str, list[dict[str, Any]]] = {
    "small": [{"n": n} for n in range(5000)],
    "large": [{"text": "x" * 500_000}] * 30,
    "wide": [{f"field {n}": n for n in range(500)}] * 300,
    "lists": [{"list": [{}] * 20_000}] * 10,
}


async def test_no_document_of_a_server_takes_more(
    served: Served, mongodb_server: Mongodb, mongodb_database: str
) -> None:
    """A server that is honest: what it holds is what is too much."""
    bounds, client = Bounds("mongodb, stored"), mongodb_server.client()
    for name, documents in STORED.items():
        await client[mongodb_database][name].insert_many([dict(one) for one in documents])
    await client.close()
    given = mongodb_server.config(database=mongodb_database, timeout_s=20.0)
    warm = await served.create("mongodb", given)
    await served.warm(partial(served.query, warm, '{"find": "small", "limit": 10}'))
    made = await served.create("mongodb", {**given, **LIMITS})
    await served.warm(partial(served.query, made, '{"find": "small", "limit": 10}'))
    for name in STORED:
        for query in ({"find": name}, {"aggregate": name, "pipeline": [{"$match": {}}]}):
            await bounds.hold(f"{next(iter(query))} {name}", partial(served.query, made, json.dumps(query)))
    assert not bounds.broken


VALUES: dict[str, Any] = {
    "small objects": [{}] * 19_000,
    "objects of a value": [{"ab": None}] * 13_000,
    "numbers": [12345678901] * 39_000,
    "texts": ["xy"] * 39_000,
    "members": {f"m{n}": n for n in range(39_000)},
    "one text": "x" * 900_000,
    "dates": [{"$date": "2026-11-23T10:00:00Z"}] * 13_000,
    "decimals": [{"$numberDecimal": "1.5"}] * 13_000,
    "deep": json.loads("[" * 90 + "]" * 90),
}
REQUESTS = {
    "a condition": '{"find": "things", "filter": {"a": {"$in": [{"$param": "p"}]}}}',
    "an expression": '{"aggregate": "things", "pipeline": [{"$project": {"a": {"$param": "p"}}}]}',
    "documents": '{"insert": "things", "documents": {"$param": "p"}}',
    "a document": '{"insert": "things", "documents": [{"a": {"$param": "p"}}]}',
    "many times": '{"find": "things", "filter": {"a": {"$in": [' + ", ".join(['{"$param": "p"}'] * 5000) + "]}}}",
}


async def test_no_value_that_is_bound_takes_more(served: Served) -> None:
    bounds = Bounds("mongodb, bound")
    async with Rogue() as rogue:
        made = await served.create("mongodb", config(rogue))
        await served.warm(*(partial(served.query, made, query, {"p": [{"a": 1}]}) for query in REQUESTS.values()))
        for name, value in VALUES.items():
            for place, query in REQUESTS.items():
                given = value if place != "documents" or isinstance(value, list) else [value]
                await bounds.hold(f"{place}, {name}", partial(served.query, made, query, {"p": given}))
        for name, value in VALUES.items():
            find = partial(served.operate, made, "find", collection="things", filter={"a": {"$in": [value]}})
            await bounds.hold(f"an argument, {name}", find)
            insert = partial(served.operate, made, "insert", collection="things", documents=[{"a": value}])
            await bounds.hold(f"documents as an argument, {name}", insert)
    assert not bounds.broken
