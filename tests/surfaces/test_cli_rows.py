"""Results of `studio query` as json and as a table: a small one as ever, a large one in constant memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from studio.cli import rows
from studio.contract.caps import Capped
from studio.services.streams import encoded, form_of

COLUMNS = [{"name": "n", "type": "int8"}, {"name": "text", "type": "text"}]


async def source(parts: Sequence[Capped]) -> AsyncGenerator[Capped, None]:
    for part in parts:
        yield part


async def pieces(parts: Sequence[Capped], size: int) -> AsyncGenerator[bytes, None]:
    """What a server sends, cut anywhere."""
    whole = b"".join([chunk async for chunk in encoded(source(parts), form_of("json"))])
    for at in range(0, len(whole), size):
        yield whole[at : at + size]


def part(first: int, count: int, text: str = "x") -> Capped:
    return Capped(COLUMNS, [(n, f"{text} ],é{n}") for n in range(first, first + count)])


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_document_is_read_from_pieces_cut_anywhere(size: int) -> None:
    document = rows.Document()
    plain = Capped([], [12, 345, "a", None, {"b": [1]}], documents=True)
    async for piece in pieces([part(0, 30)], size):
        document.feed(piece)
    assert document.columns == COLUMNS
    assert document.rows == [{"n": n, "text": f"x ],é{n}"} for n in range(30)]
    assert document.end == {"success": True, "row_count": 30, "truncated": False}
    document = rows.Document()
    async for piece in pieces([plain], size):
        document.feed(piece)
    assert document.rows == plain.rows


@pytest.mark.parametrize("size", [17, 1000])
async def test_a_large_document_is_the_same_document(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    end = await rows.show(pieces([part(0, 1500), part(1500, 1000, "\x9b")], size), "json", fail)
    shown = capsys.readouterr().out
    found = json.loads(shown)
    assert found.pop("data") == [{"n": n, "text": f"{'x' if n < 1500 else chr(0x9B)} ],é{n}"} for n in range(2500)]
    assert found == {"success": True, "columns": COLUMNS, **(end or {})}
    assert found["row_count"] == 2500
    assert "\x9b" not in shown


async def test_a_large_table_is_as_wide_as_its_first_page(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Capped(COLUMNS, [(9999, "y" * 50)])
    await rows.show(pieces([part(0, 2500), wide], 1000), "table", fail)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["n", "text"]
    assert [line.split("   ")[0].strip() for line in lines[2:]] == [*map(str, range(2500)), "9999"]
    assert lines[-1].endswith("y" * 50)


async def test_documents_with_other_fields_begin_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [Capped([], [{name: 1} for _ in range(1002)], documents=True) for name in ("a", "b")]
    await rows.show(pieces(parts, 1 << 20), "table", fail)
    assert set(capsys.readouterr().out.splitlines()[0].split()) == {"a", "b"}  # of one page
    await rows.show(one_by_one(parts), "table", fail)
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if line.strip() in {"a", "b"}] == ["a", "b"]


async def one_by_one(parts: Sequence[Capped]) -> AsyncGenerator[bytes, None]:
    async for chunk in encoded(source(parts), form_of("json")):
        yield chunk


async def test_no_more_than_a_page_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0

    class Watched(rows.Document):
        def feed(self, chunk: bytes) -> None:
            nonlocal most
            super().feed(chunk)
            most = max(most, len(self.rows))

    monkeypatch.setattr(rows, "Document", Watched)
    for form in ("table", "json"):
        await rows.show(pieces([part(0, 20_000)], 4096), form, fail)
    assert rows.PAGE < most < 2 * rows.PAGE


def fail(_: Any) -> None:
    raise AssertionError("it was held as a whole")
