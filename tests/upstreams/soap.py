"""A SOAP service made with spyne under gunicorn, from the servers' own virtual environment."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, certificates, fetch

PROGRAMS = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin"
SCRIPT = Path(__file__).with_name("soap_app.py")


class SoapService(Server):
    """An address book in SOAP 1.1 and 1.2, with and without WS-Security: see `soap_app.py`."""

    user = "us@er"

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.password = 'p#ss@/:%" <&>ä' + secrets.token_urlsafe(8)
        self.tls = tls

    def prepare(self) -> None:
        """The program in a folder of its own, where no module of ours stands in the way of another."""
        shutil.copy(SCRIPT, self.dir / "soap_app.py")
        self.write("password", self.password)
        if self.tls:
            self.write("cert.pem", certificates().cert)
            self.write("key.pem", certificates().key)

    def command(self) -> list[str]:
        """gunicorn with threads, so that slow calls do not hold up quick ones."""
        program = PROGRAMS / "gunicorn"
        if not program.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        return [
            str(program), "soap_app:app", "--chdir", str(self.dir), "-b", f"{self.host}:{self.port}", "-k", "gthread",
            "--threads", "32", "--keep-alive", "60", "--graceful-timeout", "1", "--log-level", "warning",
            "--worker-tmp-dir", str(self.dir), *(["--certfile", "cert.pem", "--keyfile", "key.pem"] if self.tls else []),
        ]  # fmt: skip

    def url(self, path: str = "soap11") -> str:
        """The address of one of its ports."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/{path}"

    def config(self, path: str = "soap11", **changes: Any) -> dict[str, Any]:
        """A connector's configuration for a port."""
        return {
            "wsdl_url": self.url(path) + "?wsdl",
            "read_operations": ["version", "add", "echo", "same", "users"],
            **changes,
        }

    def wsse(self, how: str, **changes: Any) -> dict[str, Any]:
        """The auth of a port that wants a token."""
        return {"type": "wsse", "username": self.user, "password": self.password, "password_type": how, **changes}

    def wsdl(self, path: str = "soap11") -> str:
        """The WSDL of a port, as text."""
        with fetch(self.url(path) + "?wsdl", timeout=5) as answer:
            return answer.read().decode()

    def state(self) -> dict[str, Any]:
        """What the service holds, seen past SOAP."""
        with fetch(f"http://{self.host}:{self.port}/state", timeout=5) as answer:
            seen: dict[str, Any] = json.load(answer)
        return seen


def _running(**options: Any) -> Iterator[SoapService]:
    server = SoapService(**options)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def soap_service() -> Iterator[SoapService]:
    """The SOAP service of the whole run."""
    yield from _running()


@pytest.fixture(scope="session")
def soap_tls() -> Iterator[SoapService]:
    """The same over TLS."""
    yield from _running(tls=True)


@pytest.fixture
def own_soap() -> Iterator[SoapService]:
    """One of a test's own, to kill and restart."""
    yield from _running()
