"""The process that decodes one Parquet object: a hostile file may crash it or use up its memory, and nothing else.

It gets an empty environment and no file but one socket, on fd 0, over which it asks its parent for
ranges of the object. Frames are a 4-byte big-endian length and a body: JSON, and raw bytes for the
ranges. Apart from pyarrow it imports the standard library and `studio.contract.values` only.
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from studio.contract.values import canonical

BLOCK = 128 * 1024
_BLOCKS = 128
"""Blocks that are kept: 16 MiB, enough for one of each of very many columns."""
_MAX_FOOTER = 16 * 1024 * 1024
_MEMORY = 768 * 1024 * 1024
"""Beyond what the process has when pyarrow is loaded."""
_FRAME = 256 * 1024


class Unreadable(Exception):
    """What is wrong, in words that may be shown."""


def receive() -> bytes:
    """One frame; the end of the parent is ours."""
    size = int.from_bytes(_exactly(4), "big")
    return _exactly(size)


def _exactly(size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = os.read(0, size - len(found))
        if not part:
            os._exit(0)
        found += part
    return bytes(found)


def send(message: dict[str, Any]) -> None:
    """One frame of JSON."""
    body = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
    view = memoryview(len(body).to_bytes(4, "big") + body)
    while view:
        view = view[os.write(0, view) :]


class RangeFile(io.RawIOBase):
    """The object as a file to seek in."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io`."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """See `io`."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end - self._at > _MEMORY // 4:
            raise Unreadable("a page of the Parquet file is too large to be read here")
        parts = [self._block(number) for number in range(self._at // BLOCK, -(-end // BLOCK))]
        start = self._at % BLOCK
        found = b"".join(parts)[start : start + max(0, end - self._at)]
        self._at = max(self._at, end)
        return found

    def _block(self, number: int) -> bytes:
        if number not in self._kept:
            send({"fetch": [number * BLOCK, min(BLOCK, self._size - number * BLOCK)]})
            self._kept[number] = receive()
            while len(self._kept) > _BLOCKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


def confine() -> None:
    """Give up what decoding does not need."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.closerange(3, 65_536)
    os.chdir("/")
    with open("/proc/self/statm") as sizes:
        now = int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))


def opened(size: int, columns: list[str] | None, rows: int) -> tuple[list[dict[str, str]], Iterator[Any]]:
    """The columns, and the batches."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    pa.set_cpu_count(1)
    confine()
    file = RangeFile(size)
    file.seek(-8, io.SEEK_END)
    if int.from_bytes(file.read(4), "little") > _MAX_FOOTER:
        raise Unreadable("the Parquet file's footer is too large to be read here")
    file.seek(0)
    # Without pre_buffer and with a buffer, pages come as they are needed, not whole column chunks.
    reader = pq.ParquetFile(file, pre_buffer=False, buffer_size=BLOCK, memory_map=False)
    schema = reader.schema_arrow
    wanted = list(schema.names) if columns is None else columns
    for name in wanted:
        if schema.names.count(name) != 1:
            known = ", ".join(schema.names[:50])[:900]
            raise Unreadable(f"columns: must each be there once; the file has: {known}")
    found = [{"name": name, "type": str(schema.field(name).type)[:200]} for name in wanted]
    return found, (
        [_values(batch.column(name)) for name in wanted]
        for batch in reader.iter_batches(batch_size=rows, columns=wanted, use_threads=False)
    )


def _values(column: Any) -> list[Any]:
    """Canonical values. Times finer than microseconds, which Python has not, become text that keeps every digit."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        texts = column.cast(pa.string()).to_pylist()
        return [text and text.replace(" ", "T", 1) for text in texts]
    try:
        values = column.to_pylist()
    except ValueError:
        values = column.cast(pa.string()).to_pylist()
    return [canonical(value) for value in values]


def serve(batches: Iterator[Any], limit: int) -> None:
    """Send rows, one frame for each that asks for more; nothing is decoded before it is asked for."""
    held: list[Any] = []
    size = 0
    receive()
    for columns in batches:
        for row in zip(*columns, strict=True):
            length = len(json.dumps(row, ensure_ascii=False))
            if length > limit:
                raise Unreadable("one row of the object is larger than max_bytes of this connector; name fewer columns")
            held.append(row)
            size += length
            if size > _FRAME:
                send({"rows": held})
                held, size = [], 0
                receive()
        if held:
            send({"rows": held})
            held, size = [], 0
            receive()
    send({"end": True})


def main() -> None:
    """Serve one object."""
    settings = json.loads(receive())
    try:
        columns, batches = opened(settings["size"], settings["columns"], settings["rows"])
        send({"columns": columns})
        serve(batches, settings["limit"])
    except Unreadable as exc:
        send({"error": str(exc)})
    except MemoryError:
        send({"error": "the Parquet file needs more memory than there is for it here; name fewer columns"})
    except Exception as exc:
        send({"error": f"the object is not a Parquet file that can be read here ({type(exc).__name__})"})
