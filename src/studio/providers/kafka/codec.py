"""Unpacking of record batches, to a bounded size.

aiokafka unpacks a compressed batch as a whole, whatever comes out of it: 1 MiB of gzip can hold 1 GiB,
and whoever may write to a topic decides. Its record modules look the decoders up by name, so these
take their places, for the whole process. Nothing else of the driver is replaced.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

from aiokafka.errors import KafkaError
from aiokafka.record.memory_records import MemoryRecords as _MemoryRecords

Buffer = bytes | bytearray
LIMIT = 8 << 20
"""Bytes of one unpacked batch. Producers pack 16 KiB to 1 MiB unless told otherwise (batch.size)."""
_START = 1 << 16
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEAD = 16


class Unpackable(KafkaError):  # type: ignore[misc]
    """A batch that is damaged, unpacks to more than LIMIT, or has a record of too many headers."""


MOST_HEADERS = 10_000
"""Of one record: a header may take 2 bytes in a batch, and takes 200 as an object."""
_LEAST = 2 * MOST_HEADERS
MOST_MEMBERS = 100
"""Of gzip in one batch, which has one: what follows a member is copied for the next."""
_STEP = 1 << 18
_HEAD = 61
"""Bytes of a batch before its records (Kafka's protocol guide, "Record Batch")."""


def weight(record: Any) -> int:
    """About how many bytes a record takes."""
    size = len(record.key or b"") + len(record.value or b"")
    if record.headers:
        size += sum(200 + len(name) + len(value or b"") for name, value in record.headers)
    return size


def judged(records: Buffer) -> Buffer:
    """Records of a batch, none of which has more than MOST_HEADERS. Raises Unpackable."""
    if len(records) < _LEAST:
        return records
    at = 0
    try:
        while at < len(records):
            size, body = _varint(records, at)
            if size < 0:
                raise Unpackable
            if size >= _LEAST and _headers(records, body) > MOST_HEADERS:
                raise Unpackable
            at = body + size
    except IndexError:
        raise Unpackable from None
    return records


def _headers(records: Buffer, at: int) -> int:
    at += 1  # attributes
    for _ in ("timestamp", "offset"):
        _, at = _varint(records, at)
    for _ in ("key", "value"):
        size, at = _varint(records, at)
        at += max(0, size)
    return _varint(records, at)[0]


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    """A zigzag number and where it ends."""
    byte = data[at]
    if byte < 128:
        return (byte >> 1) ^ -(byte & 1), at + 1
    found = shift = 0
    while True:
        byte = data[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return (found >> 1) ^ -(found & 1), at
        shift += 7
        if shift > 63:
            raise Unpackable


class Records(_MemoryRecords):  # type: ignore[misc]
    """aiokafka's records of one answer, each batch of which is judged before it is decoded.

    `began` is where the batch stands that was given last.
    """

    unpacked: ClassVar[int] = 0
    """Bytes that were unpacked last, by whichever: the driver tells its decoders nothing of whom they work for."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._raw, self._at, self.began = raw, 0, 0

    def next_batch(self) -> Any:
        """As in aiokafka. Raises Unpackable."""
        self.began = start = self._at
        self._at += 12 + int.from_bytes(self._raw[start + 8 : start + 12], "big", signed=True)
        plain = self._raw[start + 16 : start + 17] == b"\2" and not self._raw[start + 22] & 7
        if plain:
            judged(self._raw[start + _HEAD : self._at])
        return super().next_batch()


def gzip_decode(payload: Any) -> bytearray:
    """One or more gzip members. Raises Unpackable."""
    left, out = bytes(payload), bytearray()
    try:
        for _ in range(MOST_MEMBERS + 1):  # the last round sees that nothing is left
            if not left:
                return out
            member = zlib.decompressobj(wbits=31)
            part = b"more"
            while not member.eof and len(out) <= LIMIT and (part or left):
                part = member.decompress(left, _STEP)  # in steps: zlib has what it gives in memory twice
                out += part
                left = member.unused_data if member.eof else member.unconsumed_tail
            if len(out) > LIMIT or not member.eof:
                break
    except zlib.error:
        pass
    out.clear()  # an error keeps what stands here for as long as somebody keeps the error
    raise Unpackable


def snappy_decode(payload: Any) -> bytes:
    """Plain snappy, or the framing that Java's library writes. Each block says its size first. Raises Unpackable."""
    import cramjam

    raw = bytes(payload)
    blocks = _xerial(raw) if raw.startswith(_XERIAL) else [raw]
    try:
        if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > LIMIT:
            raise Unpackable
        return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)
    except cramjam.DecompressionError:
        raise Unpackable from None


def _xerial(raw: bytes) -> list[bytes]:
    blocks, at = [], _XERIAL_HEAD
    while at + 4 <= len(raw):
        (size,) = struct.unpack_from("!i", raw, at)
        if size < 0:
            raise Unpackable
        blocks.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return blocks


def lz4_decode(payload: Any) -> bytearray:
    """An LZ4 frame. Raises Unpackable."""
    import cramjam

    return _into(cramjam.lz4.decompress_into, bytes(payload))


def zstd_decode(payload: Any) -> bytearray:
    """A Zstandard frame. Raises Unpackable."""
    import cramjam

    return _into(cramjam.zstd.decompress_into, bytes(payload))


def _into(unpack: Callable[[bytes, bytearray], int], raw: bytes) -> bytearray:
    """Unpack into a buffer, and into a larger one where it does not fit: making 8 MiB each time would cost 5 ms."""
    import cramjam

    size = max(_START, 16 * len(raw))
    while True:
        size = min(size, LIMIT)
        buffer = bytearray(size)
        try:
            del buffer[unpack(raw, buffer) :]
            return buffer
        except cramjam.DecompressionError:
            if size == LIMIT:
                raise Unpackable from None
        size, buffer = size * 8, bytearray()  # the old one goes before the new one is made


def install() -> None:
    """Put the decoders into aiokafka's record modules (compiled and plain)."""
    from aiokafka.record import default_records, legacy_records

    modules = {default_records, legacy_records}
    try:
        from aiokafka.record import _crecords

        modules |= {_crecords.default_records, _crecords.legacy_records}
    except ImportError:  # a platform without the compiled ones
        pass
    for module in modules:
        for decode in (gzip_decode, snappy_decode, lz4_decode, zstd_decode):
            if hasattr(module, decode.__name__):
                legacy = module.__name__.endswith("legacy_records")  # which know no headers
                setattr(module, decode.__name__, decode if legacy else _then_judged(decode))


def _then_judged(decode: Callable[[Any], Buffer]) -> Callable[[Any], Buffer]:
    def decoded(payload: Any) -> Buffer:
        found = judged(decode(payload))
        Records.unpacked = len(found)
        return found

    return decoded
