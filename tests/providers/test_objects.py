"""The storage verbs by themselves, over a server in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.providers.memory_storage import Memory

from studio.errors import (
    InvalidRequest,
    NotFound,
    OperationNotSupported,
    RateLimited,
    Unreachable,
    UpstreamError,
)
from studio.providers._objects import base as objects_base
from studio.providers._objects.parts import Entry, Page, Stumbled, TooSlow, content_range, content_type_of, parts_of
from studio.testing.harness import call, open_provider


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_base, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
async def memory() -> AsyncIterator[Memory]:
    async with open_provider(Memory, {"read_only": False, "prefix": "p"}) as provider:
        assert isinstance(provider, Memory)
        provider.objects["p/a"] = b"abc"
        yield provider


def failing(times: int, error: Exception) -> Any:
    left = [error] * times

    def fault(_call: str) -> None:
        if left:
            raise left.pop()

    return fault


@pytest.mark.parametrize("error", [Stumbled("x"), Unreachable("x"), RateLimited("x", retry_after_s=0.01)])
async def test_a_read_is_tried_three_times_where_trouble_may_pass(memory: Memory, error: Exception) -> None:
    for name, arguments in (("head", {"key": "a"}), ("get", {"key": "a"}), ("list", {}), ("delete", {"key": "x"})):
        memory.calls.clear()
        memory.fault = failing(2, error)
        assert (await call(memory, name, **arguments)).row_count == 1
        assert len(memory.calls) == 3
    memory.fault = failing(3, error)
    with pytest.raises(type(error)):
        await call(memory, "head", key="a")


@pytest.mark.parametrize("error", [TooSlow(), NotFound("x"), UpstreamError("x"), RateLimited("x", retry_after_s=60)])
async def test_what_would_not_pass_is_not_tried_again(memory: Memory, error: Exception) -> None:
    memory.fault = failing(1, error)
    with pytest.raises(type(error)):
        await call(memory, "head", key="a")
    assert memory.calls == ["describe"]


async def test_a_write_is_sent_once(memory: Memory) -> None:
    memory.fault = failing(1, Unreachable("x"))
    with pytest.raises(Unreachable):
        await call(memory, "put", key="a", text="x")
    assert memory.calls == ["store"]


async def test_a_server_that_lists_other_keys_is_not_believed(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    async def page(*_: Any) -> Page:
        return Page([Entry("p/a", 1), Entry("other/secret", 1)])

    monkeypatch.setattr(memory, "page", page)
    with pytest.raises(UpstreamError, match="prefix"):
        await call(memory, "list")


async def test_a_server_that_sends_too_much_or_too_little_is_noticed(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def more(_body: bytes) -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"xx"

    async def less(_body: bytes) -> AsyncIterator[bytes]:
        yield b"x"

    monkeypatch.setattr(memory, "_chunks", more)
    assert (await call(memory, "get", key="a")).data["content"] == "xxx"
    monkeypatch.setattr(memory, "_chunks", less)
    with pytest.raises(Unreachable, match="before the object was complete"):
        await call(memory, "get", key="a")


async def test_a_folder_marker_of_the_prefix_itself_is_no_row(memory: Memory) -> None:
    memory.objects["p/"] = b""
    keys = []
    cursor = None
    while True:
        result = await call(memory, "list", limit=1, cursor=cursor)
        keys += [row[0] for row in result.rows or ()]
        cursor = result.next_cursor
        if cursor is None:
            break
    assert keys == ["a"]


async def test_truncated_is_exact_where_tokens_are_not(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = memory.page

    async def page(prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        found = await real(prefix, delimiter, token, limit)
        if found.token is None and found.rows:
            found.token = "zzz"  # promises more, and has none
        return found

    monkeypatch.setattr(memory, "page", page)
    assert (await call(memory, "list", limit=1)).truncated
    monkeypatch.setattr(memory, "exact_tokens", False)
    result = await call(memory, "list", limit=1)
    assert (result.truncated, result.next_cursor) == (False, None)


async def test_a_name_is_at_most_1024_bytes_with_its_prefix(memory: Memory) -> None:
    await call(memory, "put", key="ü" * 511, text="")
    with pytest.raises(InvalidRequest, match="1024 bytes"):
        await call(memory, "put", key="ü" * 511 + "x", text="")


async def test_presign_stays_off_for_a_provider_by_itself(memory: Memory) -> None:
    with pytest.raises(OperationNotSupported):
        await call(memory, "presign", key="a")


async def test_parts_have_one_size_which_grows_after_many() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 2500

    sizes = [len(part) async for part in parts_of(chunks(), 10_000, 2)]
    assert sizes[:1000] == [2] * 1000
    assert sizes[1000:2000] == [4] * 1000
    assert sizes[2000:-1] == [6] * (len(sizes) - 2001)
    assert sum(sizes) == 7500


@pytest.mark.parametrize(
    ("header", "length", "expected"),
    [("bytes 0-9/100", "10", (0, 100)), ("bytes 5-9/10", None, (5, 10)), (None, 7, (0, 7)), (None, "7", (0, 7))],
)
def test_content_range_is_read(header: str | None, length: Any, expected: tuple[int, int]) -> None:
    assert content_range(header, length) == expected


@pytest.mark.parametrize(
    ("header", "length"), [("bytes */10", 10), ("bytes 0-9/*", 10), ("junk", 10), (None, None), (None, "-1"), ("bytes 0-1/" + "9" * 30, 1)]
)  # fmt: skip
def test_what_does_not_tell_the_size_is_refused(header: str | None, length: Any) -> None:
    with pytest.raises(UpstreamError):
        content_range(header, length)


def test_content_types_go_by_the_ending() -> None:
    assert content_type_of("a/b.CSV", text=True) == "text/csv; charset=utf-8"
    assert content_type_of("a/b.csv", text=False) == "text/csv"
    assert content_type_of("noending", text=True) == "text/plain; charset=utf-8"
    assert content_type_of("a.exe", text=False) == "application/octet-stream"
