"""Bombs from APIs, storage services and callers: memory and time of the real server process stay within their bounds."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import signal
import zlib
from contextlib import suppress
from functools import partial

import pytest
from tests.attack import corpus
from tests.attack.conftest import Target
from tests.attack.served import DEADLINE_S, GRACE_S, LIMITS, MIB, ROOM, Bounds, Served, config
from tests.attack.sink import answer, sink

from studio.errors import StudioError

ZIPPED = gzip.compress(bytes(400 * MIB), 9)
LAUGHS = b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "' + b"x" * 2 * MIB + b'">]><l>' + b"&a;" * 40 + b"</l>"
"""Below the hundredfold that expat permits."""
SMALL = b"[" + b"{}," * 2_000_000 + b"{}]"
ANSWERS = {
    "gzip, 400 MiB": answer(ZIPPED, content_encoding="gzip"),
    "deflate, 400 MiB": answer(zlib.compress(bytes(400 * MIB), 9), content_encoding="deflate"),
    "gzip in gzip": answer(gzip.compress(ZIPPED), content_encoding="gzip, gzip"),
    "deep JSON": answer(b"[" * 2_000_000 + b"]" * 2_000_000),
    "deep JSON in few bytes": answer(b"[" * 50_000 + b"]" * 50_000),
    "one long number": answer(b"1" * 8 * MIB),
    "one long text": answer(b'"' + b"x" * 48 * MIB + b'"'),
    "one long text of items": answer(b'{"items": "' + b"x" * 48 * MIB + b'"}'),
    "many small values": answer(SMALL),
    "many small items": answer(b'{"data": {"a": 1}, "items": ' + SMALL[: 4_000_000 - 1] + b"}]}"),
    "many members": answer(b"[" + b",".join(b'{"%d": %d.5}' % (n, n) for n in range(200_000)) + b"]"),
    "laughing XML": answer(LAUGHS, content_type="text/xml"),
    "laughing XML of a failure": answer(LAUGHS, 400, content_type="text/xml"),
    "laughing XML in UTF-16": answer(LAUGHS.decode().encode("utf-16"), content_type="text/xml"),
    "many small elements": answer(b"<l>" + b"<a/>" * 900_000 + b"</l>", content_type="text/xml"),
    "as many items as are read": answer(
        b'{"data": [' + b",".join(b'{"%d": %d.5}' % (n, n) for n in range(49_000)) + b"]}"
    ),
    "as many items as are listed": answer(
        b'{"data": [' + b",".join(b'{"%d": %d.5}' % (n, n) for n in range(24_000)) + b"]}"
    ),
    "as many elements as are read": answer(b"<l>" + b"<a/>" * 97_000 + b"</l>", content_type="text/xml"),
    "many headers": answer(b"{}", **{f"x-{n}": "y" * 1000 for n in range(2000)}),
    "a body without end": answer(b"x").replace(b"content-length: 1", b"content-length: 1000000000000") + b"x" * MIB,
}
KINDS = ["rest", "graphql", "soap", "gcs", "s3", "minio", "azure_blob", "sqs"]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_answer_takes_memory_or_time_beyond_its_bounds(served: Served, kind: str) -> None:
    query = corpus.read("kinds")[kind]["query"]
    for harmless in (answer(b"{}", 404), answer(b"[]"), answer(b"<l/>", content_type="text/xml")):
        async with sink(http=harmless) as upstream:
            made = await served.create(kind, {**config(kind, upstream.port), "timeout_s": 20.0})
            await served.warm(partial(served.query, made, query))
    bounds = Bounds(kind)
    for name, bomb in ANSWERS.items():
        async with sink(http=bomb) as upstream:
            made = await served.create(kind, {**config(kind, upstream.port), **LIMITS})
            await bounds.hold(name, partial(served.query, made, query))
    assert not bounds.broken


STATEMENTS = {
    "sqlite": {
        "value": "SELECT printf('%.*c', 900000000, 'x')",
        "rows": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n, zeroblob(100000) FROM r",
        "work": "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "parentheses": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
        "terms": "SELECT 1 WHERE " + " OR ".join(["1 = 2"] * 12_000),
        "joins": "SELECT count(*) FROM " + ", ".join(f"(SELECT 1 UNION SELECT 2) t{n}" for n in range(40)),
    },
    "graphql": {
        "depth": "{" + "a {" * 20_000 + "b" + "}" * 20_001,
        "aliases": "{" + " ".join(f"a{n}: b" for n in range(10_000)) + "}",
        "fragments": "query { ...f0 } " + " ".join(f"fragment f{n} on Q {{ ...f{n + 1} ...f{n + 1} }}" for n in range(60)),
    },
    **{
        kind: {
            "parentheses": "SELECT " + "(" * 40_000 + "1" + ")" * 40_000,
            "terms": "SELECT 1 WHERE " + " OR ".join(["1 = 2"] * 12_000),
            "list": "SELECT 1 IN (" + ", ".join(["1"] * 30_000) + ")",
            "calls": "SELECT " + "abs(" * 20_000 + "1" + ")" * 20_000,
            "unions": " UNION ".join(["SELECT 1"] * 6_000),
            "comments": "/*" * 45_000,
            "quotes": "SELECT " + "'a' " * 24_000,
            "dollars": "SELECT " + "$a$ " * 24_000,
            "parameters": "SELECT " + ", ".join(f":p{n}" for n in range(10_000)),
        }
        for kind in ("postgresql", "mysql")
    },
    "mongodb": {"depth": '{"a": ' * 15_000 + "1" + "}" * 15_000, "list": "[" * 90_000},
    "redis": {"words": "MGET " + "a " * 40_000, "quotes": "GET '" + "\\'" * 45_000, "pieces": "GET " + "''" * 45_000},
    "rest": {"path": "GET /" + "a/../" * 18_000, "percent": "GET /" + "%25" * 30_000},
}  # fmt: skip


@pytest.mark.parametrize("kind", STATEMENTS)
async def test_no_statement_takes_memory_or_time_beyond_its_bounds(served: Served, kind: str) -> None:
    bounds = Bounds(kind)
    (served.home / "data" / "files" / "app.db").touch()
    async with sink(kind) as upstream:
        made = await served.create(kind, {**config(kind, upstream.port), **LIMITS})
        await served.warm(lambda: served.query(made, corpus.read("kinds")[kind]["query"]))
        for name, statement in STATEMENTS[kind].items():
            await bounds.hold(name, partial(served.query, made, statement))
    assert not bounds.broken


REPEATED = {
    "mysql": "SELECT LENGTH(CONCAT(" + ",".join([":a"] * 500) + "))",
    "redis": "MGET " + ":a " * 2_000,
    "s3": "get " + ":a" * 2_000,
    "mongodb": '{"find": "c", "filter": {"$or": [' + ",".join(['{"a": {"$param": "a"}}'] * 2_000) + "]}}",
}


@pytest.mark.parametrize("kind", REPEATED)
async def test_a_large_value_cannot_stand_in_many_places(served: Served, kind: str) -> None:
    bounds = Bounds(f"{kind}, repeated")
    async with sink(kind) as upstream:
        made = await served.create(kind, {**config(kind, upstream.port), **LIMITS})
        await served.warm(lambda: served.query(made, REPEATED[kind], {"a": "x"}))
        ask = partial(served.query, made, REPEATED[kind], {"a": "x" * 900_000})
        await bounds.hold("a large value", ask)
        assert (await ask()).status == 422
    assert not bounds.broken


BODIES = {
    "deep": b'{"query": ' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "deep parameters": b'{"query": "SELECT 1", "params": ' + b'{"a":' * 150_000 + b"1" + b"}" * 150_001,
    "small values": b'{"query": "SELECT 1", "params": [' + b"{}," * 330_000 + b"{}]}",
    "small parameters": b'{"query": "SELECT 1", "params": {' + b",".join(b'"%d":1' % n for n in range(90_000)) + b"}}",
    "as many parameters as are taken": (
        b'{"query": "SELECT 1", "params": {' + b",".join(b'"%d":1' % n for n in range(39_000)) + b"}}"
    ),
    "as many values as are taken": b'{"query": "SELECT 1", "params": {"a": [' + b"{}," * 19_000 + b"{}]}}",
    "one long number": b'{"query": "SELECT 1", "params": {"a": ' + b"1" * 900_000 + b"}}",
    "one long text": b'{"query": "' + b"x" * 900_000 + b'"}',
    "one long statement": b'{"query": "SELECT ' + b"(" * 900_000 + b'"}',
    "escapes": b'{"query": "' + b"\\u0041" * 160_000 + b'"}',
    "packed": ZIPPED[:400_000],
}
CONFIG = {"name": "deep", "connector_type": "api", "provider": "rest"}


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


DOORS = {
    "a query": ("/api/v1/connectors/{id}/query", BODIES),
    "an operation": ("/api/v1/connectors/{id}/operations/query", BODIES),
    "MCP": (
        "/mcp",
        {
            **BODIES,
            "a deep call": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ' + nested(150_000) + b"}",
            "many calls": b"[" + b'{"jsonrpc":"2.0","id":1,"method":"ping"},' * 20_000 + b"{}]",
        },
    ),
    "a config": (
        "/api/v1/connectors",
        {
            **BODIES,
            "deep config": json.dumps(CONFIG).encode()[:-1] + b', "config": ' + nested(150_000) + b"}",
            "many fields": json.dumps({**CONFIG, "config": {f"f{n}": n for n in range(39_000)}}).encode(),
            "many headers": json.dumps(
                {
                    **CONFIG,
                    "config": {"base_url": "http://localhost", "headers": {f"x-{n}": "y" for n in range(40_000)}},
                }
            ).encode(),
        },
    ),
}


@pytest.mark.parametrize("door", DOORS)
async def test_no_request_takes_memory_or_time_beyond_its_bounds(served: Served, door: str) -> None:
    (served.home / "data" / "files" / "app.db").touch()
    made = await served.create("sqlite", {"path": "app.db", **LIMITS})
    path, bodies = DOORS[door]
    path, bounds = path.format(id=made), Bounds(f"requests: {door}")
    headers = {"Accept": "application/json, text/event-stream"}
    await served.warm(partial(served.post, path, {"query": "SELECT 1"}, **headers))
    for name, body in bodies.items():
        await bounds.hold(name, partial(served.post, path, body, **headers))
    assert not bounds.broken


@pytest.mark.parametrize("kind", ["soap", "gcs", "s3", "sqs", "azure_blob"])
@pytest.mark.parametrize(
    "name", ["one long text", "laughing XML", "as many items as are listed", "as many elements as are read"]
)
async def test_a_refused_answer_is_let_go_at_once(local: Target, kind: str, name: str) -> None:
    """Not at the next collection, which megabytes do not bring about: few objects hold them."""
    gc.collect()
    gc.disable()
    try:
        async with sink(http=ANSWERS[name]) as upstream:
            made = await local.create(kind, {**config(kind, upstream.port), "timeout_s": 5.0})
            with suppress(StudioError):
                await local.query(kind, made)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert len(gc.garbage) < 5_000
        kept = [
            one for each in gc.garbage for one in gc.get_referents(each) if isinstance(one, bytes | bytearray | str)
        ]
        assert [len(one) for one in kept if len(one) > MIB // 4 and one is not ANSWERS[name]] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_the_measure_sees_what_goes_over_a_bound(served: Served) -> None:
    async with sink(http=ANSWERS["a body without end"]) as upstream:
        made = await served.create("rest", {**config("rest", upstream.port), **LIMITS})
        await served.query(made, "GET /things")
        os.kill(served.pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(DEADLINE_S + 3 * GRACE_S, os.kill, served.pid, signal.SIGCONT)
        cost = await served.query(made, "GET /things")
    assert cost.late > GRACE_S
    assert cost.held > GRACE_S
    async with sink(http=ANSWERS["one long text"]) as upstream:
        made = await served.create("rest", {**config("rest", upstream.port), **LIMITS, "max_bytes": 1 << 30})
        assert (await served.query(made, "GET /things")).rise > ROOM
