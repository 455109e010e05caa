"""The test run itself is poisoned: its environment and its HOME are full of credentials that nobody may use.

`tests/conftest.py` poisons the run before it imports the product. Every process that a test starts inherits that,
and one rogue server on loopback, which all of it leads to, takes down who comes. The run fails if anybody did, if a
planted file was opened, or if a planted credential arrived at a test's own server.

What is no part of the product (a test's servers, and its clients) is kept out of it: a process by `clean()`, a library
in this one by `lifted()`, `urllib` by `tests.servers.fetch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import secrets
import shutil
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.attack import corpus

AMBIENT = corpus.read("ambient")
PLANTED = sum(
    text.count("$CANARY") + text.count("$TRAP") for text in [*AMBIENT["variables"].values(), *AMBIENT["files"].values()]
)
"""How many credentials and rogue addresses stand in the environment and the files."""
CREDENTIALS = b'{"AccessKeyId": "rogue", "SecretAccessKey": "rogue", "Token": "rogue", "access_token": "rogue"}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(CREDENTIALS)
_IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")


def plant(home: Path, port: int, mark: str) -> dict[str, str]:
    """Fill a home with credentials that start with `mark`; the variables that lead to it, and to a server's port."""
    for name, text in AMBIENT["files"].items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text.replace("$CANARY", f"{mark}-{re.sub(r'[^a-z0-9]', '_', name.lower())}"))
        (home / name).chmod(0o600)
    (home / "openssl.cnf").write_text("")  # OpenSSL itself reads this one at its start
    return {"HOME": str(home)} | {
        name: text.replace("$CANARY", f"{mark}-{name.lower()}")
        .replace("$TRAP", f"127.0.0.1:{port}").replace("$HOME", str(home)).replace("$PORT", str(port))
        for name, text in AMBIENT["variables"].items()
    }  # fmt: skip


class Poison:
    """The poison of one run, and what came of it. `caught` says each thing in a sentence."""

    def __init__(self) -> None:
        self.before = dict(os.environ)
        self.mark = f"p01s0n{secrets.token_hex(4)}"
        self.caught: list[str] = []
        self.home = Path(tempfile.mkdtemp(prefix="studio-poisoned-"))
        self._trap = _Trap(self._connection)
        self._marked = re.compile(rf"{self.mark}-\w+".encode())
        self._feed = asyncio.StreamReader.feed_data
        os.environ.update(plant(self.home, self._trap.server_address[1], self.mark))
        self._opened = _Opened([self.home / name for name in AMBIENT["files"]])

        def feed_data(reader: asyncio.StreamReader, data: bytes) -> None:
            self.search("a test's server", data)
            self._feed(reader, data)

        asyncio.StreamReader.feed_data = feed_data  # type: ignore[method-assign]

    def _connection(self, data: bytes) -> None:
        said = ", ".join(sorted({found.decode() for found in self._marked.findall(data)}))
        self._catch(f"the rogue server was dialled, with {said or 'no credential'}: {data[:80]!r}")

    def _catch(self, what: str, test: str = "") -> None:
        self.caught.append(f"{what} [{test or os.environ.get('PYTEST_CURRENT_TEST', 'between tests')}]")

    def search(self, place: str, content: bytes) -> None:
        """Look for planted credentials in what arrived somewhere."""
        for found in sorted(set(self._marked.findall(content))):
            self._catch(f"{found.decode()} arrived at {place}")

    def look(self, test: str) -> None:
        """Ask which planted files were opened since the last look, by whatever process."""
        for path in self._opened.since():
            self._catch(f"{path.relative_to(self.home)} was opened", test)

    def says(self) -> str:
        """The run in a line."""
        return (
            f"{len(AMBIENT['variables'])} variables and {len(AMBIENT['files'])} files poisoned: {len(self.caught)} seen"
        )

    def end(self) -> None:
        """Leave everything as it was, and wait for those who are being heard."""
        asyncio.StreamReader.feed_data = self._feed  # type: ignore[method-assign]
        _become(self.before)
        self._trap.shutdown()
        self._trap.server_close()
        self._opened.close()
        shutil.rmtree(self.home, ignore_errors=True)


class _Trap(socketserver.ThreadingTCPServer):
    """Takes whatever is sent, and answers any request with credentials of its own."""

    def __init__(self, told: Callable[[bytes], None]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(1)
                data = b""
                with contextlib.suppress(OSError):
                    data = self.request.recv(65_536)
                    self.request.sendall(_ANSWER + CREDENTIALS)
                told(data)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), name="rogue server", daemon=True).start()


class _Opened:
    """Which of some files are opened, whoever does it: Linux tells by inotify."""

    def __init__(self, paths: list[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._paths = {libc.inotify_add_watch(self._events, bytes(path), _IN_OPEN): path for path in paths}
        if self._events < 0 or -1 in self._paths:
            raise OSError(ctypes.get_errno(), "the planted files cannot be watched")

    def since(self) -> Iterator[Path]:
        """The files that were opened since this was asked last."""
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self._events, 65_536):
                yield from (self._paths[watched] for watched, mask, *_ in _EVENT.iter_unpack(events) if mask & _IN_OPEN)

    def close(self) -> None:
        os.close(self._events)


_running: list[Poison] = []


def begin() -> None:
    """Poison this process, once."""
    if not _running:
        _running.append(Poison())


def run() -> Poison:
    """The poison of this run."""
    return _running[0]


def search(place: str, content: bytes) -> None:
    """Look for planted credentials in what arrived somewhere; nothing where no run is poisoned, as in the benchmarks."""
    for found in _running:
        found.search(place, content)


def clean(**more: str) -> dict[str, str]:
    """The environment as it was before, for a process that is no part of the product."""
    return {**(_running[0].before if _running else os.environ), **more}


def program(folder: Path, **more: str) -> dict[str, str]:
    """The poisoned environment without settings of the product, for a process of it with its data in `folder/data`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STUDIO_", "OTEL_"))}
    return {**kept, "STUDIO_DATA_DIR": str(folder / "data"), **more}


@contextmanager
def lifted() -> Iterator[None]:
    """As it was before, for as long as a library that is no part of the product reads its environment."""
    poisoned = dict(os.environ)
    _become(clean())
    try:
        yield
    finally:
        _become(poisoned)


def _become(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
