"""Operations that have a second form, which moves raw bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from studio.contract import Effect, Provider, ProviderConfig, operation
from studio.contract.operation import Download, byte_form
from studio.errors import InvalidRequest, OperationNotSupported, StudioError, UpstreamError
from studio.testing.harness import open_provider


class DriverError(Exception):
    pass


class Boxes(Provider[ProviderConfig]):
    """Boxes of bytes."""

    kind = "boxes"
    family = "storage"
    Config = ProviderConfig
    closed = 0

    async def open(self, stack: AsyncExitStack) -> None:
        self.boxes: dict[str, bytes] = {"a": b"abc"}

    async def ping(self) -> None:
        pass

    def translate(self, exc: Exception) -> StudioError | None:
        return UpstreamError("the driver failed") if isinstance(exc, DriverError) else None

    @operation(Effect.READ)
    async def get(self, key: str) -> str:
        """Get a box."""
        return self.boxes[key].decode()

    @operation(Effect.WRITE)
    async def put(self, key: str, text: str) -> None:
        """Put a box."""

    @operation(Effect.READ)
    async def count(self) -> int:
        """Count."""
        return len(self.boxes)

    @byte_form("get")
    @asynccontextmanager
    async def read(self, key: str) -> AsyncIterator[Download]:
        if key not in self.boxes:
            raise DriverError
        try:
            yield Download(self._chunks(key), len(self.boxes[key]))
        finally:
            type(self).closed += 1

    async def _chunks(self, key: str) -> AsyncIterator[bytes]:
        yield self.boxes[key]
        if key == "broken":
            raise DriverError

    @byte_form("put")
    async def write(self, chunks: AsyncIterator[bytes], key: str) -> dict[str, int]:
        self.boxes[key] = b"".join([chunk async for chunk in chunks])
        return {"size": len(self.boxes[key])}


@pytest.fixture
async def boxes() -> AsyncIterator[Provider[Any]]:
    async with open_provider(Boxes, {}) as provider:
        yield provider


async def three() -> AsyncIterator[bytes]:
    for part in (b"x", b"", b"yz"):
        yield part


def test_a_byte_form_shares_the_effect_and_has_its_own_parameters() -> None:
    form = Boxes.byte_form("put")
    assert (form.effect, form.takes_bytes, form.name) == (Effect.WRITE, True, "put")
    assert form.parse({"key": "a"}) == {"key": "a"}
    for wrong in ({"key": "a", "text": "x"}, {"key": "a", "chunks": []}):
        with pytest.raises(InvalidRequest):
            form.parse(wrong)
    assert not Boxes.byte_form("get").takes_bytes
    assert [op.name for op in Boxes.operations.values()] == ["get", "put", "count"]


def test_what_does_not_stream_says_what_does() -> None:
    with pytest.raises(OperationNotSupported, match="get, put"):
        Boxes.byte_form("count")
    with pytest.raises(OperationNotSupported, match="no operation of that name"):
        Boxes.byte_form("nothing")


async def test_bytes_go_in_and_come_out(boxes: Provider[Any]) -> None:
    answer = await boxes.upload(boxes.byte_form("put"), {"key": "b"}, three())
    assert answer.data == {"size": 3}
    async with boxes.download(boxes.byte_form("get"), {"key": "b"}) as content:
        assert content.length == 3
        assert b"".join([chunk async for chunk in content.chunks]) == b"xyz"


async def test_a_form_is_used_in_its_own_direction_only(boxes: Provider[Any]) -> None:
    with pytest.raises(OperationNotSupported):
        await boxes.upload(boxes.byte_form("get"), {"key": "b"}, three())
    with pytest.raises(OperationNotSupported):
        async with boxes.download(boxes.byte_form("put"), {"key": "b"}):
            pass


async def test_the_drivers_errors_are_ours_at_the_start_and_in_the_middle(boxes: Provider[Any]) -> None:
    with pytest.raises(UpstreamError):
        async with boxes.download(boxes.byte_form("get"), {"key": "nothing"}):
            pass
    boxes.boxes["broken"] = b"half"  # type: ignore[attr-defined]
    with pytest.raises(UpstreamError):
        async with boxes.download(boxes.byte_form("get"), {"key": "broken"}) as content:
            async for chunk in content.chunks:
                assert chunk == b"half"


async def test_the_readers_own_failure_is_not_translated_and_everything_is_closed(boxes: Provider[Any]) -> None:
    before = Boxes.closed
    with pytest.raises(ZeroDivisionError):
        async with boxes.download(boxes.byte_form("get"), {"key": "a"}):
            raise ZeroDivisionError
    assert Boxes.closed == before + 1


async def test_the_senders_own_failure_is_not_translated(boxes: Provider[Any]) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await boxes.upload(boxes.byte_form("put"), {"key": "b"}, cut())
    assert "b" not in boxes.boxes  # type: ignore[attr-defined]
