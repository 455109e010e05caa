"""Parquet objects as rows, by range reads: the footer, then only the pages that the rows need.

pyarrow decodes in a process of its own (`parquet_worker.py`): it is a large piece of C++ at
work on somebody else's bytes, and it allocates what a page's header asks for. The process has no
credentials and no network; this side fetches the ranges, of the very object that was opened.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from studio.contract import Batch, Column
from studio.contract.sql import unique_names
from studio.errors import InvalidRequest, OperationNotSupported
from studio.providers._objects.parts import exactly

if TYPE_CHECKING:
    from studio.providers._objects.source import Source

_AT_ONCE = 4
"""Processes of one event loop; each takes some 60 MiB and 0.3 s to start."""
_BATCH_ROWS = 8192
_MAX_FETCH = 1024 * 1024
_BOOT = """
import sys
sys.path.extend(sys.argv[2:])
for name in "studio", "studio.contract", "studio.providers":
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [sys.argv[1] + name.replace(".", "/")]
from studio.providers._objects.parquet_worker import main
main()
"""
"""Bare packages stand for ours: running their real `__init__` would import everything."""
_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


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
    limit = 8 * source.config.max_bytes
    async with _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)):
        worker = _Worker(ceiling=limit + _MAX_FETCH)
        try:
            settings = {
                "size": entry.size,
                "columns": None if columns is None else list(columns),
                "rows": min(source.config.max_rows + 1, _BATCH_ROWS),
                "limit": limit,
            }
            await worker.tell(orjson.dumps(settings))
            answer = await _answer(worker, source, entry.size, entry.etag)
            names = unique_names(column["name"] for column in answer["columns"])
            found: list[Column] = [
                {"name": name, "type": column["type"]} for name, column in zip(names, answer["columns"], strict=True)
            ]
            yield Batch(found, [])
            while True:
                await worker.tell(b"")
                answer = await _answer(worker, source, entry.size, entry.etag)
                if "rows" not in answer:
                    return
                yield Batch(found, [tuple(row) for row in answer["rows"]])
        finally:
            worker.end()


async def _answer(worker: _Worker, source: Source, size: int, etag: str | None) -> Mapping[str, Any]:
    """What the worker says next, after it was given the ranges that it asks for on the way."""
    while True:
        frame = await worker.heard()
        message: Mapping[str, Any] = orjson.loads(frame) if frame else {"error": _LOST}
        if "error" in message:
            raise InvalidRequest(str(message["error"])[:1000])
        if "fetch" not in message:
            return message
        offset, length = message["fetch"]
        if not (0 <= offset < size and 0 < length <= min(_MAX_FETCH, size - offset)):
            raise InvalidRequest(_LOST)
        async with source.open(offset, length, etag) as content:
            await worker.tell(b"".join([chunk async for chunk in exactly(content)]))


_LOST = "the Parquet file could not be decoded within the memory that there is for it here; is it damaged?"


class _Worker:
    """One process, and our end of its socket."""

    def __init__(self, *, ceiling: int) -> None:
        pid, self._socket = _spawn()
        self._ceiling = ceiling
        self.end = weakref.finalize(self, _end, os.getpid(), pid, self._socket)

    async def tell(self, body: bytes) -> None:
        """Send one frame; that nobody is there any more, `heard` tells."""
        with suppress(ConnectionError):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._socket, len(body).to_bytes(4, "big") + body)

    async def heard(self) -> bytes | None:
        """The next frame, or None where the process has ended or talks nonsense."""
        head = await self._exactly(4)
        size = int.from_bytes(head or b"", "big")
        return await self._exactly(size) if head and 0 < size <= self._ceiling else None

    async def _exactly(self, size: int) -> bytes | None:
        found = bytearray()
        loop = asyncio.get_running_loop()
        while len(found) < size:
            try:
                part = await loop.sock_recv(self._socket, min(size - len(found), 1 << 18))
            except ConnectionError:
                part = b""
            if not part:
                return None
            found += part
        return bytes(found)


@cache
def _arguments() -> list[str]:
    """The command line: isolated, without `site` (so no `.pth` file runs), with the folders to import from."""
    spec = find_spec("pyarrow")
    if spec is None or spec.origin is None:
        raise OperationNotSupported(
            "Parquet needs pyarrow, which is not installed here; an operator installs it with "
            "pip install 'studio-connectors[parquet]'"
        )
    root = f"{Path(__file__).parents[3]}/"
    return [sys.executable, "-I", "-S", "-c", _BOOT, root, str(Path(spec.origin).parent.parent)]


def _spawn() -> tuple[int, socket.socket]:
    """A new process's id, and our non-blocking end of its socket. It inherits nothing else, and no environment."""
    arguments = _arguments()
    ours, theirs = socket.socketpair()
    with theirs:
        inherited = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "PYTHONUTF8": "1"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, inherited, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setpgroup=0,  # a Ctrl-C in the terminal is the service's to handle
            )
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(inherited)
    ours.setblocking(False)
    return pid, ours


def _end(owner: int, pid: int, ours: socket.socket) -> None:
    """Kill and reap; a killed process is gone in microseconds."""
    ours.close()
    if os.getpid() != owner:
        return  # a fork of the service ends: the process is not its own
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
