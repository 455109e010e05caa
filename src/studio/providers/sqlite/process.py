"""Worker processes seen from the service: started on first use, killed on cancellation, never left over.

No asyncio transport and no `Popen` is used: both warn when an event loop ends before they are
closed, and a service may be dropped without being closed. A worker is a process id and a file
descriptor, with a finalizer that ends both at the latest when the interpreter exits.
"""

from __future__ import annotations

import asyncio
import fcntl
import marshal
import os
import signal
import socket
import sys
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from studio.errors import OperationNotSupported

_BOOT = """
import sys
sys.path.extend(sys.argv[2:])
for name, folder in ("studio", ""), ("studio.providers", sys.argv[1]):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [folder]
from studio.providers.sqlite.worker import main
main()
"""
"""Two bare packages stand for ours: running their real `__init__` would import everything."""


class WorkerError(Exception):
    """What the worker answered in place of a result.

    `name` is the class of its exception, `code` SQLite's extended result code, `denied` what the
    authorizer refused (action, object), `at` the number of the failing statement.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        name, message, code = answer["error"]
        super().__init__(f"{name}: {message}")
        self.name, self.message, self.code = str(name), str(message), int(code)
        self.denied: list[str] | None = answer["denied"]
        self.at: int | None = answer["at"]


class WorkerLost(Exception):
    """The worker ended before it answered, though nobody here ended it."""


@cache
def _arguments() -> list[str]:
    """The command line: isolated, without `site` (so no `.pth` file runs), with the folders to import from."""
    folders = []
    for name in ("apsw", "orjson"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise OperationNotSupported(
                "the driver of sqlite is not installed here; an operator installs it with "
                "pip install 'studio-connectors[sqlite]'"
            )
        folders.append(str(Path(spec.origin).parent.parent))
    return [sys.executable, "-I", "-S", "-c", _BOOT, str(Path(__file__).parents[1]), *dict.fromkeys(folders)]


def installed() -> None:
    """Raises OperationNotSupported where the driver is missing."""
    _arguments()


def _spawn(scratch: str | None) -> tuple[int, int]:
    """A new worker's process id, and our non-blocking end of its socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inherited = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            pid = os.posix_spawn(
                sys.executable,
                _arguments(),
                {"SQLITE_TMPDIR": scratch} if scratch else {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, inherited, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setpgroup=0,  # a Ctrl-C in the terminal is the service's to handle
            )
        finally:
            os.close(inherited)
        ours.setblocking(False)
        return pid, ours.detach()


def _end(owner: int, pid: int, fd: int) -> None:
    """Kill and reap. After an end of file the process is all but gone, so the wait is microseconds."""
    os.close(fd)
    if os.getpid() != owner:
        return  # a fork of the service ends: the workers are not its own
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


class Worker:
    """One process. Requests are answered in order; `owed` counts answers that are still to come.

    Args:
        settings: the keyword arguments of the worker's `Session`.
        ceiling: bytes of the longest frame that is read; a longer one means that the worker is not ours any more.
        opened: what it works on, for the pool to compare.
    """

    def __init__(self, settings: Mapping[str, Any], *, ceiling: int, opened: object = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid, self._fd = _spawn(settings["scratch"])
        self._finalizer = weakref.finalize(self, _end, os.getpid(), self.pid, self._fd)
        self._ceiling = ceiling
        self._incoming, self._unsent = bytearray(), bytearray()
        self._answers: deque[bytes | bytearray] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.opened = opened
        self.killed = False
        self.owed = 0
        self.loop.add_reader(self._fd, self._readable)
        self.tell(dict(settings))

    @property
    def usable(self) -> bool:
        """Whether the next request may go to it."""
        return not (self.owed or self.killed or self.gone.done()) and self.loop is asyncio.get_running_loop()

    def tell(self, request: Any) -> None:
        """Send a request that has no answer."""
        if self.gone.done():
            return
        body = marshal.dumps(request)
        data = len(body).to_bytes(4, "big") + body
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # its end of file tells the reader
        if sent < len(data):
            self._unsent += data[sent:]
            self.loop.add_writer(self._fd, self._writable)

    def ask(self, *request: Any) -> None:
        """Send a request; `answer` gives what comes back."""
        self.owed += 1
        self.tell(request)

    async def answer(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerError: the worker's own exception.
            WorkerLost: the worker ended.
        """
        while not self._answers:
            if self.gone.done():
                raise WorkerLost
            self._waiter = self.loop.create_future()
            await self._waiter
        self.owed -= 1
        answer: dict[str, Any] = orjson.loads(self._answers.popleft())
        if "error" in answer:
            raise WorkerError(answer)
        return answer

    async def call(self, *request: Any) -> dict[str, Any]:
        """`ask`, then `answer`."""
        self.ask(*request)
        return await self.answer()

    def kill(self) -> None:
        """End it now, whatever it does. Its end of file makes the loop reap it."""
        if self._finalizer.alive and not self.killed:
            self.killed = True
            os.kill(self.pid, signal.SIGKILL)
            if self.loop.is_closed():
                self._finalizer()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        buffer = self._incoming
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if end > self._ceiling:
                self._lost()
                return
            if len(buffer) < end:
                break
            if len(buffer) == end:  # most often: no copy
                self._incoming = bytearray()
                del buffer[:4]
                self._answers.append(buffer)
                break
            with memoryview(buffer) as view:  # a slice of the buffer itself would be a second copy
                self._answers.append(bytes(view[4:end]))
            del buffer[:end]
        self._wake()

    def _writable(self) -> None:
        try:
            sent = os.write(self._fd, self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self.loop.remove_writer(self._fd)

    def _lost(self) -> None:
        self.loop.remove_reader(self._fd)
        self.loop.remove_writer(self._fd)
        self._finalizer()
        if not self.gone.done():
            self.gone.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
