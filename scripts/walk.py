"""Walks the user's document once in front of the reader, over HTTP on the embedded store, then serves.

make run                 walk, then leave the server up
make run ARGS=--once     walk, then end
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import time
from typing import Any

import aiohttp
import uvicorn
from rich.console import Console
from rich.syntax import Syntax

from studio.app import Application
from studio.server import config
from studio.settings import Settings

console = Console()
SAMPLE = "sample.db"


def make_sample(settings: Settings) -> None:
    """A small shop below the folder that sqlite connectors may open files in."""
    settings.files_root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = settings.files_root / SAMPLE
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT, balance DECIMAL(10,2))")
        rows = [(id_, f"User {id_}", f"user{id_}@example.com", id_ * 1.5) for id_ in range(1, 1001)]
        db.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows)
    db.close()


class Walk:
    """Shows each call and its answer; any answer but the expected status ends the walk."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._step = 0

    async def call(self, title: str, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """One call, shown."""
        self._step += 1
        console.rule(f"[bold]{self._step}. {title}", align="left")
        console.print(f"[cyan]{method}[/] {path}")
        if body is not None:
            console.print(Syntax(json.dumps(body, indent=2), "json", background_color="default", word_wrap=True))
        async with self._http.request(method, path, json=body) as response:
            answer = await response.json(content_type=None)
            colour = "green" if response.status == expect else "red"
            console.print(f"[{colour}]{response.status}[/]")
            console.print(Syntax(json.dumps(answer, indent=2), "json", background_color="default", word_wrap=True))
            if response.status != expect:
                raise SystemExit(f"expected {expect}, got {response.status}")
            return answer


async def walk(base: str, key: str) -> None:
    """The document, from top to bottom."""
    async with aiohttp.ClientSession(base, headers={"authorization": f"Bearer {key}"}) as http:
        step = Walk(http)
        name = f"Production Database {int(time.time())}"
        await step.call("Which types are there?", "GET", "/api/v1/connectors/types")
        connector = await step.call(
            "Register a connector; its config is sealed before it is stored",
            "POST",
            "/api/v1/connectors",
            {"name": name, "connector_type": "database", "provider": "sqlite", "config": {"path": SAMPLE}},
            201,
        )
        path = f"/api/v1/connectors/{connector['id']}"
        await step.call("Test it", "POST", f"{path}/test")
        attachment = {"agent_id": "agent-123", "alias": "main_db", "config_override": {"max_rows": 5}}
        instance = await step.call(
            "Attach it to agent-123 as main_db; an override may only narrow", "POST", f"{path}/attach", attachment, 201
        )
        await step.call("What does the agent have?", "GET", "/api/v1/agents/agent-123/connectors")
        alias = "/api/v1/agents/agent-123/connectors/main_db"
        query = {"query": "SELECT * FROM users WHERE id = :id", "params": {"id": 123}}
        await step.call("The agent queries through its alias, and sees no credential", "POST", f"{alias}/query", query)
        await step.call(
            "More rows than the attachment allows: truncated says so",
            "POST",
            f"{alias}/query",
            {"query": "SELECT id, name FROM users ORDER BY id"},
        )
        await step.call(
            "Writing is refused, and says what to do", "POST", f"{alias}/query", {"query": "DELETE FROM users"}, 403
        )
        await step.call("Detach", "DELETE", f"/api/v1/connectors/instances/{instance['id']}")
        await step.call("The alias is gone", "POST", f"{alias}/query", query, 404)
        await step.call("Delete the connector", "DELETE", path)


async def main(arguments: argparse.Namespace) -> None:
    """Serve, walk, and go on serving unless asked not to."""
    settings = Settings() if arguments.port is None else Settings(port=arguments.port)
    make_sample(settings)
    application = Application(settings)
    key = await application.service.create_first_key()
    if key is None:
        made = await application.service.create_key({"organization_id": "default", "role": "admin", "name": "make run"})
        key = made["key"]
    server = uvicorn.Server(config(application, host=settings.host, port=settings.port))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            await serving
            raise SystemExit(f"the server did not start; is port {settings.port} taken? Try STUDIO_PORT=0")
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    base = f"http://{settings.host}:{port}"
    try:
        await walk(base, key)
        console.rule("[bold green]Done: registered, tested, attached, queried, detached, deleted", align="left")
        if not arguments.once:
            console.print(f"Serving on [bold]{base}[/] (docs: {base}/docs). Press Ctrl-C to stop.")
            console.print(f"Admin key: [bold]{key}[/]", soft_wrap=True)
            await serving
    finally:
        server.should_exit = True
        await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the walk")
    parser.add_argument("--port", type=int, help="port to serve on (default: STUDIO_PORT or 8400; 0 takes a free one)")
    sys.exit(asyncio.run(main(parser.parse_args())))
