"""Prints the attack report at the end of a run, and fails the run where a promise did not hold."""

from __future__ import annotations

import pytest
from tests.attack.report import report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if report.broken() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := report.lines():
        terminalreporter.section("attack report")
        for line in [*lines, *report.broken()]:
            terminalreporter.write_line(line)
