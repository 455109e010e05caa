"""Unpacking of record batches, to a bounded size.

aiokafka unpacks a compressed batch as a whole, whatever comes out of it: 1 MiB of gzip can hold 1 GiB,
and whoever may write to a topic decides. Its record modules look the decoders up by name, so these
take their places, for the whole process. Nothing else of the driver is replaced.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

from aiokafka.errors import KafkaError

LIMIT = 8 << 20
"""Bytes of one unpacked batch. Producers pack 16 KiB to 1 MiB unless told otherwise (batch.size)."""
_START = 1 << 16
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEAD = 16


class Unpackable(KafkaError):  # type: ignore[misc]
    """A batch that is damaged, or unpacks to more than LIMIT."""


def gzip_decode(payload: Any) -> bytes:
    """One or more gzip members. Raises Unpackable."""
    left, out = bytes(payload), b""
    try:
        while left:
            member = zlib.decompressobj(wbits=31)
            out += member.decompress(left, LIMIT - len(out) + 1)
            if len(out) > LIMIT or not member.eof:
                raise Unpackable
            left = member.unused_data
    except zlib.error:
        raise Unpackable from None
    return out


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


def lz4_decode(payload: Any) -> bytes:
    """An LZ4 frame. Raises Unpackable."""
    import cramjam

    return _into(cramjam.lz4.decompress_into, bytes(payload))


def zstd_decode(payload: Any) -> bytes:
    """A Zstandard frame. Raises Unpackable."""
    import cramjam

    return _into(cramjam.zstd.decompress_into, bytes(payload))


def _into(unpack: Callable[[bytes, bytearray], int], raw: bytes) -> bytes:
    """Unpack into a buffer, and into a larger one where it does not fit: making 8 MiB each time would cost 5 ms."""
    import cramjam

    size = max(_START, 16 * len(raw))
    while True:
        size = min(size, LIMIT)
        buffer = bytearray(size)
        try:
            return bytes(memoryview(buffer)[: unpack(raw, buffer)])
        except cramjam.DecompressionError:
            if size == LIMIT:
                raise Unpackable from None
        size *= 8


def install() -> None:
    """Put the decoders into aiokafka's record modules, the compiled ones and the plain ones."""
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
                setattr(module, decode.__name__, decode)
