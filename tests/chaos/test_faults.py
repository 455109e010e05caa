"""The fault proxy itself, in front of a server that answers each line with the same line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from studio.testing.faults import Fault, FaultProxy

Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1], latency_s=0.1, slow_s=0.02) as made:
        yield made
    server.close()
    await asyncio.sleep(0.01)


@pytest.fixture
async def talk(proxy: FaultProxy) -> AsyncIterator[Talk]:
    """An open connection that works."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(reader, writer) == b"hello\n"
    yield reader, writer
    writer.transport.abort()


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"hello\n")
    async with asyncio.timeout(2):
        return await reader.readline()


async def test_refuse_takes_new_connections_away_and_gives_them_back(proxy: FaultProxy, talk: Talk) -> None:
    await proxy.inject(Fault.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(*talk) == b"hello\n"
    await proxy.inject(Fault.NONE)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(reader, writer) == b"hello\n"
    writer.transport.abort()


async def test_a_black_hole_swallows_old_and_new_connections_until_it_ends(proxy: FaultProxy, talk: Talk) -> None:
    await proxy.inject(Fault.BLACK_HOLE)
    new = await asyncio.open_connection("127.0.0.1", proxy.port)
    for reader, writer in (talk, new):
        writer.write(b"late\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.05)
    await proxy.inject(Fault.NONE)
    for reader, _ in (talk, new):
        assert await asyncio.wait_for(reader.readline(), 2) == b"late\n"
    new[1].transport.abort()


async def test_latency_holds_each_direction_up(proxy: FaultProxy, talk: Talk) -> None:
    await proxy.inject(Fault.LATENCY)
    begun = time.monotonic()
    assert await said(*talk) == b"hello\n"
    assert time.monotonic() - begun >= 0.2


async def test_a_reset_is_one(proxy: FaultProxy, talk: Talk) -> None:
    await proxy.inject(Fault.RESET)
    with pytest.raises(ConnectionResetError):
        await said(*talk)


async def test_a_half_close_ends_the_answers_alone(proxy: FaultProxy, talk: Talk) -> None:
    await proxy.inject(Fault.HALF_CLOSE)
    reader, writer = talk
    assert await said(reader, writer) == b""
    writer.write(b"more\n")
    await asyncio.sleep(0.05)
    await writer.drain()
    assert reader.at_eof()
    assert not writer.transport.is_closing()


async def test_slow_bytes_trickle(proxy: FaultProxy, talk: Talk) -> None:
    await proxy.inject(Fault.SLOW)
    begun = time.monotonic()
    assert await said(*talk) == b"hello\n"
    assert time.monotonic() - begun >= 6 * 0.02


async def test_an_upstream_that_is_not_there_resets_its_client() -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 2)
        writer.transport.abort()
