"""A way to a server that falls silent when a client sends a certain text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

STALL = b"studio-stall"
"""A command that holds this is never passed on by `stalling`."""


@contextlib.asynccontextmanager
async def stalling(upstream_port: int, mark: bytes = STALL) -> AsyncIterator[int]:
    """A port that passes bytes to an upstream and back, until a client sends `mark`: then it falls silent.

    For upstreams that have no command which takes long and is not refused.
    """
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        while data := await reader.read(65_536):
            if from_client and mark in data:
                await asyncio.sleep(3600)
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", upstream_port)
        three = [
            asyncio.create_task(pump(reader, up_writer, from_client=True)),
            asyncio.create_task(pump(up_reader, writer, from_client=False)),
            asyncio.create_task(_gone(reader)),
        ]
        pumps.update(three)
        await asyncio.wait(three, return_when=asyncio.FIRST_COMPLETED)
        for one in three:
            one.cancel()
        await asyncio.gather(*three, return_exceptions=True)
        pumps.difference_update(three)
        writer.transport.abort()
        up_writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(pumps):
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await asyncio.sleep(0.01)  # the handlers end after their pumps


async def _gone(reader: asyncio.StreamReader) -> None:
    """Return when the client is gone, though nobody reads from it."""
    while not reader.at_eof():  # noqa: ASYNC110 - a StreamReader tells nobody
        await asyncio.sleep(0.01)
