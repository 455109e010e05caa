"""Running one command on a leased session: cursors within the caps, and what a write answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from studio.contract import Batch, Result
from studio.contract.caps import Caps
from studio.errors import ReadOnly, ResultBlocked, StudioError
from studio.providers.mongodb.errors import refused, unknown

if TYPE_CHECKING:
    from studio.providers._lifo import Pool
    from studio.providers.mongodb.config import MongodbConfig
    from studio.providers.mongodb.room import Room
    from studio.providers.mongodb.session import Session
    from studio.providers.mongodb.wire import Long, Whole

Part = TypeVar("Part")

BATCH = 1_000
"""Documents asked for at once; the server sends fewer where they would exceed 16 MiB."""
KILL_S = 2.0
_KEPT: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def keeping() -> Iterator[None]:
    """All documents that an operation gives in it are kept, as for a result; of a stream, none is."""
    token = _KEPT.set(True)
    try:
        yield
    finally:
        _KEPT.reset(token)


class Work:
    """Runs commands on one database, each with a time limit of the server's own.

    Cursors are read up to the caps, and ended where they were not read to their end.
    """

    def __init__(self, pool: Pool[Session], config: MongodbConfig) -> None:
        self._pool, self._config, self._database = pool, config, config.database
        self._limit = {"maxTimeMS": max(1, round(config.timeout_s * 1000))}
        self._ending: set[asyncio.Task[None]] = set()

    async def stream(
        self, command: Mapping[str, Any], shape: Callable[[Any], Any], room: Room
    ) -> AsyncGenerator[list[Any], None]:
        """The documents that a command's cursor gives, or its other list, as `shape` makes them, some at a time.

        They end early where the room is `full`.

        Raises:
            ResultBlocked: one is larger than any answer, or has more than 100,000 values.
        """
        from studio.providers.mongodb.wire import listed

        limited = {**command, **self._limit}
        name, cursor = "", 0
        try:
            async with self._pool.begun(lambda held: self._listed(held, limited)) as (held, found):
                while True:
                    reply = listed(found)
                    try:
                        async with aclosing(reply.slices(room)) as slices:
                            async for items in slices:
                                for at, item in enumerate(items):
                                    items[at] = shape(item)
                                room.take(items)
                                if room.full:
                                    break
                                yield items
                                del items, item  # before the next are decoded
                    except (GeneratorExit, ResultBlocked):
                        name, cursor = await self._left(held, reply)
                        raise
                    name, cursor = _cursor(await reply.rest())
                    if not cursor or room.full:
                        return
                    more = {"getMore": cursor, "collection": name, "batchSize": BATCH}
                    found = await self._listed(held, more)
        finally:
            if cursor:
                self._end(cursor, name)

    async def _listed(self, held: Session, command: Mapping[str, Any]) -> Mapping[str, Any]:
        return await held.call(self._database, command, reading=True, listed=True)

    async def _left(self, held: Session, reply: Whole | Long) -> tuple[str, int]:
        """The cursor of a reply that nobody wants more of: its number stands behind the documents."""
        try:
            async with asyncio.timeout(KILL_S):
                return _cursor(await reply.rest())
        except Exception:
            held.abort()
            return "", 0

    async def documents(self, command: Mapping[str, Any]) -> AsyncGenerator[Batch, None]:
        """The documents of a cursor in canonical form; uncapped."""
        from studio.providers.mongodb.values import plain

        room = self._room(kept=_KEPT.get())
        async with aclosing(self.stream(command, plain, room)) as batches:
            async for documents in batches:
                yield Batch([], documents, documents=True)
                del documents
        # Where there was none, this still says that they are documents.
        yield Batch([], [], documents=True, more=room.full)

    async def read(self, command: Mapping[str, Any], shape: Callable[[Any], Any]) -> Result:
        """All that `stream` gives, within the caps."""
        result, caps, room = Result(data=[]), Caps(self._config, kept=True), self._room(kept=True)
        async with aclosing(self.stream(command, shape, room)) as batches:
            async for batch in batches:
                part = caps.take(Batch([], batch, documents=True))
                result.data += part.rows
                result.truncated = part.truncated
                del batch, part  # before the next are read
                if result.truncated:
                    break
        result.truncated = result.truncated or room.full
        result.data = caps.unpacked(result.data)
        result.row_count = len(result.data)
        return result

    async def values(self, command: Mapping[str, Any]) -> Result:
        """The values that a command lists, a row each, within the caps."""
        from studio.providers.mongodb.values import plain

        return await self.read(command, lambda value: {"value": plain(value)})

    def _room(self, *, kept: bool) -> Room:
        from studio.providers.mongodb.room import Room, most_of_all, most_of_document

        most = self._config.max_bytes
        return Room(most_of_document(most), most_of_all(most) if kept else None)

    async def ask(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reply to a reading command that has no cursor."""
        limited = {**command, **self._limit}
        return await self._pool.use(lambda session: session.call(self._database, limited, reading=True), again=True)

    async def write(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reply to a writing command. It is sent once.

        Raises:
            ReadOnly: the connector only reads.
        """
        if self._config.read_only:
            raise ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")
        limited = {**command, **self._limit}
        return await self._pool.use(lambda session: session.call(self._database, limited), again=False)

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
        raise unknown()
    return value


def _cursor(rest: Mapping[str, Any]) -> tuple[str, int]:
    """The collection and the number of a cursor; 0 where it is at its end, or there is none."""
    if "ns" not in rest and "id" not in rest:
        return "", 0
    return part(rest, "ns", str).partition(".")[2], part(rest, "id", int)


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
