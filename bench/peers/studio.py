"""Studio as a contender: `studio serve` as anybody starts it, a key that belongs to an agent, a connector, an alias."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from bench.peers.contenders import SQL, Contender, Request, Work, call_tool
from bench.peers.upstream import Events

POOL = 16
RATES = {"STUDIO_RATE_LIMIT_PER_S": "1000000", "STUDIO_ORGANIZATION_RATE_LIMIT_PER_S": "1000000"}
"""The rates are counted all the same; one agent asks for as much here as a thousand do elsewhere."""
EVERYTHING = {"max_rows": 2_000_000, "max_bytes": 1 << 30, "timeout_s": 60.0, "pool_size": POOL}


class Studio(Contender):
    """All guards on, one key, one connector; `store` is the URL of the metadata database, SQLite's without one."""

    def __init__(self, upstream: Events, name: str = "Studio", *, workers: int = 1, store: str | None = None) -> None:
        super().__init__(upstream)
        self.name, self._workers, self._store = name, workers, store
        self.key = ""
        self.admin = ""

    def environment(self) -> dict[str, str]:
        found = {"STUDIO_DATA_DIR": str(self.dir), "STUDIO_MAX_SESSIONS": "2000", **RATES}
        if self._store is not None:
            found["STUDIO_DATABASE_URL"] = self._store
        return found

    def command(self) -> list[str]:
        more = ["--workers", str(self._workers)] if self._workers > 1 else []
        studio = str(Path(sys.executable).with_name("studio"))
        return [studio, "serve", "--port", str(self.port), "--json", "--log-level", "warning", *more]

    def prepare(self) -> None:
        if self._store is not None:
            self.run(str(Path(sys.executable).with_name("studio")), "db", "upgrade")

    def ready(self) -> bool:
        return (self.dir / "output").read_text().startswith("{") and super().ready()

    def start(self) -> Studio:
        super().start()
        self.admin = json.loads((self.dir / "output").read_text().splitlines()[0])["first_key"]
        self.attach("events", "bench")
        self.key = self.call("POST", "/keys", {"agent_id": "bench", "name": "bench"})["key"]
        return self

    def attach(self, name: str, agent: str) -> str:
        """A connector to the upstream, attached to an agent under its own name; its id."""
        config = {
            "host": self.upstream.host, "port": self.upstream.port, "database": self.upstream.database,
            "username": self.upstream.user, "password": self.upstream.password, "ssl": False, **EVERYTHING,
        }  # fmt: skip
        made = self.call(
            "POST", "/connectors",
            {"name": name, "connector_type": "database", "provider": "postgresql", "config": config},
        )  # fmt: skip
        self.call("POST", f"/connectors/{made['id']}/attach", {"agent_id": agent, "alias": name})
        return str(made["id"])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the management API."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v1{path}", json.dumps(body).encode(),
            {"authorization": f"Bearer {self.admin}", "content-type": "application/json"}, method=method,
        )  # fmt: skip
        with urllib.request.urlopen(asked) as answer:
            return json.loads(answer.read())

    def request(self, work: Work) -> Request | None:
        headers = (f"authorization: Bearer {self.key}",)
        path = "/api/v1/agents/bench/connectors/events/query"
        if work.over == "adhoc":
            return Request(path, json.dumps({"query": SQL.format(id="@id", n=work.rows) + " -- @tag"}), headers)
        body = json.dumps({"query": SQL.format(id=":id", n=":n"), "params": {"id": "@id", "n": work.rows}})
        body = body.replace('"@id"', "@id")
        if work.over == "mcp":  # its answers have a budget for a model's sake, which 100 rows would not fit
            call = f'{{"alias": "events", "max_tokens": 1000000, {body[1:]}'
            return Request("/mcp", call_tool("run", call), headers)
        return Request(path, body, headers)
