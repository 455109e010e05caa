"""What the tests of the messaging providers share."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests import poison

from studio.errors import StudioError

PAGES = Path(__file__).parents[2] / "docs" / "providers"


async def code_of(work: Awaitable[Any]) -> tuple[str, str]:
    """Code and message of the error that it must raise."""
    with pytest.raises(StudioError) as caught:
        await work
    return caught.value.code, caught.value.message


async def pinged(provider: Any) -> None:
    """Ping, with errors of ours."""
    try:
        await provider.ping()
    except Exception as exc:
        raise provider.error(exc) from exc


def run_page(kind: str, folder: Path, env: Mapping[str, str]) -> str:
    """Run the example of a provider's page as it stands; what it prints. Warnings are errors."""
    [example] = re.findall(r"```python\n(.*?)```", (PAGES / f"{kind}.md").read_text(), re.S)
    full = poison.program(folder, **env)
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=full)
    assert not done.stderr, done.stderr
    return done.stdout


@asynccontextmanager
async def advertising(upstream: tuple[str, int], elsewhere: str) -> AsyncIterator[tuple[int, list[str]]]:
    """A port that passes everything on to an upstream, but names itself as `elsewhere` in the answers.

    Gives the port, and who came to `elsewhere`: a recorder that answers nothing.
    """
    came: list[str] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(str(writer.get_extra_info("peername")))
        await reader.read()
        writer.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lie: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data.replace(upstream[0].encode(), elsewhere.encode()) if lie else data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*upstream)
        await asyncio.gather(pump(reader, up_writer, lie=False), pump(up_reader, writer, lie=True))

    sink = await asyncio.start_server(record, elsewhere, upstream[1])
    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield front.sockets[0].getsockname()[1], came
    finally:
        front.close()
        sink.close()
        await asyncio.sleep(0.05)  # the handlers see their connections close
