"""What every request passes first: bounds on its head, its time and its rate, whose name it bears; over raw sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests import toy
from tests.surfaces.served import Api, Reply, serving

from studio import server
from studio.api import gate
from studio.api.hosts import Hosts
from studio.services import rates
from studio.services.rates import Rates
from studio.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
C = "/api/v1/connectors"
HEAD = "{method} {path} HTTP/1.1\r\nhost: localhost\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    with toy.installed():
        settings = Settings(data_dir=tmp_path_factory.mktemp("data"), port=0, body_timeout_s=0.5)
        async with serving(settings) as found:
            yield found


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return Reply(int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"])))


async def raw(api: Api, *parts: bytes, pause_s: float = 0.0) -> Reply:
    """Send bytes as they are; the first answer."""
    port = int(api.base.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(20):
            return await read_reply(reader)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


def head(method: str = "GET", path: str = "/healthz", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (HEAD.format(method=method, path=path) + lines + "\r\n").encode("latin-1")


def secured(reply: Reply) -> None:
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert "server" not in reply.headers


# -- heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (head(**{f"x-{n}": "1" for n in range(200)}), 431),
        (head(x_long="x" * 40_000), 431),
        (head(path="/" + "x" * 9_000), 414),
        (head(path="/healthz?" + "x" * 17_000), 414),
        (head(path=f"{C}/a%2Fquery", method="POST"), 404),
        (head(path=f"{C}/%ff"), 404),
        (head(path=f"{C}?q=%ff"), 400),
        (head()[:-2] + b"host: evil.example\r\n\r\n", 400),
        (head(authorization="Bearer a")[:-2] + b"Authorization: Bearer b\r\n\r\n", 400),
        (head(content_length="1", transfer_encoding="chunked"), 400),
        (b"GET /healthz HTTP/1.1\r\nhost : localhost\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"GET \xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 403),
    ],
)  # fmt: skip
async def test_a_head_out_of_bounds_is_a_problem(api: Api, what: bytes, status: int) -> None:
    reply = await raw(api, what)
    assert reply.status == status, reply.body
    assert reply.problem["title"] != "Error"
    secured(reply)


async def test_a_head_that_does_not_end_is_cut_off_by_its_size(api: Api) -> None:
    reply = await raw(api, b"GET /healthz HTTP/1.1\r\nx-long: ", *[b"x" * 10_000] * 20)
    assert reply.status == 431
    reply = await raw(api, b"GET /" + b"x" * 200_000)
    assert reply.status == 431


async def test_a_head_that_comes_byte_by_byte_is_cut_off_by_its_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.4)
    monkeypatch.setattr(server, "_CHECK_EVERY_S", 0.1)
    start = time.monotonic()
    reply = await raw(api, *[bytes([byte]) for byte in head(x_slow="x" * 200)], pause_s=0.05)
    reply.is_problem(408, "invalid_request")
    reply = await raw(api)  # a connection on which nothing is said at all
    reply.is_problem(408, "invalid_request")
    assert time.monotonic() - start < 10


async def test_a_body_that_outlives_its_answer_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.4)
    monkeypatch.setattr(server, "_CHECK_EVERY_S", 0.1)
    port = int(api.base.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head("POST", f"{C}/x/test", content_length="100"))
    assert (await read_reply(reader)).status == 401
    with pytest.raises(ConnectionError):
        for _ in range(90):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize("path", [C, f"{C}/x/query", "/mcp"])
async def test_a_body_that_comes_byte_by_byte_is_408(api: Api, path: str) -> None:
    """On management, hot routes and MCP alike. The fixture's time for a body is half a second."""
    start = head(
        "POST",
        path,
        content_length="1000",
        content_type="application/json",
        authorization=f"Bearer {api.keys['admin']}",
    )
    reply = await raw(api, start, *[b"{"] * 100, pause_s=0.1)
    reply.is_problem(408, "invalid_request", "body")
    assert reply.headers["connection"] == "close"
    assert reply.problem["retryable"] is True


async def test_trailers_are_dropped(api: Api) -> None:
    instance = await api.attached()
    start = head("POST", f"{C}/{instance['connector_id']}/query", transfer_encoding="chunked",
                 authorization=f"Bearer {api.keys['admin']}")  # fmt: skip
    body = json.dumps({"query": "rows 1"}).encode()
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\nauthorization: Bearer other\r\n\r\n"
    assert (await raw(api, start, chunk)).status == 200


# -- names --------------------------------------------------------------------------------------

PATHS = ["/healthz", "/metrics", "/docs", f"{C}", f"{C}/x/query", "/mcp", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["host", "origin"])
async def test_a_foreign_name_is_refused_everywhere(api: Api, path: str, name: str) -> None:
    value = "evil.example" if name == "host" else "http://evil.example"
    for method in ("GET", "POST"):
        reply = await api.call(method, path, who="admin", **{name: value})
        reply.is_problem(403, "forbidden")
        assert "STUDIO_ALLOWED_HOSTS" in reply.problem["detail"]
        secured(reply)


async def test_an_allowed_name_is_served(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.application.gate, "hosts", Hosts.of(Settings(allowed_hosts="studio.example.com")))
    for _ in range(2):
        reply = await api.call("GET", C, host="studio.example.com:443", origin="https://studio.example.com")
        assert reply.status == 200
    assert (await api.call("GET", C, host="other.example.com")).status == 403


async def test_without_the_check_a_rebound_name_would_be_answered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Hosts, "require", lambda *_: None)
    assert (await api.call("GET", C, host="evil.example")).status == 200


# -- headers of answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS, "/api/v1/openapi.json", "/readyz"])
async def test_every_answer_carries_the_security_headers(api: Api, path: str) -> None:
    for method in ("GET", "POST", "HEAD", "PATCH"):
        secured(await api.call(method, path))


async def test_the_page_of_the_api_browser_names_its_own_script(api: Api) -> None:
    reply = await api.call("GET", "/docs")
    policy = reply.headers["content-security-policy"]
    assert policy.count("content-security-policy") == 0
    assert "'sha256-" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "default-src 'none'" in policy


async def test_a_head_request_is_answered_as_a_get_without_content(api: Api) -> None:
    got, asked = await api.call("GET", C), await api.call("HEAD", C)
    assert (asked.status, asked.body) == (200, b"")
    assert asked.headers["content-type"] == got.headers["content-type"]


# -- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", C), ("POST", f"{C}/x/query"), ("POST", "/mcp")])
async def test_a_caller_past_its_rate_is_told_when_to_come_back(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr(api.application.door, "_rates", Rates(Settings(rate_limit_per_s=0.5)))
    found = [await api.call(method, path, {} if method == "POST" else None) for _ in range(4)]
    assert found[0].status != 429
    found[-1].is_problem(429, "rate_limited")
    assert 1 <= int(found[-1].headers["retry-after"]) <= 2
    assert found[-1].problem["retryable"] is True
    assert (await api.call(method, path, {}, who="foreign admin")).status != 429


async def test_wrong_keys_are_held_up_and_a_right_one_behind_the_same_address_is_not(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "FAILURE_BURST", 3)
    monkeypatch.setattr(api.application.door, "_rates", Rates(Settings(failed_login_limit_per_s=0.1)))
    found = [(await api.call("GET", C, who=None, authorization="Bearer nonsense")).status for _ in range(5)]
    assert found == [401, 401, 401, 429, 429]
    assert (await api.call("GET", C)).status == 200


# -- cost -------------------------------------------------------------------------------------------


async def test_the_gate_costs_microseconds(api: Api) -> None:
    """What it adds to a hot route, beside the route itself (about 200 microseconds)."""
    headers = [(b"host", b"127.0.0.1:8400"), (b"authorization", b"Bearer x"), (b"content-type", b"application/json"),
               (b"content-length", b"20"), (b"accept", b"*/*"), (b"user-agent", b"test")]  # fmt: skip
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": f"{C}/x/query", "raw_path": f"{C}/x/query".encode(),
        "query_string": b"", "headers": headers, "server": ("127.0.0.1", 8400),
    }  # fmt: skip

    async def nothing(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})

    async def send(_message: Any) -> None:
        return None

    async def cost(application: Any) -> float:
        start = time.perf_counter()
        for _ in range(1000):
            await application(scope, None, send)
        return (time.perf_counter() - start) * 1000

    guarded = gate.Gate(nothing, Hosts(["127.0.0.1"]))
    added = min([await cost(guarded) for _ in range(5)]) - min([await cost(nothing) for _ in range(5)])
    assert added < 40, f"{added:.1f} microseconds"
