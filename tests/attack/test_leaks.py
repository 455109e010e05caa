"""A canary for each provider and secret field; every byte that leaves the service is searched for all of them.

The service is the real program, with everything at its most talkative. What it writes, answers, logs and
keeps is searched for each canary as it is and in five encodings.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from tests.attack import corpus
from tests.attack.conftest import KINDS, Target
from tests.attack.report import report
from tests.attack.sink import sink

from studio import providers

PROGRAM = str(Path(sys.executable).parent / "studio")


def canary(kind: str, number: int) -> str:
    """One that each encoding changes."""
    return f"c4n4ry/{kind}+{number}&?=\\ü"


def spellings(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield quote(secret, safe="").encode()
    yield raw.hex().encode()
    yield secret.encode("utf-16-le")
    for before in range(3):
        yield base64.b64encode(b"\0" * before + raw)[4 if before else 0 : (before + len(raw)) // 3 * 4]


@dataclass
class Leaks:
    """All canaries, and what was searched."""

    needles: dict[bytes, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def plant(self, tree: Any, kind: str, seen: list[str]) -> Any:
        """Put a canary of its own where `$SECRET` stands; keys in PEM are known by one of their lines."""
        if isinstance(tree, dict):
            return {key: self.plant(value, kind, seen) for key, value in tree.items()}
        if not isinstance(tree, str) or "$" not in tree:
            return tree
        if tree == "$PEM":
            self._watch(f"{kind} key", corpus.pem().splitlines()[5])
            return corpus.pem()
        # A header cannot hold every character, and a token in a URL neither.
        secret = canary(kind, len(seen)) if "headers" not in seen else ""
        secret = secret if tree == "$SECRET" else f"c4n4ry-{kind}-{len(seen)}-abcdefghij"
        seen.append(secret)
        self._watch(f"{kind} {len(seen)}", secret)
        return tree.replace("$SECRET", secret)

    def _watch(self, name: str, secret: str) -> None:
        self.needles.update(dict.fromkeys(spellings(secret), name))

    def search(self, place: str, content: bytes) -> None:
        """Look for every canary in what left."""
        hits = [f"{name} in {place}" for needle, name in self.needles.items() if needle in content]
        self.found += hits
        report.count("leaks", place, bytes=len(content), canaries=0, found=len(hits))


def plain(tree: Any) -> Any:
    """The same with canaries that a header may hold."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return re.sub(r"c4n4ry/(\w+)\+(\d+).*", r"c4n4ry-\1-\2-abcdefghij", tree) if isinstance(tree, str) else tree


@dataclass
class Served:
    """The program, serving on everything that talks."""

    url: str
    key: str
    folder: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "STUDIO_DATA_DIR": str(tmp_path / "data"), "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONASYNCIODEBUG": "1",
    }  # fmt: skip
    (tmp_path / "tmp").mkdir()
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(  # noqa: ASYNC220 - a moment
        [PROGRAM, "serve", "--port", "0", "--json", "--log-level", "debug"],
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
    )
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    said = json.loads(line)
    yield Served(said["url"], said["first_key"], tmp_path, process, environment)
    process.terminate()
    process.wait(20)
    process.stdout.close()
    log.close()


async def test_no_canary_leaves_the_service_in_any_spelling(served: Served) -> None:  # noqa: C901 - one story
    leaks = Leaks()
    connectors: dict[str, str] = {}
    async with aiohttp.ClientSession(served.url, headers={"Authorization": f"Bearer {served.key}"}) as http:

        async def call(method: str, path: str, body: Any = None) -> Any:
            async with http.request(method, path, json=body) as reply:
                content = await reply.read()
                leaks.search("HTTP answers", content + str(reply.raw_headers).encode())
                return json.loads(content) if "json" in reply.headers.get("content-type", "") else None

        async with sink("redis", reply=b"-ERR no such command\r\n") as upstream:
            for kind in KINDS:
                described = corpus.read("kinds")[kind]
                secrets = leaks.plant(described["secrets"], kind, [])
                if "http" in str(described["config"]):
                    secrets = plain(secrets)
                    for piece in re.findall(r"c4n4ry[-\w]+", json.dumps(secrets)):
                        leaks._watch(f"{kind} header", piece)
                config = corpus.config(kind, "127.0.0.1", upstream.port) | {"connect_timeout_s": 0.3, "timeout_s": 1.0}
                family = providers.load(kind).family
                base = {"name": kind, "connector_type": family, "provider": kind}
                made = await call("POST", "/api/v1/connectors", {**base, "config": {**config, **secrets}})
                assert "id" in made, (kind, made)
                connectors[kind] = made["id"]
                path = f"/api/v1/connectors/{made['id']}"
                # malformed: the secret stands where none belongs, and is repeated by no refusal
                for wrong in (secrets, {"name": secrets}, {**base, "config": {**config, **secrets, "nope": secrets}},
                              {**base, "name": 7, "config": [secrets]}, {**base, "config": {**config, "port": json.dumps(secrets)}}):  # fmt: skip
                    await call("POST", "/api/v1/connectors", wrong)
                    await call("PUT", path, wrong)
                await call("POST", f"{path}/test")
                await call("POST", f"{path}/query", {"query": described["query"]})
                await call("POST", f"{path}/query", {"query": json.dumps(secrets)})
                await call("POST", f"{path}/attach", {"agent_id": "agent", "alias": kind})
                await call("POST", f"/api/v1/agents/agent/connectors/{kind}/query", {"query": described["query"]})
                await call("PUT", path, {"config": secrets})
                for tail in ("", "/operations"):
                    await call("GET", path + tail)
                arguments = {"alias": kind, "operation": "list", "arguments": secrets}
                await call("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "run", "arguments": arguments}})  # fmt: skip
        for path in ("/api/v1/connectors", "/api/v1/agents/agent/connectors", "/api/v1/connectors/types", "/api/v1/audit",
                     "/metrics", "/api/v1/metrics", "/api/v1/openapi.json", "/health"):  # fmt: skip
            await call("GET", path)
    for name in ("environ", "cmdline"):
        leaks.search(
            f"the process's {name}", await asyncio.to_thread(Path(f"/proc/{served.process.pid}/{name}").read_bytes)
        )
    for kind, connector_id in connectors.items():
        if kind not in {"postgresql", "rest"}:
            continue
        for arguments in (
            ["connectors", "get", connector_id, "--json"],
            ["connectors", "list", "--json"],
            ["connectors", "test", kind],
        ):
            done = await asyncio.to_thread(
                subprocess.run, [PROGRAM, *arguments], capture_output=True, env=served.environment, check=False
            )
            leaks.search("the command line", done.stdout + done.stderr)
    for path in (path for path in served.folder.rglob("*") if path.is_file()):
        place = (
            "the log at DEBUG"
            if path.name == "log"
            else "files of the store"
            if "studio.db" in path.name
            else "other files"
        )
        leaks.search(place, path.read_bytes())
    report.count("leaks", "HTTP answers", canaries=len(set(leaks.needles.values())))
    assert not leaks.found, sorted(set(leaks.found))
    assert len(connectors) == len(KINDS)
    assert (served.folder / "data" / "studio.db-wal").exists()
    assert (served.folder / "log").stat().st_size > 1000


def test_the_search_finds_a_canary_in_every_encoding() -> None:
    """The control."""
    for number, spelled in enumerate(spellings(canary("x", 1))):
        leaks = Leaks()
        leaks._watch("x", canary("x", 1))
        before = len(leaks.found)
        hits = [name for needle, name in leaks.needles.items() if needle in b"before" + spelled + b"after"]
        assert hits, number
        assert before == 0


async def test_a_process_that_logs_everything_logs_no_session_token(
    local: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """As a library we do not choose the levels; botocore would write the token at DEBUG."""
    caplog.set_level("DEBUG")
    async with sink("s3") as upstream:
        made = await local.create("s3", corpus.config("s3", "127.0.0.1", upstream.port, "c4n4ry-abcdefgh"))
        await local.service.test_connection(made)
        assert b"c4n4ry" in upstream.seen
    assert "c4n4ry" not in caplog.text
