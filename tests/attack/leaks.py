"""Canaries in place of secrets, where they are looked for, and the program whose every word is searched."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from tests import poison
from tests.attack import corpus
from tests.attack.report import report
from tests.collector import Collector, collecting
from tests.servers import Postgres

from studio.cli import run

STEM = "c4n4ry"
PROGRAM = str(Path(sys.executable).parent / "studio")
MCP = "2026-07-28"


def spellings(secret: str) -> Iterator[bytes]:
    """As it is, and in five encodings: JSON, a URL, hexadecimal, UTF-16, and base64 at each of three offsets."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield quote(secret, safe="").encode()
    yield raw.hex().encode()
    yield secret.encode("utf-16-le")
    for before in range(3):
        yield base64.b64encode(b"\0" * before + raw)[4 if before else 0 : (before + len(raw)) // 3 * 4]


@dataclass
class Leaks:
    """All canaries of a run, and where one was found. The controls, which find some, are not `counted` in the report."""

    counted: bool = True
    needles: dict[bytes, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    _stems: set[bytes] = field(default_factory=lambda: set(spellings(STEM)))
    _run: str = field(default_factory=lambda: secrets.token_hex(5))

    def plant(self, tree: Any, kind: str, *, plain: bool) -> Any:
        """Put a canary of its own where `$SECRET` stands: one that each encoding changes, or one that a header may hold."""
        if isinstance(tree, dict):
            return {key: self.plant(value, kind, plain=plain) for key, value in tree.items()}
        if not isinstance(tree, str) or "$" not in tree:
            return tree
        if tree == "$PEM":  # known by one of its lines
            self.watch(f"{kind}'s key", corpus.pem().splitlines()[5])
            return corpus.pem()
        return tree.replace("$SECRET", self.canary(kind, plain=plain or tree != "$SECRET"))

    def canary(self, of: str, *, plain: bool) -> str:
        """A new one, looked for from now on."""
        number = len(set(self.needles.values()))
        made = f"{STEM}-{of}-{number}-{self._run}" if plain else f"{STEM}/{of}+{number}{self._run}&?=\\ü"
        self.watch(f"{of}'s secret {number}", made)
        return made

    def watch(self, name: str, secret: str) -> None:
        """Look for this text, too."""
        for needle in spellings(secret):
            self.needles[needle] = name
            if not any(stem in needle for stem in self._stems):
                self._stems.add(needle)

    def search(self, place: str, content: bytes) -> None:
        """Look for every canary in what left."""
        near = any(stem in content for stem in self._stems)  # most holds none: that is told eight times as fast
        hits = [f"{name} in {place}" for needle, name in self.needles.items() if needle in content] if near else []
        self.found += hits
        if self.counted:
            report.count("leaks", place, bytes=len(content), canaries=0, found=len(hits))


# -- what leaves other than by an answer ------------------------------------------------------------


def processes(pid: int) -> Iterator[tuple[str, bytes]]:
    """The arguments and environment of a process and of all below it, and the files that they hold open, deleted ones too."""
    place = Path(f"/proc/{pid}")
    yield "arguments", (place / "cmdline").read_bytes()
    yield "environment", (place / "environ").read_bytes()
    for entry in (place / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(entry).startswith(("/", "memfd:")) and entry.is_file():
                yield "open files", entry.read_bytes()
    for children in place.glob("task/*/children"):
        for child in children.read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
                yield from processes(int(child))


async def tables(postgres: Postgres, database: str) -> AsyncIterator[bytes]:
    """Every value of every table of a database, bytes as they are; and what its sessions run."""
    connection = await postgres.admin(database)
    try:
        found = await connection.fetch(
            "SELECT format('%I.%I', nspname, relname) AS name FROM pg_class JOIN pg_namespace s ON relnamespace = s.oid"
            " WHERE relkind IN ('r', 'p', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema')"
        )
        for (name,) in [*found, ("pg_stat_activity",)]:
            for row in await connection.fetch(f"SELECT * FROM {name}"):
                yield b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
    finally:
        await connection.close()


def files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below a folder; one that goes away meanwhile is left out."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.read_bytes()


# -- the program -------------------------------------------------------------------------------------

CALLER = {"io.modelcontextprotocol/protocolVersion": MCP, "io.modelcontextprotocol/clientCapabilities": {}}


@dataclass
class Served:
    """The program, serving on everything that talks; whoever asks it something has the answer searched."""

    leaks: Leaks
    url: str
    key: str
    folder: Path
    pid: int
    environment: dict[str, str]
    collector: Collector
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: Any = None, place: str = "HTTP answers", **headers: str) -> Any:
        """One request."""
        async with self.http.request(method, path, json=body, headers=headers) as reply:
            content = await reply.read()
            self.leaks.search(place, content + str(reply.raw_headers).encode())
            return json.loads(content) if "json" in reply.headers.get("content-type", "") else None

    async def rpc(self, method: str, name: str = "", tools: str = "", **arguments: Any) -> Any:
        """One message to the MCP endpoint, as the agent."""
        headers = {"mcp-protocol-version": MCP, "mcp-method": method} | ({"mcp-name": name} if name else {})
        path = "/mcp?agent=agent" + (f"&tools={tools}" if tools else "")
        return await self.call("POST", path, message(method, name, arguments), "MCP over HTTP", **headers)

    async def command(self, *arguments: str) -> None:
        """One command against this server, run in this process, which costs a hundredth of a process of its own."""
        said = io.StringIO()

        def ask() -> None:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                run(["--url", self.url, "--key", self.key, *arguments])

        await asyncio.to_thread(ask)
        self.leaks.search("the command line", said.getvalue().encode())

    async def program(self, place: str, *arguments: str, given: str = "") -> str:
        """One command on the store itself, in a process of its own."""
        done = await asyncio.to_thread(
            subprocess.run, [PROGRAM, *arguments], input=given, text=True, capture_output=True, env=self.environment,
            check=False,
        )  # fmt: skip
        self.leaks.search(place, (done.stdout + done.stderr).encode())
        return done.stdout

    def look_at_processes(self) -> bytes:
        """Search the program and everything below it; all of their command lines."""
        seen = b""
        for what, content in processes(self.pid):
            self.leaks.search(f"processes' {what}", content)
            seen += content if what == "arguments" else b""
        return seen


def message(method: str, name: str = "", arguments: Any = None) -> dict[str, Any]:
    named = {"name": name, "arguments": arguments} if name else {}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**named, "_meta": CALLER}}


@asynccontextmanager
async def serving(folder: Path, leaks: Leaks, **settings: str) -> AsyncIterator[Served]:
    """The program, and at its end the search of what it left behind."""
    (folder / "tmp").mkdir()
    (folder / "data" / "files").mkdir(parents=True)
    (folder / "data" / "files" / "app.db").touch()
    async with AsyncExitStack() as stack:
        collector = stack.enter_context(collecting())
        environment = poison.program(
            folder, TMPDIR=str(folder / "tmp"), PYTHONASYNCIODEBUG="1", STUDIO_RATE_LIMIT_PER_S="0",
            STUDIO_ORGANIZATION_RATE_LIMIT_PER_S="0", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **settings,
        )  # fmt: skip
        if "STUDIO_DATABASE_URL" in settings:
            subprocess.run([PROGRAM, "db", "upgrade"], env=environment, check=True, capture_output=True)  # noqa: ASYNC221
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - a moment
                [PROGRAM, "serve", "--port", "0", "--json", "--log-level", "debug"],
                stdout=subprocess.PIPE, stderr=log, env=environment,
            )  # fmt: skip
        stack.callback(process.communicate, timeout=20)
        stack.callback(process.terminate)
        assert process.stdout is not None
        said = json.loads(await asyncio.to_thread(process.stdout.readline))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(said["url"], headers={"Authorization": f"Bearer {said['first_key']}"})
        )
        yield Served(leaks, said["url"], said["first_key"], folder, process.pid, environment, collector, http)
        for path, content in files(folder):  # while it runs: a store that is closed has no WAL any more
            leaks.search(_place_of(path), content)
    for body in collector.taken:
        leaks.search("traces", body)


def _place_of(path: Path) -> str:
    if path.name == "log":
        return "the log at DEBUG"
    return "files of the store" if "studio.db" in path.name else "other files"
