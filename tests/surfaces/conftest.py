"""The command line as a function, a server in a thread, and a sample database for both."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests import toy

from studio.app import Application
from studio.cli import run
from studio.server import config, listen
from studio.services.connector_service import ConnectorService
from studio.settings import Settings


@dataclass(frozen=True)
class Answer:
    """What one command left: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Studio = Callable[..., Answer]


class Server:
    """The application behind uvicorn, in a thread of its own, on a free port of the loopback address."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    async def _serve(self) -> None:
        application = Application(self._settings)
        with closing(listen("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with application.service as service:
                key = await service.create_first_key()
                assert key is not None
                self.key = key
                self._server = uvicorn.Server(config(application))
                self._ready.set()  # the socket listens already: connections wait for the server
                await self._server.serve(sockets=[listener])


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with `files/app.db`, and no other setting."""
    for name in [name for name in os.environ if name.startswith("STUDIO_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "data"
    (folder / "files").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "files" / "app.db")) as database:
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        database.executemany("INSERT INTO users (name) VALUES (?)", [("Ada",), ("Grace",), ("[b]\x1b[31m",)])
        database.commit()
    monkeypatch.setenv("STUDIO_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def toys() -> Iterator[None]:
    """The toy provider: its config has secrets, and `secrets` tells what reached the driver."""
    with toy.installed():
        yield


@pytest.fixture
def server(data_dir: Path, toys: None) -> Iterator[Server]:
    """A running server on the data folder."""
    running = Server(Settings())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Studio:
    """The command line on the embedded store. `stdin` is what is typed or piped in."""

    def studio(*arguments: object, stdin: str = "") -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return Answer(code, streams.out, streams.err)

    return studio


@pytest.fixture
def remote(server: Server, embedded: Studio, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """The same command line, against the running server."""
    monkeypatch.setenv("STUDIO_URL", server.url)
    monkeypatch.setenv("STUDIO_API_KEY", server.key)
    return embedded


@pytest.fixture(params=["embedded", "remote"])
def studio(request: pytest.FixtureRequest, toys: None) -> Studio:
    """The command line, once in process and once through a server."""
    found: Studio = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def service(data_dir: Path) -> ConnectorService:
    """The service in process, on the same store as `server`. A test opens it with `async with`."""
    return ConnectorService(Settings())
