"""What the house does around a provider: caps while reading, errors as ours, tests in stages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from studio.contract import Batch, Column, Effect, Probe, Provider, ProviderConfig, Result, operation
from studio.contract.caps import capped
from studio.errors import Internal, OperationNotSupported, StudioError, UpstreamError
from studio.security.egress import Egress

CANARY = "c4n4ry-v4lu3"
COLUMNS: list[Column] = [{"name": "n", "type": "int"}]


class DriverError(Exception):
    """What a driver would raise."""


class Tiny(Provider[ProviderConfig]):
    kind = "tiny"
    family = "database"
    Config = ProviderConfig

    async def open(self, stack: AsyncExitStack) -> None:
        self.sent, self.closed = 0, False

    async def ping(self) -> None:
        raise DriverError(CANARY)

    def translate(self, exc: Exception) -> StudioError | None:
        return UpstreamError("the upstream said no") if isinstance(exc, DriverError) else None

    @operation(Effect.READ)
    async def rows(self, count: int, size: int = 10, width: int = 0, fail_at: int = -1) -> AsyncIterator[Batch]:
        """`count` rows in batches of `size`, each `width` characters wide."""
        try:
            yield Batch(COLUMNS, [])
            while self.sent < count:
                if self.sent == fail_at:
                    raise DriverError(CANARY)
                take = min(size, count - self.sent)
                self.sent += take
                yield Batch(COLUMNS, [("x" * width or number,) for number in range(take)])
            yield Batch(COLUMNS, [])
        finally:
            self.closed = True

    @operation(Effect.WRITE)
    async def answer(self, value: Any = None) -> Any:
        """The value itself; `ready` gives a Result, `driver` and `defect` raise."""
        if value == "ready":
            return Result(row_count=7)
        if value == "driver":
            raise DriverError(CANARY)
        if value == "defect":
            raise ZeroDivisionError(CANARY)
        if value == "tuple":
            return (1, b"x")
        return value


async def tiny(**config: Any) -> Tiny:
    provider = Tiny(ProviderConfig.parse(config), network=Egress(private_open=True))
    await provider.open(AsyncExitStack())
    return provider


async def run(provider: Tiny, name: str, **arguments: Any) -> Result:
    found = provider.operation(name)
    return await provider.run(found, found.parse(arguments))


# -- caps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "size", "rows", "truncated"),
    [
        (0, 10, 0, False),
        (1, 10, 1, False),
        (19, 10, 19, False),
        (20, 10, 20, False),  # exactly at the cap
        (20, 20, 20, False),
        (20, 7, 20, False),
        (21, 10, 20, True),  # one past it
        (21, 21, 20, True),
        (21, 20, 20, True),
        (1000, 1000, 20, True),
        (1000, 1, 20, True),
    ],
)
async def test_the_row_cap_is_exact_however_the_rows_arrive(there: int, size: int, rows: int, truncated: bool) -> None:
    result = await run(await tiny(max_rows=20), "rows", count=there, size=size)
    assert (result.row_count, result.truncated) == (rows, truncated)
    assert result.rows is not None
    assert len(result.rows) == rows
    assert result.columns == COLUMNS


@pytest.mark.parametrize(("there", "rows", "truncated"), [(10, 10, False), (11, 10, True), (9, 9, False)])
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_the_byte_cap_is_exact_too(there: int, size: int, rows: int, truncated: bool) -> None:
    """A row is counted as its JSON: 102 characters, two quotes and two brackets; ten such rows fill 1,060."""
    result = await run(await tiny(max_bytes=1060), "rows", count=there, size=size, width=102)
    assert (result.row_count, result.truncated) == (rows, truncated)


async def test_one_row_past_the_byte_cap_is_not_handed_out() -> None:
    result = await run(await tiny(max_bytes=1024), "rows", count=1, width=5000)
    assert (result.row_count, result.truncated) == (0, True)


async def test_the_source_is_stopped_at_the_cap() -> None:
    provider = await tiny(max_rows=20)
    await run(provider, "rows", count=1_000_000, size=10)
    assert provider.closed
    assert provider.sent == 30  # the batch that shows that there is more, and none after it


async def test_the_source_is_closed_when_the_reader_stops_early() -> None:
    provider = await tiny()
    found = provider.operation("rows")
    parts = capped(provider.stream(found, found.parse({"count": 100})), provider.config)
    await anext(parts)
    await parts.aclose()
    assert provider.closed


async def test_an_empty_result_still_tells_its_columns() -> None:
    result = await run(await tiny(), "rows", count=0)
    assert (result.columns, result.rows, result.to_dict()["data"]) == (COLUMNS, [], [])


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"), [("answer", {"value": "driver"}), ("rows", {"count": 50, "fail_at": 0})]
)
async def test_a_drivers_error_becomes_ours_without_its_text(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        await run(await tiny(), name, **arguments)
    assert CANARY not in f"{caught.value} {caught.value.fields}"
    assert isinstance(caught.value.__cause__, DriverError)


async def test_a_failure_in_the_midst_of_rows_becomes_ours() -> None:
    with pytest.raises(UpstreamError):
        await run(await tiny(), "rows", count=50, fail_at=10)


async def test_what_no_driver_raises_is_internal_and_says_only_its_class() -> None:
    with pytest.raises(Internal) as caught:
        await run(await tiny(), "answer", value="defect")
    assert str(caught.value) == "tiny: unexpected ZeroDivisionError"


async def test_an_unknown_operation_is_answered_with_those_that_exist() -> None:
    with pytest.raises(OperationNotSupported, match="answer, rows") as caught:
        Tiny.operation(CANARY)
    assert CANARY not in str(caught.value)


# -- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "data", "count"),
    [(None, None, 0), ("text", "text", 1), ([1, 2], [1, 2], 2), ({"a": 1}, {"a": 1}, 1), ("tuple", [1, "eA=="], 2)],
)
async def test_a_plain_answer_becomes_a_result_in_canonical_form(value: Any, data: Any, count: int) -> None:
    result = await run(await tiny(), "answer", value=value)
    assert (result.data, result.row_count, result.rows) == (data, count, None)


async def test_a_ready_result_is_passed_on_as_it_is() -> None:
    assert (await run(await tiny(), "answer", value="ready")).row_count == 7


# -- tests in stages ----------------------------------------------------------------------------


async def test_a_probe_times_its_stages_and_marks_the_one_that_failed() -> None:
    probe = Probe()
    with probe.stage("resolve"):
        pass
    with pytest.raises(DriverError):
        await (await tiny()).probe(probe)
    assert [(stage.name, stage.ok) for stage in probe.stages] == [("resolve", True), ("login", False)]
    assert all(stage.ms >= 0 for stage in probe.stages)
