"""Parquet objects as rows, by range reads: the footer, then only the pages that the rows need.

pyarrow reads files in its own blocking way, so it runs in a thread of this one call, and its reads
come back to the event loop as range requests for the very object that was opened (by its ETag).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from studio.contract import Batch, Column, canonical
from studio.contract.sql import unique_names
from studio.errors import InvalidRequest, OperationNotSupported
from studio.providers._objects_parts import exactly

if TYPE_CHECKING:
    from studio.providers._objects_rows import Source

_BLOCK = 128 * 1024
_BLOCKS = 128
"""Blocks that are kept: 16 MiB, enough for one of each of very many columns."""
_MAX_FOOTER = 16 * 1024 * 1024
_MAX_READ = 256 * 1024 * 1024
_BATCH_ROWS = 256


async def parquet(source: Source, columns: Sequence[str] | None) -> AsyncGenerator[Batch, None]:
    """The object's rows.

    Raises:
        InvalidRequest: it is not Parquet, or has not all of the `columns`.
        OperationNotSupported: pyarrow is not installed.
    """
    async with source.open(0, 4) as content:
        magic = b"".join([chunk async for chunk in exactly(content)])
        entry = content.entry
    if magic != b"PAR1" or entry.size < 12:
        raise InvalidRequest("the object is not a Parquet file")
    file = _RangeFile(source, entry.size, entry.etag)
    executor = ThreadPoolExecutor(1, thread_name_prefix="studio-parquet")
    step = asyncio.get_running_loop().run_in_executor
    rows = min(source.config.max_rows + 1, _BATCH_ROWS)
    try:
        reader = await step(executor, _guarded, file, lambda: _Reader(file, columns, rows))
        yield Batch(reader.columns, [])
        while True:
            batch = await step(executor, _guarded, file, reader.next)
            if batch is None:
                return
            yield Batch(reader.columns, batch)
    finally:
        file.stop()
        executor.shutdown(wait=False)


def _guarded(file: _RangeFile, work: Callable[[], Any]) -> Any:
    """Run a step; what failed below pyarrow is told as it was."""
    try:
        return work()
    except (InvalidRequest, OperationNotSupported):
        raise
    except Exception as exc:
        if file.failure is not None:
            raise file.failure from exc
        raise InvalidRequest(f"the object is not a Parquet file that can be read here ({type(exc).__name__})") from exc


class _RangeFile(io.RawIOBase):
    """The object as a file that pyarrow can seek in. Used from the call's own thread."""

    def __init__(self, source: Source, size: int, etag: str | None) -> None:
        self._source = source
        self._size = size
        self._etag = etag
        self._at = 0
        self._loop = asyncio.get_running_loop()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._pending: concurrent.futures.Future[bytes] | None = None
        self._stopped = False
        self.failure: Exception | None = None

    def stop(self) -> None:
        """Let nothing more be fetched."""
        self._stopped = True
        if self._pending is not None:
            self._pending.cancel()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end - self._at > _MAX_READ:
            self.failure = InvalidRequest("a page of the Parquet file is too large to be read here")
            raise self.failure
        parts = [self._block(number) for number in range(self._at // _BLOCK, -(-end // _BLOCK))]
        start = self._at % _BLOCK
        found = b"".join(parts)[start : start + end - self._at]
        self._at = max(self._at, end)
        return found

    def _block(self, number: int) -> bytes:
        if number not in self._kept:
            if self._stopped:
                raise OSError("the operation has ended")
            self._pending = asyncio.run_coroutine_threadsafe(self._fetch(number * _BLOCK), self._loop)
            try:
                self._kept[number] = self._pending.result()
            except Exception as exc:
                self.failure = exc
                raise
            while len(self._kept) > _BLOCKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    async def _fetch(self, offset: int) -> bytes:
        length = min(_BLOCK, self._size - offset)
        async with self._source.open(offset, length, self._etag) as content:
            return b"".join([chunk async for chunk in exactly(content)])


class _Reader:
    """pyarrow's reader, one batch at a time. Runs in the call's thread."""

    def __init__(self, file: _RangeFile, columns: Sequence[str] | None, rows: int) -> None:
        try:
            import pyarrow.parquet as pq  # type: ignore[import-untyped]
        except ImportError:
            raise OperationNotSupported(
                "Parquet needs pyarrow; have the service installed with the extra studio-connectors[parquet]"
            ) from None
        file.seek(-8, io.SEEK_END)
        if int.from_bytes(file.read(4), "little") > _MAX_FOOTER:
            raise InvalidRequest("the Parquet file's footer is too large to be read here")
        file.seek(0)
        # Without pre_buffer and with a buffer, pages come as they are needed, not whole column chunks.
        self._file = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BLOCK, memory_map=False)
        schema = self._file.schema_arrow
        wanted = list(columns) if columns is not None else schema.names
        found: list[Column] = [{"name": name, "type": str(schema.field(name).type)} for name in _known(schema, wanted)]
        names = unique_names(wanted)
        self.columns: list[Column] = [{**column, "name": name} for column, name in zip(found, names, strict=True)]
        self._order = wanted
        self._batches = self._file.iter_batches(batch_size=rows, columns=wanted, use_threads=False)

    def next(self) -> list[tuple[Any, ...]] | None:
        """The next rows, or None."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        values = [[canonical(value) for value in _plain(batch.column(name))] for name in self._order]
        return list(zip(*values, strict=True))


def _known(schema: Any, wanted: Sequence[str]) -> Sequence[str]:
    for name in wanted:
        if schema.names.count(name) != 1:
            known = ", ".join(schema.names[:50])
            raise InvalidRequest.at("columns", f"must each be there once; the file has: {known}"[:1000])
    return wanted


def _plain(column: Any) -> list[Any]:
    """Python values. Times finer than microseconds, which Python has not, become text that keeps every digit."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        texts = column.cast(pa.string()).to_pylist()
        return [text and text.replace(" ", "T", 1) for text in texts]
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except ValueError:
        return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]
