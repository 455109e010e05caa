"""Starts the real servers that the tests talk to: one small class a kind, each on a free loopback port.

A server that cannot be found or started fails the run; nothing here skips. Adding a kind means a
subclass of `Server` with `command`, `ready` and, where it needs them, `prepare` and the signals.
Drivers are imported inside methods, so that importing this file needs none.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

from tests import poison

fetch = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""`urlopen` that asks no proxy of the environment."""
TRIES = 3
"""A port found free can be taken before the server binds it, so a start is tried again."""


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Certificates:
    """A throw-away CA and a server certificate for `localhost`, `127.0.0.1` and `::1`, all as PEM text."""

    def __init__(self) -> None:
        import trustme

        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1", "::1")
        self.authority = authority
        self.ca = authority.cert_pem.bytes().decode()
        self.cert = b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode()
        self.key = issued.private_key_pem.bytes().decode()


@functools.cache
def certificates() -> Certificates:
    """The one CA of this test run."""
    return Certificates()


class StartFailed(Exception):
    """The server did not come up; the message ends with the tail of its output."""


class Server:
    """A child process with its own folder and port. It ends with this process, whatever happens."""

    account: ClassVar[str | None] = None
    """The user that root drops to, for servers that refuse to run as root."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    crash_signal: ClassVar[signal.Signals] = signal.SIGKILL
    ready_within_s: ClassVar[float] = 30
    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        # Not pytest's tmp_path: that is 0700 of root, and a server that dropped its rights must enter.
        self.dir = Path(tempfile.mkdtemp(prefix=f"studio-{type(self).__name__.lower()}-"))
        self.dir.chmod(0o755)
        if self.drops:
            shutil.chown(self.dir, self.account, self.account)

    # -- what a kind fills in ---------------------------------------------------------------------

    def prepare(self) -> None:
        """Once, before the first start."""

    def command(self) -> list[str]:
        """The command line of the server in the foreground."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers."""
        return listening(self.port)

    # -- what all share ---------------------------------------------------------------------------

    @property
    def drops(self) -> bool:
        """Whether the children run as another user than this process."""
        return self.account is not None and os.geteuid() == 0

    def start(self) -> Server:
        """Prepare and start, on another port if the first one was taken.

        Raises:
            StartFailed: with the tail of the server's output.
        """
        atexit.register(self.close)
        self.prepare()
        for left in reversed(range(TRIES)):
            try:
                self.launch()
                break
            except StartFailed:
                if not left:
                    raise
                self.port = free_port()
        return self

    def launch(self) -> None:
        """Start the process on the present port and wait until it answers."""
        with (self.dir / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(), cwd=self.dir, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                preexec_fn=_end_with_parent, **self.identity(),
            )  # fmt: skip
        deadline = time.monotonic() + self.ready_within_s
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(self.crash_signal)
                raise StartFailed(f"{type(self).__name__} did not start:\n{self.tail()}")
            time.sleep(0.02)

    def run(self, *command: str) -> None:
        """A helper program of the server, in its folder and as its user."""
        done = subprocess.run(command, cwd=self.dir, capture_output=True, text=True, check=False, **self.identity())
        if done.returncode:
            raise StartFailed(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def identity(self) -> dict[str, Any]:
        """Arguments for subprocess that drop root's rights where that is asked."""
        if not self.drops:
            return {"env": _environment()}
        entry = pwd.getpwnam(str(self.account))
        return {"env": _environment(), "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """A file in the server's folder that belongs to the server's user."""
        path = self.dir / name
        path.write_text(text)
        path.chmod(mode)
        if self.drops:
            shutil.chown(path, self.account, self.account)
        return path

    def tail(self) -> str:
        """The end of the server's output."""
        return self._output()[-4000:].decode(errors="replace") or "(no output)"

    def _output(self) -> bytes:
        path = self.dir / "output"
        return path.read_bytes() if path.exists() else b""

    def stop(self, how: signal.Signals | None = None) -> None:
        """End the process and wait for it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(how or self.stop_signal)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def crash(self) -> None:
        """End the process the way a power cut would."""
        self.stop(self.crash_signal)

    def restart(self) -> None:
        """Start again on the same port with the same data."""
        self.stop()
        self.launch()

    def close(self) -> None:
        """Stop and remove everything."""
        atexit.unregister(self.close)
        self.stop()
        poison.search(f"{type(self).__name__}'s log", self._output())
        shutil.rmtree(self.dir, ignore_errors=True)


def _environment() -> dict[str, str]:
    """What a server needs of ours: nothing that a client library would pick up."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/nonexistent"}


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


EMPTY_DATABASE = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
DO $$ DECLARE name name; BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO public;
END $$;
"""
"""Leaves a database as CREATE DATABASE makes it."""


class Postgres(Server):
    """PostgreSQL with TLS on, SCRAM passwords and a superuser; no durability, for speed."""

    account = "postgres"
    stop_signal = signal.SIGINT  # "fast": open sessions are cut
    crash_signal = signal.SIGQUIT  # "immediate": no shutdown work at all
    user = "app"
    database = "app"

    def __init__(self) -> None:
        super().__init__()
        self.password = secrets.token_urlsafe(16)
        self._empty: list[str] = []
        self.bin = postgres_programs()

    @property
    def ca(self) -> str:
        """The CA of the server's certificate, as PEM."""
        return certificates().ca

    def prepare(self) -> None:
        """Make the cluster, its certificate and the first database."""
        secret = self.write("password", self.password)
        data = str(self.dir / "data")
        self.run(
            str(self.bin / "initdb"), "-D", data, "-U", self.user, "--pwfile", str(secret), "-A", "scram-sha-256",
            "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions",
        )  # fmt: skip
        secret.unlink()
        self.write("data/server.crt", certificates().cert)
        self.write("data/server.key", certificates().key)
        # The first database is made without a running server and without a driver.
        self.write("create.sql", f"CREATE DATABASE {self.database};\n")
        single = [str(self.bin / "postgres"), "--single", "-D", data, "template1"]
        with (self.dir / "create.sql").open() as script:
            done = subprocess.run(single, stdin=script, capture_output=True, cwd=self.dir, **self.identity())
        if done.returncode:
            raise StartFailed(f"the first database was not made:\n{done.stderr.decode()}")

    def command(self) -> list[str]:
        """`postgres` in the foreground."""
        settings = {
            "listen_addresses": self.host, "port": str(self.port), "unix_socket_directories": str(self.dir),
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200",
            "shared_buffers": "32MB", "ssl": "on", "log_min_messages": "fatal",
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.dir / "data"), *options]

    def ready(self) -> bool:
        """Ask `pg_isready`: the port alone accepts before the server does."""
        ask = [str(self.bin / "pg_isready"), "-h", self.host, "-p", str(self.port), "-q"]
        return subprocess.run(ask, check=False, env=_environment()).returncode == 0

    async def admin(self, database: str | None = None) -> Any:
        """A plain asyncpg connection as the superuser; the caller closes it."""
        import asyncpg

        return await asyncpg.connect(
            host=self.host, port=self.port, user=self.user, password=self.password,
            database=database or self.database, ssl=False,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[str]:
        """The name of an empty database. At the end it is emptied for the next test, whoever is still connected.

        Making and dropping one costs half a second on a busy machine, emptying it a few milliseconds.
        """
        name = self._empty.pop() if self._empty else await self._create_database()
        try:
            yield name
        finally:
            await self._empty_database(name)
            self._empty.append(name)

    async def _create_database(self) -> str:
        name = f"test_{secrets.token_hex(6)}"
        admin = await self.admin()
        try:
            await admin.execute(f"CREATE DATABASE {name}")
        finally:
            await admin.close()
        return name

    async def _empty_database(self, name: str) -> None:
        admin = await self.admin(name)
        try:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(EMPTY_DATABASE)
            await admin.execute(f"ALTER DATABASE {name} RESET ALL")
        finally:
            await admin.close()

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server, with some fields changed; None leaves one out."""
        fields = {
            "host": self.host, "port": self.port, "database": self.database, "username": self.user,
            "password": self.password, "ssl": False, "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


def postgres_programs() -> Path:
    """The folder that holds `initdb`; Debian keeps it off the PATH.

    Raises:
        StartFailed: PostgreSQL is not installed, with what to do about it.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program is None:
        raise StartFailed("PostgreSQL is not installed; run: apt-get install postgresql-15 (make test does it)")
    return Path(program).resolve().parent
