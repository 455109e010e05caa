"""What lies around the process of the service reaches nobody: not by a driver, and not by the program's own doing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import poison
from tests.attack.conftest import KINDS, NETWORKED
from tests.attack.report import report
from tests.attack.sink import Sink, answer, sink

from studio.security import hygiene

MARK = "p01s0n"
ROOT = Path(__file__).parents[2]


@dataclass
class Poisoned:
    """A home and an environment full of canaries, and the servers that watch."""

    home: Path
    environment: dict[str, str]
    trap: Sink
    sinks: dict[str, Sink]

    async def probe(self, mode: str) -> Any:
        """Run the probe here; what it says."""
        ports = json.dumps({kind: found.port for kind, found in self.sinks.items()} | {"sqlite": 1})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.attack.probe", mode, ports, cwd=ROOT, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    def seen(self) -> list[str]:
        """Which canaries any server was sent."""
        took = b"".join(bytes(found.seen) for found in [self.trap, *self.sinks.values()])
        return re.findall(rf"{MARK}-\w+", took.decode("utf-8", "replace"))


@pytest.fixture
async def poisoned(tmp_path: Path) -> AsyncIterator[Poisoned]:
    home = tmp_path / "home"
    async with AsyncExitStack() as stack:
        trap = await stack.enter_async_context(sink(http=answer(poison.CREDENTIALS)))
        variables = poison.plant(home, trap.port, MARK)
        kept = {"PATH": os.environ["PATH"], "STUDIO_DATA_DIR": str(tmp_path / "data")}
        sinks = {kind: await stack.enter_async_context(sink(kind)) for kind in NETWORKED}
        yield Poisoned(home, {**variables, **kept}, trap, sinks)


@pytest.mark.parametrize("mode", ["library", "program"])
async def test_no_ambient_credential_reaches_an_upstream(poisoned: Poisoned, mode: str) -> None:
    """As a library nothing is cleaned: then every driver must have been told each field."""
    said = await poisoned.probe(mode)
    strayed = [
        address for address in said["dialled"]
        if not isinstance(address, list) or address[1] not in {found.port for found in poisoned.sinks.values()}
    ]  # fmt: skip
    # aiohttp makes a context that nobody uses when it is imported, and that opens SSLKEYLOGFILE.
    read = [path for path in said["opened"] if not path.endswith(("openssl.cnf", "keys.log"))]
    caught = len(poisoned.seen()) + poisoned.trap.connections + len(strayed) + len(read)
    for kind in KINDS:
        report.count("ambient", kind, planted=0)
    report.count("ambient", "postgresql", planted=poison.PLANTED, seen=caught)
    assert (poisoned.seen(), poisoned.trap.connections, strayed, read) == ([], 0, [], [])
    assert all(found.connections for found in poisoned.sinks.values()), said["codes"]
    if mode == "program":
        assert MARK not in said["environ"]
        assert not [name for name in said["now"] if hygiene.AMBIENT.fullmatch(name) and name not in hygiene.NO_METADATA]
        assert os.listdir(said["now"]["HOME"]) == []
        assert said["opened"] == []


async def test_a_driver_left_to_itself_sends_what_it_finds_and_after_a_clean_start_finds_nothing(
    poisoned: Poisoned,
) -> None:
    """The control: the poison works, and the clean start is what takes it away."""
    said = await poisoned.probe("driver")
    assert f"{MARK}-pguser" in poisoned.seen()
    assert MARK in said["codes"]["aws"]
    poisoned.sinks["postgresql"].seen.clear()
    said = await poisoned.probe("clean-driver")
    assert said["codes"] == {"aws": ""}
    assert poisoned.seen() == []


# -- the program ----------------------------------------------------------------------------------


def studio(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program, in a process of its own."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "studio"), *arguments], capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "STUDIO_DATA_DIR": str(folder / "data"), **environment},
    )  # fmt: skip


def test_a_server_keeps_no_secret_in_its_environment_and_leaves_no_core(tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    key = Fernet.generate_key().decode()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "STUDIO_DATA_DIR": str(tmp_path / "data"),
        "STUDIO_ENCRYPTION_KEYS": key, "PGPASSWORD": f"{MARK}-pg", "https_proxy": f"http://{MARK}",
    }  # fmt: skip
    program = [str(Path(sys.executable).parent / "studio"), "serve", "--port", "0", "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as server:
        try:
            assert server.stdout is not None
            assert json.loads(server.stdout.readline())["url"]
            process = Path(f"/proc/{server.pid}")
            environ = (process / "environ").read_bytes()
            assert b"STUDIO_DATA_DIR=" in environ
            assert key.encode() not in environ
            assert MARK.encode() not in environ
            assert re.search(r"Max core file size\s+0\s+0", (process / "limits").read_text())
            assert key.encode() not in (process / "cmdline").read_bytes()
        finally:
            server.terminate()


def test_a_home_that_holds_something_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "data" / "empty").mkdir(parents=True)
    (tmp_path / "data" / "empty" / ".netrc").write_text("machine a password b")
    done = studio(tmp_path, "connectors", "list")
    assert done.returncode
    assert "must be an empty folder" in done.stderr


def test_a_manifest_may_still_name_a_variable_that_was_dropped(tmp_path: Path) -> None:
    wanted = {
        "name": "db", "provider": "postgresql",
        "config": {"host": "h", "database": "d", "username": "u", "password": {"from_env": "PGPASSWORD"}},
    }  # fmt: skip
    (tmp_path / "it.yaml").write_text(json.dumps({"connectors": [wanted]}))
    done = studio(tmp_path, "apply", str(tmp_path / "it.yaml"), PGPASSWORD="wanted")
    assert done.returncode == 0, done.stderr


def test_as_a_function_the_command_line_leaves_the_process_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studio.cli import run

    monkeypatch.setenv("STUDIO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PGPASSWORD", "mine")
    assert run(["connectors", "list"]) == 0
    assert os.environ["PGPASSWORD"] == "mine"
    assert not (tmp_path / "empty").exists()


# -- the second belt ------------------------------------------------------------------------------

BELT = """
import asyncio, socket, sys
from studio.security import belt
from studio import loop
from studio.security.egress import Egress
from studio.errors import EgressDenied

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
belt.fasten(Egress(private_open=False), [("localhost", port)] if sys.argv[1] == "own" else [])

def outcome(work):
    try:
        work()
        return "dialled"
    except EgressDenied:
        return "denied"

async def by_asyncio():
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()

async def by_a_unix_socket():
    await asyncio.open_unix_connection("/tmp/nobody")

async def by_datagrams():
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
    )
    transport.close()

def by_name():
    socket.socket().connect(("localhost", port))

print(outcome(lambda: socket.create_connection(("127.0.0.1", port)).close()), outcome(lambda: asyncio.run(by_asyncio())),
      outcome(lambda: socket.socket().connect_ex(("127.0.0.1", port))), outcome(by_name),
      outcome(lambda: socket.socket(socket.AF_UNIX).connect("/tmp/nobody")),
      outcome(lambda: socket.socket().connect_ex(("169.254.169.254", 80))),
      *(outcome(lambda: loop.run(way())) for way in (by_asyncio, by_a_unix_socket, by_datagrams)))
"""


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("none", "denied denied denied denied denied denied" + " denied denied denied"),
        ("own", "dialled dialled dialled denied denied denied" + " dialled denied dialled"),
    ],
)
def test_a_socket_opened_behind_the_gates_back_is_judged_all_the_same(own: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BELT, own], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == expected, done.stderr
