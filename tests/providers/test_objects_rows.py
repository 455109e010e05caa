"""Objects as rows, over a server in memory: boundaries, bombs, and how little is fetched."""

from __future__ import annotations

import asyncio
import base64
import csv
import gzip
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.providers.memory_storage import Memory

from studio.errors import InvalidRequest
from studio.providers._objects import parquet
from studio.testing.harness import call, open_provider
from studio.testing.storage_rogue import Memory as Usage
from studio.testing.storage_rows import parquet_bytes

MIB = 1024 * 1024


@pytest.fixture
async def memory() -> AsyncIterator[Memory]:
    async with open_provider(Memory, {}) as provider:
        assert isinstance(provider, Memory)
        yield provider


async def rows(memory: Memory, key: str, content: bytes | str, chunk: int = 1000, **more: Any) -> list[Any]:
    memory.objects[key] = content.encode() if isinstance(content, str) else content
    memory.chunk = chunk
    return (await call(memory, "rows", key=key, **more)).to_dict()["data"]


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=6)
RECORDS = st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1, max_size=8)


@given(RECORDS, st.integers(1, 9))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_is_the_same_wherever_its_chunks_are_cut(records: list[list[str]], chunk: int) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(records)

    async def read() -> list[Any]:
        async with open_provider(Memory, {}) as memory:
            assert isinstance(memory, Memory)
            return await rows(memory, "a.csv", text.getvalue(), chunk, header=False)

    found = asyncio.run(read())
    assert [list(row.values()) for row in found] == records


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**52), 2**52) | st.text(max_size=5), lambda v: st.lists(v, max_size=3), max_leaves=5
)  # fmt: skip


@given(st.lists(VALUES, max_size=8), st.integers(1, 9), st.sampled_from([None, 1]))
@settings(max_examples=300, deadline=None)
def test_json_is_the_same_wherever_its_chunks_are_cut(values: list[Any], chunk: int, indent: int | None) -> None:
    async def read() -> tuple[list[Any], list[Any]]:
        async with open_provider(Memory, {}) as memory:
            assert isinstance(memory, Memory)
            array = await rows(memory, "a.json", json.dumps(values, indent=indent, ensure_ascii=False), chunk)
            lines = await rows(memory, "a.ndjson", "\n".join(map(json.dumps, values)), chunk)
            return array, lines

    array, lines = asyncio.run(read())
    assert [row["value"] for row in array] == values
    assert [row["value"] for row in lines] == values


async def test_the_first_rows_of_a_large_object_cost_few_bytes(memory: Memory) -> None:
    line = "x" * 99 + "\n"
    for key, content in (
        ("a.csv", "h" * 99 + "\n" + line * 100_000),
        ("a.ndjson", ('{"a": "' + "x" * 89 + '"}\n') * 100_000),
        ("a.json", "[" + ",".join(['{"a": "' + "x" * 89 + '"}'] * 100_000) + "]"),
        ("a.log", line * 100_000),
    ):
        memory.given = 0
        memory.objects[key], memory.chunk = content.encode(), 64 * 1024
        part = await call(memory, "rows", key=key)
        assert (part.row_count, part.truncated) == (1000, True)
        assert memory.given < 3 * 64 * 1024 + 100_000


async def test_the_first_rows_of_a_large_parquet_file_cost_few_bytes() -> None:
    async with open_provider(Memory, {"max_rows": 100}) as memory:
        assert isinstance(memory, Memory)
        memory.objects["a.parquet"] = parquet_bytes(200_000, padding=100)
        size = len(memory.objects["a.parquet"])
        part = await call(memory, "rows", key="a.parquet")
        assert (part.row_count, part.truncated) == (100, True)
        assert size > 20 * MIB
        assert memory.given < 1.5 * MIB
        one = await call(memory, "rows", key="a.parquet", columns=["id"])
        assert one.to_dict()["data"][99] == {"id": 99}


async def test_parquet_that_changes_while_it_is_read_is_read_by_its_etag(memory: Memory) -> None:
    memory.objects["a.parquet"] = parquet_bytes(10)
    seen = []
    real = memory.opened

    def opened(name: str, offset: int, length: int | None, etag: str | None) -> Any:
        seen.append(etag)
        return real(name, offset, length, etag)

    memory.opened = opened  # type: ignore[method-assign]
    await call(memory, "rows", key="a.parquet")
    assert seen[0] is None
    assert set(seen[1:]) == {"1"}


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def of_process(pid: str) -> tuple[bytes, list[str]]:
    return Path(f"/proc/{pid}/environ").read_bytes(), os.listdir(f"/proc/{pid}/fd")


async def test_a_parquet_read_that_is_left_early_or_cancelled_leaves_no_process(memory: Memory) -> None:
    before = children()
    memory.objects["a.parquet"] = parquet_bytes(10_000)
    operation = memory.operation("rows")
    for _ in range(2):
        batches = memory.stream(operation, operation.parse({"key": "a.parquet"}))
        await anext(batches)
        assert children() - before
        await batches.aclose()
        assert children() <= before
    for pause in (0.05, 0.3, 0.5):
        task = asyncio.create_task(call(memory, "rows", key="a.parquet"))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert children() <= before


async def test_a_parquet_bomb_is_refused_and_costs_this_process_nothing(memory: Memory) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    table = pa.table({"a": pa.array(["x" * (900 * MIB)]), "b": ["fine"]})
    pq.write_table(
        table, sink, compression="zstd", data_page_size=1 << 30, use_dictionary=False, write_statistics=False
    )
    del table
    memory.objects["bomb.parquet"] = sink.getvalue()
    assert len(memory.objects["bomb.parquet"]) < MIB
    async with Usage() as used:
        with pytest.raises(InvalidRequest, match=r"memory|large"):
            await call(memory, "rows", key="bomb.parquet")
    assert used.most < 64 * MIB
    found = await call(memory, "rows", key="bomb.parquet", columns=["b"])
    assert found.to_dict()["data"] == [{"b": "fine"}]


PARQUET_BOMBS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "a long text in many rows": (lambda: {"a": ["x" * 100_000] * 5000}, {}),  # says that it has a few bytes
    "texts": (lambda: {f"c{n}": [f"{n} {at} {'y' * 40}" for at in range(5000)] for n in range(20)}, {}),
    "a hundred columns": (lambda: {f"c{n}": [at / (n + 1) for at in range(5000)] for n in range(100)}, {}),
    "two thousand columns": (lambda: {f"c{n}": range(100) for n in range(2000)}, {}),
    "one page": (lambda: {"a": ["z" * 100] * 900_000}, {"data_page_size": 1 << 30, "use_dictionary": False}),
    "long lists": (lambda: {"a": [list(range(100_000))] * 20}, {}),
    "many row groups": (lambda: {"a": range(5000)}, {"row_group_size": 1}),
}


@pytest.mark.parametrize("name", PARQUET_BOMBS)
async def test_the_decoder_of_parquet_takes_little_memory(
    memory: Memory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    most: list[int] = []
    end = parquet._end

    def ended(owner: int, pid: int, ours: Any) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        most.extend(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
        end(owner, pid, ours)

    monkeypatch.setattr(parquet, "_end", ended)
    make, options = PARQUET_BOMBS[name]
    sink = io.BytesIO()
    pq.write_table(pa.table({key: pa.array(values) for key, values in make().items()}), sink, **options)
    memory.objects = {"small.parquet": parquet_bytes(1), "bomb.parquet": sink.getvalue()}
    await call(memory, "rows", key="small.parquet")
    with suppress(InvalidRequest):
        assert (await call(memory, "rows", key="bomb.parquet")).row_count
    small, bomb = most
    assert bomb - small < 32 * MIB


async def test_rows_of_parquet_are_whole_in_whatever_parts_they_are_decoded() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "n": list(range(3000)),
        "text": [None if n % 7 == 0 else f"{n} " * (n % 400) for n in range(3000)],
        "list": [[n] * (n % 5) for n in range(3000)],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink, row_group_size=1700, data_page_size=4096)
    async with open_provider(Memory, {"max_rows": 5000}) as memory:
        assert isinstance(memory, Memory)
        found = await rows(memory, "a.parquet", sink.getvalue())
        assert found == [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.table({"a": ["x" * 100_000, "y" * 100_000] * 1000}), sink)  # says that it has a few bytes
        long = await rows(memory, "a.parquet", sink.getvalue())
        assert [row["a"][0] for row in long[:40]] == list("xy" * 20)


async def test_a_long_file_of_parquet_is_fetched_little_more_than_once() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {f"c{n}": [f"{n} {at} {at * 7919 % 65_521}" for at in range(200_000)] for n in range(4)}
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)  # in one row group, of more windows than one
    async with open_provider(Memory, {"max_rows": 100_000, "max_bytes": 64 * MIB}) as memory:
        assert isinstance(memory, Memory)
        memory.chunk = 128 * 1024
        assert len(await rows(memory, "a.parquet", sink.getvalue())) == 100_000
        assert memory.given < 2 * len(sink.getvalue())


async def test_the_decoder_has_no_environment_and_no_files(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    before = children()
    memory.objects["a.parquet"] = parquet_bytes(10_000)
    operation = memory.operation("rows")
    batches = memory.stream(operation, operation.parse({"key": "a.parquet"}))
    await anext(batches)
    (pid,) = children() - before
    environment, files = of_process(pid)
    assert b"canary" not in environment
    assert sorted(files) == ["0", "1", "2"]
    await batches.aclose()


async def test_damaged_parquet_is_refused(memory: Memory) -> None:
    good = parquet_bytes(1000)
    for at in (4, len(good) // 2, len(good) - 8, len(good) - 100):
        bad = good[:at] + b"\xff" * 8 + good[at + 8 :]
        try:
            await rows(memory, "a.parquet", bad, columns=["name"])
        except InvalidRequest:
            continue
    for content in (b"PAR1", b"PAR1" + b"\xff" * 100, good[:-100], b"PAR1" + b"x" * 20 + b"\xff\xff\xff\x7fPAR1"):
        with pytest.raises(InvalidRequest):
            await rows(memory, "a.parquet", content)


async def test_a_record_that_does_not_end_is_refused_at_max_bytes() -> None:
    async with open_provider(Memory, {"max_bytes": 64 * 1024}) as memory:
        assert isinstance(memory, Memory)
        endless = "x" * 200_000
        for key, content in (
            ("a.csv", f'h\n"{endless}'), ("a.log", endless), ("a.ndjson", f'"{endless}'), ("a.json", f'["{endless}'),
            ("b.json", f'{{"a": "{endless}"}}'), ("b.csv", 'h\n"' + "a\n" * 100_000),
        ):  # fmt: skip
            with pytest.raises(InvalidRequest, match="max_bytes"):
                await rows(memory, key, content)
            assert memory.given < 2 * 200_000
            memory.given = 0


async def test_a_bomb_is_stopped_and_lets_others_run() -> None:
    async with open_provider(Memory, {"max_bytes": 64 * 1024}) as memory:
        assert isinstance(memory, Memory)
        for key, unit in (("a.ndjson.gz", b"\n"), ("b.csv.gz", b"\n"), ("c.log.gz", b"x")):
            memory.objects[key] = gzip.compress(unit * 200 * MIB, 9)
            task = asyncio.create_task(call(memory, "rows", key=key))
            longest, last = 0.0, time.perf_counter()
            while not task.done():
                await asyncio.sleep(0)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
            with pytest.raises(InvalidRequest, match="max_bytes"):
                await task
            assert longest < 0.25


async def test_damaged_or_cut_gzip_is_refused(memory: Memory) -> None:
    packed = gzip.compress(b"a\n" * 1000)
    for content in (packed[:-10], packed[:20], packed[:12] + b"\xff" * 20, packed + b"\x1f\x8bjunk"):
        with pytest.raises(InvalidRequest, match="gzip"):
            await rows(memory, "a.log.gz", content)


async def test_members_that_only_later_objects_have_are_kept() -> None:
    async with open_provider(Memory, {"max_rows": 5000}) as memory:
        assert isinstance(memory, Memory)
        lines = [{"a": number} for number in range(1500)] + [{"a": 1, "late": True}]
        found = await rows(memory, "a.ndjson", "\n".join(map(json.dumps, lines)))
        assert found[0] == {"a": 0, "_more": None}
        assert found[-1] == {"a": 1, "_more": {"late": True}}
        assert len(found) == 1501


async def test_odd_csv_is_read_or_refused_with_its_place(memory: Memory) -> None:
    assert await rows(memory, "a.csv", "") == []
    assert await rows(memory, "a.csv", "a,b\n") == []
    assert await rows(memory, "a.tsv", "a\tb\n1\t2") == [{"a": "1", "b": "2"}]
    assert await rows(memory, "a.csv", 'a\n5" pipe\nx\n') == [{"a": '5" pipe'}, {"a": "x"}]
    with pytest.raises(InvalidRequest, match="record 2"):
        await rows(memory, "a.csv", "a,b\n1,2\n1,2,3\n")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        await rows(memory, "a.csv", b"a\n\xff\n")
    with pytest.raises(InvalidRequest, match="line 2"):
        await rows(memory, "a.ndjson", '{"a": 1}\n{"a": }\n')
    with pytest.raises(InvalidRequest):
        await rows(memory, "a.json", "[" * 100_000)
    with pytest.raises(InvalidRequest, match="form"):
        await rows(memory, "a.bin", "x")


async def test_numbers_and_values_keep_every_digit(memory: Memory) -> None:
    found = await rows(memory, "a.ndjson", '{"n": 123456789012345678901234567890, "f": NaN}')
    assert found == [{"n": "123456789012345678901234567890", "f": "NaN"}]
    raw = base64.b64encode(b"\xff").decode()
    assert await rows(memory, "a.log", b"\xff ok\n") == [{"line": "\\xff ok"}], raw
