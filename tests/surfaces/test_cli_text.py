"""Tables as text: one look, and a million rows through a pipe."""

from __future__ import annotations

from typing import Any

import pytest

from studio.cli import text

_ROWS = [["1", "漢字", "[bold]x"], ["", "e\u0301x  ", "  y"], ["12345", "👩‍👩‍👧", ""]]
_NAMES = ["id", "name ñ", "z"]


def test_a_pipe_gets_the_table_that_a_wide_terminal_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    for rows in (_ROWS, _ROWS[:1], []):
        assert list(text._laid_out(rows, _NAMES, text._widths(rows, _NAMES))) == text._fitted(rows, _NAMES)


def test_a_pipe_gets_long_cells_whole_and_does_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(*_: Any, **__: Any) -> None:
        raise AssertionError("rich takes a third of a millisecond a row")

    monkeypatch.setattr("rich.table.Table.add_row", slow)
    long = "x" * 200_000
    text.print_table([{"id": 1, "name": long}], ["id", "name"])
    assert capsys.readouterr().out.splitlines()[-1] == f"1    {long}"
    text.print_table([], [])
    assert capsys.readouterr().out == "\n"
