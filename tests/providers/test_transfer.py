"""Objects of any size over HTTP: a real server of ours, a real object store behind it, constant memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest
import uvicorn
from tests.upstreams.seaweedfs import Seaweedfs

from studio.app import Application
from studio.server import listen
from studio.settings import Settings

pytestmark = pytest.mark.server
MIB = 1 << 20
CHUNK = bytes(range(256)) * 4096
BYTES = {"content-type": "application/octet-stream"}


@asynccontextmanager
async def served(tmp_path: Path, config: dict[str, Any]) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose base is the alias `files` of a writable connector."""
    application = Application(Settings(data_dir=tmp_path / "studio"))
    service = application.service
    made = await service.create(
        {
            "organization_id": "default",
            "name": "files",
            "connector_type": "storage",
            "provider": "s3",
            "config": {**config, "read_only": False},
        }
    )
    await service.attach_to_agent(made["id"], "agent-1", "files")
    await service.attach_to_agent(made["id"], "agent-1", "reading", {"read_only": True})
    key = (await service.create_key({"organization_id": "default", "agent_id": "agent-1"}))["key"]
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn tells by an attribute
        await asyncio.sleep(0.01)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/agents/agent-1/connectors/"
    try:
        async with aiohttp.ClientSession(base, headers={"authorization": f"Bearer {key}"}) as http:
            yield http
    finally:
        server.should_exit = True
        await running


def put(key: str, **more: Any) -> str:
    return "files/operations/put?arguments=" + quote(json.dumps({"key": key, **more}), safe="")


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield CHUNK


async def test_256_mib_go_in_and_out_in_constant_memory(tmp_path: Path, seaweedfs: Seaweedfs) -> None:
    async with served(tmp_path, seaweedfs.config(prefix=f"{uuid4()}/")) as http:
        async with http.post(put("warm"), data=chunks(4), headers=BYTES) as answer:
            assert answer.status == 200, await answer.text()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with http.post(put("big.bin"), data=chunks(256), headers=BYTES) as answer:
            assert answer.status == 200, await answer.text()
            assert (await answer.json())["data"]["size"] == 256 * MIB
        digest, size = hashlib.sha256(), 0
        async with http.post(
            "files/operations/get", json={"key": "big.bin"}, headers={"accept": BYTES["content-type"]}
        ) as got:
            assert got.status == 200
            assert got.headers["content-length"] == str(256 * MIB)
            async for part in got.content.iter_any():
                digest.update(part)
                size += len(part)
        expected = hashlib.sha256()
        for _ in range(256):
            expected.update(CHUNK)
        assert (size, digest.hexdigest()) == (256 * MIB, expected.hexdigest())
        rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert rise < 96 * 1024, f"memory rose by {rise} KiB; client and server share this process"


async def test_a_range_and_an_error_before_the_first_byte(tmp_path: Path, seaweedfs: Seaweedfs) -> None:
    async with served(tmp_path, seaweedfs.config(prefix=f"{uuid4()}/")) as http:
        async with http.post(put("a", if_none_match=True), data=b"0123456789", headers=BYTES) as answer:
            assert answer.status == 200, await answer.text()
        raw = {"accept": BYTES["content-type"]}
        async with http.post("files/operations/get", json={"key": "a", "offset": 2, "length": 3}, headers=raw) as got:
            assert (got.status, got.headers["content-range"], await got.read()) == (206, "bytes 2-4/10", b"234")
            part_of = got.headers["etag"]
        for whole in ({"key": "a"}, {"key": "a", "length": 10}, {"key": "a", "length": 99}):
            async with http.post("files/operations/get", json=whole, headers=raw) as got:
                assert (got.status, await got.read(), "content-range" in got.headers) == (200, b"0123456789", False)
                md5 = hashlib.md5(b"0123456789", usedforsecurity=False).hexdigest()
                assert got.headers["etag"] == part_of == f'"{md5}"'
                assert got.headers["content-disposition"] == 'attachment; filename="a"'
        async with http.post("files/operations/get", json={"key": "a", "offset": 10}, headers=raw) as got:
            assert (got.status, (await got.json(content_type=None))["code"]) == (422, "invalid_request")
        async with http.post("files/operations/get", json={"key": "missing"}, headers=raw) as got:
            assert (got.status, (await got.json(content_type=None))["code"]) == (404, "not_found")
        async with http.post(put("a", if_none_match=True), data=b"x", headers=BYTES) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("x/Über 1.pdf", "attachment; filename=\"_ber 1.pdf\"; filename*=UTF-8''%C3%9Cber%201.pdf"),
        ('x/a";b.txt', "attachment; filename=\"a__b.txt\"; filename*=UTF-8''a%22%3Bb.txt"),
    ],
)
async def test_a_file_is_named_by_its_key(tmp_path: Path, seaweedfs: Seaweedfs, key: str, expected: str) -> None:
    async with served(tmp_path, seaweedfs.config(prefix=f"{uuid4()}/")) as http:
        async with http.post(put(key), data=b"", headers=BYTES) as answer:
            assert answer.status == 200, await answer.text()
        async with http.post(
            "files/operations/get", json={"key": key}, headers={"accept": BYTES["content-type"]}
        ) as got:
            assert (got.status, await got.read(), got.headers["content-disposition"]) == (200, b"", expected)


async def test_policy_and_input_rules_hold_for_raw_bytes_too(tmp_path: Path, seaweedfs: Seaweedfs) -> None:
    async with served(tmp_path, seaweedfs.config(prefix=f"{uuid4()}/")) as http:
        for path, status, code in (
            (put("a").replace("files/", "reading/", 1), 403, "read_only"),
            (put("../a"), 422, "invalid_request"),
            (put("a", nonsense=1), 422, "invalid_request"),
            ("files/operations/put", 400, "invalid_request"),
            ("files/operations/put?key=a", 400, "invalid_request"),
            ("files/operations/list?arguments={}", 422, "operation_not_supported"),
            ("files/query", 400, "invalid_request"),
            ("nothing/operations/put?arguments={}", 404, "not_found"),
        ):
            async with http.post(path, data=b"x", headers=BYTES) as answer:
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (status, code), path


async def test_a_sender_that_goes_away_leaves_no_object(tmp_path: Path, seaweedfs: Seaweedfs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield CHUNK
        raise RuntimeError("the sender goes away")

    async with served(tmp_path, seaweedfs.config(prefix=f"{uuid4()}/")) as http:
        with pytest.raises((aiohttp.ClientError, RuntimeError)):
            await http.post(put("half"), data=broken(), headers=BYTES)
        for _ in range(50):
            async with http.post("files/operations/list", json={}) as answer:
                assert (await answer.json())["data"] == []
            await asyncio.sleep(0.02)
