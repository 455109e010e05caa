"""Running one command on a leased session: cursors within the caps, and what a write answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from studio.contract import Batch, Result
from studio.contract.values import size_of
from studio.errors import ReadOnly, StudioError, UpstreamError
from studio.providers.mongodb.errors import refused

if TYPE_CHECKING:
    from studio.providers._lifo import Pool
    from studio.providers.mongodb.config import MongodbConfig
    from studio.providers.mongodb.session import Session

Part = TypeVar("Part")

BATCH = 1_000
"""Documents asked for at once; the server sends fewer where they would exceed 16 MiB."""
SLICE = 100
"""Documents passed on at once: what they become on their way out takes several times their size."""
KILL_S = 2.0


class Work:
    """Runs commands on one database, each with a time limit of the server's own.

    Cursors are read up to the caps, and ended where they were not read to their end.
    """

    def __init__(self, pool: Pool[Session], config: MongodbConfig) -> None:
        self._pool, self._config, self._database = pool, config, config.database
        self._limit = {"maxTimeMS": max(1, round(config.timeout_s * 1000))}
        self._ending: set[asyncio.Task[None]] = set()

    async def stream(self, command: Mapping[str, Any], shape: Callable[[Any], Any]) -> AsyncGenerator[list[Any], None]:
        """The documents that a command's cursor gives, as `shape` makes them, in batches of the server."""
        limited = {**command, **self._limit}
        name, cursor = "", 0
        try:
            async with self._pool.begun(lambda held: held.call(self._database, limited, reading=True)) as (held, reply):
                found = part(reply, "cursor", dict)
                name, cursor = part(found, "ns", str).partition(".")[2], part(found, "id", int)
                batch = part(found, "firstBatch", list)
                while True:
                    batch.reverse()  # taken from the end, so that what was passed on is let go
                    while batch:
                        try:
                            yield [shape(batch.pop()) for _ in range(min(SLICE, len(batch)))]
                        except GeneratorExit:
                            return  # nothing is under way on the session: it is as good as before
                    if not cursor:
                        return
                    more = {"getMore": cursor, "collection": name, "batchSize": BATCH}
                    found = part(await held.call(self._database, more, reading=True), "cursor", dict)
                    batch, cursor = part(found, "nextBatch", list), part(found, "id", int)
        finally:
            if cursor:
                self._end(cursor, name)

    async def documents(self, command: Mapping[str, Any]) -> AsyncGenerator[Batch, None]:
        """The documents of a cursor in canonical form; uncapped."""
        from studio.providers.mongodb.values import plain

        async with aclosing(self.stream(command, plain)) as batches:
            async for documents in batches:
                yield Batch([], documents, documents=True)
        yield Batch([], [], documents=True)  # where there was none, this still says that they are documents

    async def read(self, command: Mapping[str, Any], shape: Callable[[Any], Any]) -> Result:
        """All that `stream` gives, within the caps."""
        result, size = Result(data=[]), 0
        async with aclosing(self.stream(command, shape)) as batches:
            async for batch in batches:
                size, result.truncated = self._keep(result, batch, size)
                if result.truncated:
                    break
        result.row_count = len(result.data)
        return result

    async def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a reading command that has no cursor."""
        limited = {**command, **self._limit}
        return await self._pool.use(lambda session: session.call(self._database, limited, reading=True), again=True)

    async def write(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a writing command. It is sent once.

        Raises:
            ReadOnly: the connector only reads.
        """
        if self._config.read_only:
            raise ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")
        limited = {**command, **self._limit}
        return await self._pool.use(lambda session: session.call(self._database, limited), again=False)

    def capped(self, rows: list[Any]) -> Result:
        """Rows that came in one reply, within the caps."""
        result = Result(data=[])
        _, result.truncated = self._keep(result, rows, 0)
        result.row_count = len(result.data)
        return result

    def _keep(self, result: Result, rows: list[Any], size: int) -> tuple[int, bool]:
        """Add what both caps let through; the size so far, and whether anything was left out."""
        for row in rows:
            size += size_of(row)
            if size > self._config.max_bytes or len(result.data) == self._config.max_rows:
                return size, True
            result.data.append(row)
        return size, False

    def _end(self, cursor: int, name: str) -> None:
        """Tell the server that nobody reads on, behind the caller's back: it may have been cancelled."""
        task = asyncio.get_running_loop().create_task(self._kill(cursor, name))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _kill(self, cursor: int, name: str) -> None:
        command = {"killCursors": name, "cursors": [cursor]}
        try:
            async with asyncio.timeout(KILL_S):
                await self._pool.use(lambda session: session.call(self._database, command), again=False)
        except Exception:  # noqa: S110 - the server forgets the cursor by itself, later
            pass

    async def close(self) -> None:
        """Wait for the cursors that are being ended."""
        await asyncio.gather(*self._ending, return_exceptions=True)


def part(reply: Mapping[str, Any], name: str, kind: type[Part]) -> Part:
    """A part of a reply. Raises UpstreamError where the server left it out or means something else by it."""
    value = reply.get(name)
    if not isinstance(value, kind):
        raise UpstreamError("the server's answer is not what MongoDB answers")
    return value


def written(reply: Mapping[str, Any], data: dict[str, Any]) -> Result:
    """The result of a write.

    Raises:
        StudioError: the server refused a part of it; what came before that part stands.
    """
    failures = reply.get("writeErrors") or ([reply["writeConcernError"]] if "writeConcernError" in reply else [])
    if failures:
        error: StudioError = refused(failures[0])
        done = reply.get("n", 0)
        raise type(error)(f"{error.message}; {done} done before that" if done else error.message)
    return Result(data=data, row_count=int(next(iter(data.values()))))


def summary(documents: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Fields of sampled documents: path, types, and the share of documents that have it.

    Args:
        documents: what `outline` says of each.
    """
    seen: dict[str, list[str]] = {}
    for document in documents:
        for path, name in document.items():
            seen.setdefault(path, []).append(name)
    return [
        {"name": path, "types": sorted(set(names)), "share": round(len(names) / len(documents), 3)}
        for path, names in seen.items()
    ]


def outline(document: Mapping[str, Any], type_name: Callable[[Any], str]) -> dict[str, str]:
    """The paths of a document, one level into objects, with the names of their values' types."""
    found: dict[str, str] = {}
    for name, value in document.items():
        found[name] = type_name(value)
        if isinstance(value, dict):
            found.update({f"{name}.{inner}": type_name(item) for inner, item in value.items()})
    return found
