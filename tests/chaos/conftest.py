"""The report, printed at the end, that fails a run where a promise did not hold; and three replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.chaos.cluster import Cluster, Durable, Upstream, serving
from tests.chaos.report import report
from tests.chaos.scale import SCALE


def pytest_sessionfinish(session: pytest.Session) -> None:
    if report.broken() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := report.lines():
        terminalreporter.section("chaos report")
        for line in [*lines, *report.broken()]:
            terminalreporter.write_line(line)


@pytest_asyncio.fixture(loop_scope="session")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as made:
        yield made


@pytest.fixture
def scale() -> int:
    return SCALE


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One for all tests here, each of which leaves it with every replica up. Its PostgreSQL may be killed."""
    server = Durable()
    try:
        await asyncio.to_thread(server.start)
        async with serving(server, tmp_path_factory.mktemp("chaos"), replicas=3) as made:
            yield made
    finally:
        server.close()
