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
_BLOCKS = 12
"""Blocks that are kept, for what is read twice."""
_MAX_FOOTER = 4 * 1024 * 1024
"""Decoded, it takes several times as much."""
_MEMORY = 27 * 1024 * 1024
"""Beyond what the process has when pyarrow is loaded."""
_FRAME = 256 * 1024
_WINDOW = 4 * 1024 * 1024
"""Bytes of the rows that are decoded at a time, by what the file says of itself."""
_PART, _PART_VALUES = 1024 * 1024, 32_768
"""Bytes and values of the rows that are made Python's at a time."""
_BUFFER = 32 * 1024
_PAGES = 2 * 1024 * 1024
"""A page and a dictionary, of the usual sizes."""
_OPEN = 12 * 1024 * 1024
"""What columns may take that stay open, by these."""
_NO_MEMORY = (
    "the Parquet file needs more memory than there is for it here; name fewer columns, or write it with smaller pages"
)


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
        now = int(sizes.read().split()[5]) * resource.getpagesize()  # data and stack, as the limit counts
    resource.setrlimit(resource.RLIMIT_DATA, (now + _MEMORY, now + _MEMORY))


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
    reader = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER, memory_map=False)
    schema = reader.schema_arrow
    wanted = list(schema.names) if columns is None else columns
    for name in wanted:
        if schema.names.count(name) != 1:
            known = ", ".join(schema.names[:50])[:900]
            raise Unreadable(f"columns: must each be there once; the file has: {known}")
    found = [{"name": name, "type": str(schema.field(name).type)[:200]} for name in wanted]
    return found, _windows(reader, wanted, rows)


def _windows(reader: Any, names: list[str], rows: int) -> Iterator[list[list[Any]]]:
    """The rows: windows of which one column is decoded after the other, as Arrow has them, and their parts as values.

    Where a window is more than there is memory for, after all, a smaller one is tried.
    """
    for number in range(reader.metadata.num_row_groups if names else 0):
        group, at = reader.metadata.row_group(number), 0
        columns = _Columns(reader, number, names)
        step = max(1, min(rows, columns.window * group.num_rows // max(1, group.total_byte_size)))
        while at < group.num_rows:
            try:
                window = [columns.read(name, at, step) for name in names]
                if not len(window[0]):
                    break
                for part in _parts(window):
                    yield part
                    at += len(part[0])
            except MemoryError:
                if step == 1:
                    raise
                columns.close()
                step = max(1, step >> 2)


def _parts(window: list[Any]) -> Iterator[list[list[Any]]]:
    length = len(window[0])
    size = sum(column.nbytes for column in window)
    count = max(1, min(_PART * length // max(1, size), _PART_VALUES // len(window)))
    for start in range(0, length, count):
        yield [_values(column.slice(start, count)) for column in window]


class _Columns:
    """Columns of one row group. They stay open between windows where there is room, as each holds a page in memory.

    Where there is none, a column is decoded anew from the group's start for each window.
    """

    def __init__(self, reader: Any, group: int, names: list[str]) -> None:
        self._reader, self._group = reader, group
        self._open: dict[str, tuple[Iterator[Any], int]] = {}
        size = reader.metadata.row_group(group).total_byte_size
        self._stay = min(size, len(names) * _PAGES) + len(names) * _BUFFER <= _OPEN
        self.window = _WINDOW // 2 if self._stay else _WINDOW

    def read(self, name: str, start: int, count: int) -> Any:
        """The column's values in rows `start` to `start + count`, as Arrow has them."""
        import pyarrow as pa

        batches, seen = self._open.pop(name, (None, 0))
        if batches is None:
            batches = self._reader.iter_batches(
                batch_size=count, row_groups=[self._group], columns=[name], use_threads=False
            )
        found: list[Any] = []
        for batch in batches:
            before, seen = seen, seen + len(batch)
            if seen > start:
                found.append(batch.column(0)[max(0, start - before) : start + count - before])
            if seen >= start + count:
                break
        if self._stay and seen == start + count:
            self._open[name] = batches, seen
        return pa.chunked_array(found) if found else ()

    def close(self) -> None:
        """Give the memory back; no column stays open any more."""
        self._open.clear()
        self._stay = False


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
        send({"error": _NO_MEMORY})
    except Exception as exc:
        send({"error": f"the object is not a Parquet file that can be read here ({type(exc).__name__})"})
