"""httpbin under gunicorn, from the servers' own virtual environment."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed

PROGRAMS = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin"


class Httpbin(Server):
    """An HTTP server that shows what it was sent."""

    def command(self) -> list[str]:
        """gunicorn with threads, so that slow calls do not hold up quick ones."""
        program = PROGRAMS / "gunicorn"
        if not program.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        return [
            str(program), "httpbin:app", "-b", f"{self.host}:{self.port}", "-k", "gthread", "--threads", "32",
            "--keep-alive", "60", "--graceful-timeout", "1", "--log-level", "warning", "--worker-tmp-dir", str(self.dir),
        ]  # fmt: skip

    def stop(self, how: signal.Signals | None = None) -> None:
        """End gunicorn; a crash takes its worker too, and second: it would be replaced otherwise."""
        workers: list[str] = []
        if how is self.crash_signal and self.process is not None and self.process.poll() is None:
            workers = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        super().stop(how)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGKILL)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server."""
        return {"base_url": self.url, "health_path": "/status/200", **changes}


def _running() -> Iterator[Httpbin]:
    server = Httpbin()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def httpbin() -> Iterator[Httpbin]:
    """The httpbin of the whole run; it keeps no state."""
    yield from _running()


@pytest.fixture
def own_httpbin() -> Iterator[Httpbin]:
    """One of a test's own, to kill and restart."""
    yield from _running()
