"""The version before the newest migration beside the present one, on one PostgreSQL whose schema is the newest.

The former version is taken from the history of this repository: the commit before the one that added the newest
migration. A copy of the source that has no such history cannot run it, and then only says so.
"""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.test_backup import environment_of
from tests.servers import Postgres, fetch, free_port

from studio.store import migrations

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from studio.cli import main; main()"


def git(*arguments: str) -> bytes | None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def former(folder: Path) -> Path | None:
    """The source of the former version; None where the history does not have it."""
    newest = next(Path(migrations.__file__).parent.glob(f"versions/{migrations.HEAD}_*.py"))
    added = (git("log", "--diff-filter=A", "--format=%H", "--", str(newest.relative_to(ROOT))) or b"").decode().split()
    packed = git("archive", f"{added[-1]}^", "src") if added else None
    if packed is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def studio(source: Path, environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-c", PROGRAM, str(source), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Replica:
    """A server of one version, and a client with its key."""

    def __init__(self, base: str, key: str) -> None:
        self.base, self.key = base, key

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.base}/api/v1{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )  # fmt: skip
        with fetch(request, timeout=30) as answer:
            return json.loads(answer.read())

    def status(self, path: str) -> int:
        try:
            self.call("GET", path)
        except urllib.error.HTTPError as exc:
            return exc.code
        return 200


@contextmanager
def database(postgres: Postgres) -> Iterator[str]:
    """A database of the test's own; no event loop is at work here."""
    with asyncio.Runner() as runner:
        fresh = postgres.fresh_database()
        name = runner.run(fresh.__aenter__())
        yield name
        runner.run(fresh.__aexit__(None, None, None))


@contextmanager
def serving(source: Path, environment: dict[str, str], key: str) -> Iterator[Replica]:
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, str(source), "serve", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            try:
                fetch(f"http://127.0.0.1:{port}/readyz", timeout=5).read()
                break
            except OSError:
                assert time.monotonic() < deadline, "it does not become ready"
                time.sleep(0.05)
        yield Replica(f"http://127.0.0.1:{port}", key)
    finally:
        process.terminate()
        _, said = process.communicate()
    assert b"Traceback" not in said, said.decode()


def works(one: Replica, other: Replica, name: str) -> None:
    """Everything that a replica writes is what the other reads, and goes on with."""
    config = {"connector_type": "database", "provider": "sqlite", "config": {"path": "shop.db"}}
    before = other.call("GET", "/connectors?provider=sqlite")["total"]
    made = one.call("POST", "/connectors", {"name": name, **config})["id"]
    assert other.call("GET", f"/connectors/{made}")["name"] == name
    assert other.call("GET", "/connectors?provider=sqlite")["total"] == before + 1
    changed = other.call("PUT", f"/connectors/{made}", {"name": f"{name}-2", "config": {"max_rows": 7}})
    assert (one.call("GET", f"/connectors/{made}")["config"]["max_rows"], changed["name"]) == (7, f"{name}-2")
    instance = one.call("POST", f"/connectors/{made}/attach", {"agent_id": "agent-1", "alias": f"{name}-db"})
    for each in (one, other):
        found = each.call("POST", f"/agents/agent-1/connectors/{name}-db/query", {"query": "SELECT 1 AS one"})
        assert found["data"] == [{"one": 1}]
        assert each.call("POST", f"/connectors/{made}/test")["success"]
    for status in ("inactive", "active"):
        one.call("PUT", f"/connectors/{made}", {"status": status})
        assert other.call("GET", f"/connectors/{made}")["status"] == status
    other.call("DELETE", f"/connectors/instances/{instance['id']}")
    assert one.call("GET", "/agents/agent-1/connectors")["records"] == []
    one.call("DELETE", f"/connectors/{made}")
    assert other.status(f"/connectors/{made}") == 404


@pytest.mark.timeout(300)
def test_replicas_of_the_former_version_work_beside_ours_on_the_newest_schema(
    postgres: Postgres, tmp_path: Path
) -> None:
    old, new = former(tmp_path / "former"), ROOT / "src"
    if old is None:
        assert not (ROOT / ".git").exists() or (git("rev-parse", "--is-shallow-repository") or b"").strip() == b"true"
        return  # this copy of the source has no history to take the former version from
    with database(postgres) as name:
        environment = environment_of(postgres, name, tmp_path / "service")
        environment["STUDIO_ENCRYPTION_KEYS"] = studio(old, environment, "encryption", "new-key").strip()
        environment["STUDIO_HEALTH_INTERVAL_S"] = "1"
        studio(old, environment, "db", "upgrade")
        created = studio(old, environment, "keys", "create", "--organization", "acme", "--role", "admin", "--json")
        key = json.loads(created)["key"]
        with serving(old, environment, key) as before:
            kept = before.call("POST", "/connectors", {
                "name": "Kept", "connector_type": "database", "provider": "sqlite", "config": {"path": "shop.db"},
            })  # fmt: skip
            studio(new, environment, "db", "upgrade")
            with serving(new, environment, key) as after:
                works(before, after, "by-the-former")
                works(after, before, "by-ours")
                assert after.call("GET", f"/connectors/{kept['id']}") == before.call("GET", f"/connectors/{kept['id']}")
                deadline = time.monotonic() + 30
                while after.call("GET", f"/connectors/{kept['id']}/health")["health"] != "healthy":
                    assert time.monotonic() < deadline, "nobody probes it"
                    time.sleep(0.2)
        assert "whole" in studio(new, environment, "audit", "verify", "--organization", "acme")
