"""The collector itself: a broken promise must not pass for want of an assertion."""

from __future__ import annotations

import pytest
from tests.attack.report import LINES, Report


def test_a_line_adds_up_its_parts() -> None:
    made = Report()
    made.count("statements", "postgresql", tried=10, accepted=4)
    made.count("statements", "postgresql", tried=5, accepted=1, changed=0)
    made.count("statements", "redis", tried=1)
    assert made.lines() == [
        "statements 16 statements tried on 2 engines, 5 accepted: 0 state changes",
    ]
    assert made.broken() == []


def test_of_a_cost_the_largest_is_told() -> None:
    made = Report()
    made.count("exhaustion", "rest", bombs=1, mib=7, late=30)
    made.count("exhaustion", "rest", bombs=1, mib=5, late=40)
    made.count("exhaustion", "soap", bombs=1, mib=6, late=1)
    assert made.total("exhaustion") == {"bombs": 3, "mib": 7, "left": 0, "late": 40, "held": 0}


@pytest.mark.parametrize("line", LINES)
def test_the_figure_that_must_be_zero_breaks_the_run_and_names_its_part(line: str) -> None:
    made = Report()
    assert LINES[line].never in LINES[line].figures()
    made.count(line, "here", **{LINES[line].never: 1})
    assert made.broken() == [f"{line}: here has 1 {LINES[line].never}"]


def test_a_figure_that_no_sentence_shows_is_refused() -> None:
    with pytest.raises(KeyError, match="changes"):
        Report().count("statements", "redis", changes=1)
