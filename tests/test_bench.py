"""What the benchmark found is kept part by part, and its page is made of what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import __main__ as bench
from bench.page import page
from bench.parts import Part, keep, kept
from bench.peers.rounds import Against, Row, Spread
from bench.runner import Outcome

ROW = Row(
    "1 row, 1 caller", "Studio", 10.0, 5.0, [Against("Toolbox, pool 4", Spread(0.5, 0.6, 0.7), 1.1, 20.0, 4.0)], 3
)
FIRST = Part("one_row_1", 15, 1.0, 60.0, "2026-01-01 10:00 UTC", rows=[ROW])
SECOND = Part(
    "connect_redis", 15, 0.5, 30.0, "2026-01-01 10:01 UTC",
    small=[Outcome("connect_redis", "bare: PING", 110.0, 100.0, 0.91, 0.9, 0.92, 50.0, 40.0)],
)  # fmt: skip


def test_a_part_comes_back_as_it_was_and_replaces_the_former_one(tmp_path: Path) -> None:
    keep(Part("one_row_1", 3, 1.0), tmp_path)
    keep(FIRST, tmp_path)
    keep(SECOND, tmp_path)
    assert kept(["connect_redis", "scale", "one_row_1"], tmp_path) == [SECOND, FIRST]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json"]


def test_the_page_says_which_goals_are_missed_and_what_there_is_to_say_of_them() -> None:
    text = page([FIRST, SECOND], "Preface.\n\n## Beside the peers\n\nTried: this.\n\n## Start\n\nThat.\n")
    assert "| 1 row, 1 caller | Toolbox, pool 4 | 0.60 (0.50 to 0.70) | ≥ 1x: **missed** |" in text
    assert "| ≥ 0.83x: reached |" in text
    assert (
        text.index("**missed**") < text.index("### Where a goal is missed\n\nTried: this.") < text.index("## Test of")
    )
    assert "## Start\n\n### Where a goal is missed\n\nThat." in text
    assert "Preface" not in text
    assert "| one_row_1 | 2026-01-01 10:00 UTC | 15 | 1 | 60 |" in text
    assert "Tried" not in page([FIRST, SECOND], "## Beside the peers\n")


def test_what_was_measured_before_a_crash_is_kept_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> list[bench.Table]:
        raise ZeroDivisionError

    table = ("Start", "Wall time.", [["what", "s"], ["help", "0.1"]])
    monkeypatch.setattr(bench, "TABLES", {"startup": lambda: [table], "scale": crash})
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr("bench.parts.FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--only", "startup", "scale", "--keep"])
    with pytest.raises(ZeroDivisionError):
        bench.main()
    assert "| help | 0.1 |" in (tmp_path / "RESULTS.md").read_text()
    monkeypatch.setattr("sys.argv", ["bench", "--page"])
    (tmp_path / "RESULTS.md").unlink()
    bench.main()
    assert "| help | 0.1 |" in (tmp_path / "RESULTS.md").read_text()


def test_a_quick_look_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "TABLES", {"startup": lambda: [("Start", "Wall time.", [["what"], ["help"]])]})
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr("bench.parts.FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--only", "startup"])
    bench.main()
    assert "| help |" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
