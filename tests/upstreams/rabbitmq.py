"""A real RabbitMQ with an epmd of its own: TLS on a second port, and users with fewer rights. Tests isolate by queue."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, certificates, fetch, free_port, listening

HOME = Path("/usr/lib/rabbitmq/bin")
HOSTILE = ("#", "@", "/", ":", "%", "%41", '"', "'", " ", "a b#c@d/e:f%g", "\\", "ünï🙂")
"""Passwords of the users h0, h1 …"""


class Rabbitmq(Server):
    """`app` may do everything in the virtual host `/`; `publisher`, `taker` and `nobody` may do what they are called."""

    account = "rabbitmq"
    ready_within_s = 60
    user = "app"

    def __init__(self) -> None:
        super().__init__()
        self.secret = secrets.token_urlsafe(12)
        self.password = '#x @y/z:%41 "q" pässword' + secrets.token_urlsafe(8)
        self.tls_port = free_port()
        self.management_port = free_port()
        self.management_tls_port = free_port()
        self.epmd_port = free_port()
        self.dist_port = free_port()
        self.epmd: subprocess.Popen[bytes] | None = None
        self._connections: list[Any] = []
        if not (HOME / "rabbitmq-server").exists():
            raise StartFailed("RabbitMQ is not installed; run: apt-get install rabbitmq-server (make test does it)")

    @property
    def ca(self) -> str:
        """The CA of the server's certificate, as PEM."""
        return certificates().ca

    def prepare(self) -> None:
        """Certificate, cookie and configuration that do not change with the port."""
        self.write("server.crt", certificates().cert)
        self.write("server.key", certificates().key)
        self.write("enabled_plugins", "[rabbitmq_management].")
        self.write("definitions.json", _definitions(self.password, self.secret))
        self.write(".erlang.cookie", secrets.token_hex(10).upper(), 0o400)

    def command(self) -> list[str]:
        """The script of the package's own folder: the one on the PATH switches users and reads /etc."""
        lines = [
            f"listeners.tcp.1 = {self.host}:{self.port}", f"listeners.ssl.1 = {self.host}:{self.tls_port}",
            f"ssl_options.certfile = {self.dir}/server.crt", f"ssl_options.keyfile = {self.dir}/server.key",
            "ssl_options.verify = verify_none", "management_agent.disable_metrics_collector = true",
            f"management.tcp.ip = {self.host}", f"management.tcp.port = {self.management_port}",
            f"management.ssl.ip = {self.host}", f"management.ssl.port = {self.management_tls_port}",
            f"management.ssl.certfile = {self.dir}/server.crt", f"management.ssl.keyfile = {self.dir}/server.key", f"load_definitions = {self.dir}/definitions.json",
            "disk_free_limit.absolute = 1MB", "log.file = false", "log.console = true", "log.console.level = warning",
        ]  # fmt: skip
        self.write("rabbitmq.conf", "\n".join(lines) + "\n")
        return [str(HOME / "rabbitmq-server")]

    def identity(self) -> dict[str, Any]:
        """A node that shares nothing with another on this machine."""
        base = super().identity()
        names = {
            "NODENAME": f"t{self.port}@localhost", "MNESIA_BASE": "mnesia", "LOG_BASE": "log", "PID_FILE": "pid",
            "CONFIG_FILE": "rabbitmq.conf", "ENABLED_PLUGINS_FILE": "enabled_plugins", "DIST_PORT": str(self.dist_port),
            "SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip
        paths = {"MNESIA_BASE", "LOG_BASE", "PID_FILE", "CONFIG_FILE", "ENABLED_PLUGINS_FILE"}
        env = {f"RABBITMQ_{name}": str(self.dir / value) if name in paths else value for name, value in names.items()}
        env |= {
            "RABBITMQ_CONF_ENV_FILE": "/dev/null", "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": self.host, "HOME": str(self.dir),
        }  # fmt: skip
        return {**base, "env": {**base["env"], **env}, "start_new_session": True}

    def launch(self) -> None:
        """Its own epmd first: else RabbitMQ leaves a daemon behind."""
        if self.epmd is None or self.epmd.poll() is not None:
            self.epmd_port = free_port()
            command = ["epmd", "-address", self.host, "-port", str(self.epmd_port), "-relaxed_command_check"]
            self.epmd = subprocess.Popen(
                command, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                **super().identity(),
            )  # fmt: skip
            deadline = time.monotonic() + 5
            while not listening(self.epmd_port) and time.monotonic() < deadline:
                time.sleep(0.02)
        super().launch()

    def ready(self) -> bool:
        """All ports accept; the listeners come up last, after users and queues."""
        ports = (self.port, self.tls_port, self.management_port, self.management_tls_port)
        return all(listening(port) for port in ports)

    def crash(self) -> None:
        """End the node with everything that it started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def freeze(self) -> None:
        """Stop it in the middle of what it does; connections stay open."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the node, then its epmd."""
        self.stop()
        self.crash()
        if self.epmd is not None:
            self.epmd.kill()
            self.epmd.wait()
        super().close()

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[Any]:
        """A channel of aio-pika's own, as `app`: the test's view that the product has no part in."""
        import aiormq
        from yarl import URL

        url = URL.build(
            scheme="amqp", host=self.host, port=self.port, user=self.user, password=self.password, path="//"
        )
        connection = await aiormq.connect(url)
        try:
            yield await connection.channel()
        finally:
            await connection.close()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The management API's answer to an administrator; quicker than `control`, which starts an Erlang node."""
        request = urllib.request.Request(
            f"http://{self.host}:{self.management_port}/api/{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"admin:" + self.secret.encode()).decode(),
                "Content-Type": "application/json",
            },
        )  # fmt: skip
        with fetch(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    @contextlib.contextmanager
    def fresh_user(self, *tags: str) -> Iterator[dict[str, str]]:
        """`username` and `password` of a user with these tags who may do anything in `/`; gone afterwards."""
        name, password = f"u-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
        self.api("PUT", f"users/{name}", {"password": password, "tags": ",".join(tags)})
        self.api("PUT", f"permissions/%2F/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
        try:
            yield {"username": name, "password": password}
        finally:
            self.api("DELETE", f"users/{name}")

    @contextlib.asynccontextmanager
    async def fresh_queue(self, name: str | None = None, **arguments: Any) -> AsyncIterator[str]:
        """The name of an empty durable queue, deleted at the end."""
        name = name or f"q-{secrets.token_hex(6)}"
        async with self.channel() as channel:
            await channel.queue_declare(name, durable=True, arguments=arguments)
        yield name
        async with self.channel() as channel:
            await channel.queue_delete(name)

    def control(self, *command: str) -> list[str]:
        """`rabbitmqctl`; the lines that it prints."""
        done = subprocess.run(
            [str(HOME / "rabbitmqctl"), "-q", *command], cwd=self.dir,
            capture_output=True, text=True, check=False, **self.identity(),
        )  # fmt: skip
        assert not done.returncode, done.stderr
        return done.stdout.splitlines()

    def connections(self) -> int:
        """How many TCP connections this machine has open to the node's AMQP ports."""
        return established(self.port) + established(self.tls_port)

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server; None leaves a field out."""
        fields = {
            "host": self.host, "port": self.port, "username": self.user, "password": self.password,
            "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


def established(port: int) -> int:
    """Connections in the state ESTABLISHED whose local side is that port: the server's own sockets."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


def _definitions(password: str, of_admin: str) -> str:
    def user(name: str, secret: str, tags: str = "") -> dict[str, Any]:
        return {"name": name, "password": secret, "tags": tags}

    def allow(name: str, configure: str, write: str, read: str) -> dict[str, Any]:
        return {"user": name, "vhost": "/", "configure": configure, "write": write, "read": read}

    return json.dumps({
        "users": [
            user("app", password), user("admin", of_admin, "administrator"),
            *(user(name, "pw") for name in ("publisher", "taker", "nobody", "outside")),
            *(user(f"h{number}", secret) for number, secret in enumerate(HOSTILE)),
        ],
        "vhosts": [{"name": "/"}],
        "permissions": [
            allow("app", ".*", ".*", ".*"), allow("publisher", "^$", ".*", "^$"), allow("taker", "^$", "^$", ".*"),
            *(allow(name, "^$", "^$", "^$") for name in ("nobody", *(f"h{n}" for n in range(len(HOSTILE))))),
        ],
    })  # fmt: skip


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Rabbitmq]:
    """The RabbitMQ server of the whole run; tests isolate themselves by queue."""
    server = Rabbitmq()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[Rabbitmq]:
    """A RabbitMQ server of one module's own, to crash and to restart."""
    server = Rabbitmq()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def queue(rabbitmq: Rabbitmq) -> AsyncIterator[str]:
    """An empty durable queue of the shared server."""
    async with rabbitmq.fresh_queue() as name:
        yield name
