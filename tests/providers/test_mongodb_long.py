"""Replies of several parts: read as they come, left early, and held to what an answer may have."""

from __future__ import annotations

import asyncio
import struct
from functools import partial
from typing import Any

import bson
import pytest
from tests.providers.test_mongodb import Rogue, config_of, hello

from studio.errors import InvalidRequest, ResultBlocked, StudioError, UpstreamError
from studio.providers.mongodb.provider import Mongodb as Provider
from studio.testing.harness import call, open_provider

LARGE = {"text": "x" * 5000, "list": [1, {"a": None}], "expression": bson.Regex("a", "i")}
OTHERS = [
    b"bytes",
    1.5,
    bson.ObjectId(b"123456789012"),
    bson.Regex("^a", "ix"),
    bson.Int64(1 << 40),
    True,
    None,
    [1],
    "é",
]


def cursor(documents: list[Any], number: int = 0, name: str = "firstBatch") -> dict[str, Any]:
    return {"cursor": {name: documents, "id": bson.Int64(number), "ns": "app.c"}, "ok": 1.0}


def message(body: bytes, most: int | None, request: int) -> bytes:
    """So many bytes of a message."""
    return (struct.pack("<iiiiIB", len(body) + 21, 1, request, 2013, 0, 0) + body)[:most]


def names(rogue: Rogue) -> list[str]:
    return [next(iter(command)) for command in rogue.received[1:]]


async def test_documents_of_several_parts_come_in_order_and_whole() -> None:
    first = [{"n": n, **LARGE} for n in range(300)]
    second = [{"n": n, "text": "y" * (n % 7) * 40_000} for n in range(300, 400)]
    replies = cursor(first, 7), cursor(second, 0, "nextBatch")
    async with (
        Rogue(hello(), *replies) as rogue,
        open_provider(Provider, config_of(rogue, max_bytes=1 << 30)) as provider,
    ):
        result = await call(provider, "find", collection="c")
        assert [row["n"] for row in result.data] == list(range(400))
        assert result.data[0] == {"n": 0, "text": "x" * 5000, "list": [1, {"a": None}], "expression": "a"}
        assert [len(row["text"]) for row in result.data[300:]] == [n % 7 * 40_000 for n in range(300, 400)]
        assert result.truncated is False
        assert names(rogue) == ["find", "getMore"]
        await provider.ping()
    assert rogue.connections == 1


async def test_values_of_several_parts_are_of_every_type() -> None:
    reply = {"values": OTHERS * 10_000, "ok": 1.0}
    async with Rogue(hello(), reply) as rogue, open_provider(Provider, config_of(rogue, max_rows=5000)) as provider:
        result = await call(provider, "distinct", collection="c", key="a")
        expected = ["Ynl0ZXM=", 1.5, "313233343536373839303132", "^a", 1 << 40, True, None, [1], "é"]
        assert [row["value"] for row in result.data] == (expected * 556)[:5000]
        assert result.truncated is True


async def test_one_left_early_is_read_to_its_end_and_its_cursor_is_ended() -> None:
    replies = cursor([LARGE] * 1000, 7), {"ok": 1.0}
    async with (
        Rogue(hello(), *replies) as rogue,
        open_provider(Provider, config_of(rogue, max_bytes=20_000)) as provider,
    ):
        result = await call(provider, "find", collection="c")
        assert (len(result.data), result.truncated) == (3, True)
        await provider._work.close()
        assert names(rogue) == ["find", "killCursors"]
        assert rogue.received[-1]["cursors"] == [7]
    assert rogue.connections == 1


async def test_a_session_whose_reply_stalls_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.providers.mongodb.work.KILL_S", 0.1)
    half = partial(message, bson.encode(cursor([LARGE] * 1000)), 1_000_000)
    config = {"max_bytes": 20_000, "pool_size": 1}
    async with Rogue(hello(), half) as rogue, open_provider(Provider, config_of(rogue, **config)) as provider:
        async with asyncio.timeout(5):
            result = await call(provider, "find", collection="c")
        assert result.truncated is True
        assert [session.closed for session in provider._pool._idle] in ([], [True])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"text": "x" * (6 << 20)}, "larger than max_bytes"),
        ({"list": [None] * 100_001}, "100,000 values"),
        ({"list": [{}] * 50_001}, "100,000 values"),
    ],
    ids=["bytes", "values", "objects"],
)
async def test_a_document_that_no_answer_holds_is_refused_and_the_session_goes_on(document: Any, message: str) -> None:
    replies = cursor([{"a": 1}, document, {"a": 2}], 7), cursor([], 0, "nextBatch")
    async with Rogue(hello(), *replies) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        with pytest.raises(ResultBlocked, match=message):
            await call(provider, "find", collection="c")
        await provider._work.close()
        assert names(rogue) == ["find", "killCursors"]
    assert rogue.connections == 1


async def test_a_kept_answer_has_so_many_values_and_a_stream_has_all() -> None:
    documents = [{"list": [None] * 1000}] * 400
    async with Rogue(hello(), cursor(documents)) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        result = await call(provider, "find", collection="c")
        assert result.truncated is True
        assert len(result.data) == 100
    async with Rogue(hello(), cursor(documents)) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        operation = Provider.operation("find")
        batches = [batch async for batch in provider.stream(operation, operation.parse({"collection": "c"}))]
        assert sum(len(batch.rows) for batch in batches) == 400
        assert not any(batch.more for batch in batches)


async def test_a_refusal_at_the_end_of_a_long_reply_is_one() -> None:
    reply = {**cursor([LARGE] * 100), "ok": 0.0, "errmsg": "said by the server", "code": 9}
    async with Rogue(hello(), reply) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        with pytest.raises(UpstreamError, match="said by the server"):
            await call(provider, "find", collection="c")


async def test_of_all_failures_of_a_write_the_first_is_told() -> None:
    failures = [{"index": n, "code": 9, "errmsg": f"failure {n}"} for n in range(20_000)]
    reply = {"n": 3, "writeErrors": failures, "ok": 1.0}
    async with Rogue(hello(), reply) as rogue, open_provider(Provider, config_of(rogue, read_only=False)) as provider:
        with pytest.raises(UpstreamError, match=r"failure 0 .*3 done before"):
            await call(provider, "insert", collection="c", documents=[{"a": 1}])
        await provider.ping()
    assert rogue.connections == 1


@pytest.mark.parametrize("cut", [9, 300_000, 600_000])
async def test_a_message_that_is_cut_or_garbled_is_an_error_of_ours(cut: int) -> None:
    body = bytearray(bson.encode(cursor([LARGE] * 200)))
    body[cut : cut + 6000] = b"\x77" * 6000
    reply = partial(message, bytes(body), None)
    async with Rogue(hello(), reply) as rogue, open_provider(Provider, config_of(rogue, timeout_s=2.0)) as provider:
        with pytest.raises(StudioError) as caught:
            async with asyncio.timeout(2):
                await call(provider, "find", collection="c")
        assert caught.value.code in {"upstream_error", "result_blocked"}


async def test_a_parameter_that_is_large_stands_in_few_places() -> None:
    condition = {"a": {"$in": [{"$param": "p"}] * 100}}
    async with Rogue(hello()) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        with pytest.raises(InvalidRequest, match="too large for a value that stands in so many places"):
            await call(provider, "count", collection="c", filter=condition, params={"p": ["x" * 20_000]})
        await call(provider, "count", collection="c", filter=condition, params={"p": ["x" * 10_000]})
    assert rogue.received[-1]["query"]["a"]["$in"] == [["x" * 10_000]] * 100
