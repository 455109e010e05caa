"""The service that is attacked; and the report, printed at the end, that fails a run where a promise did not hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests import poison
from tests.attack import corpus
from tests.attack.report import report
from tests.attack.served import program, served
from tests.upstreams.kafka import kafka
from tests.upstreams.mariadb import mariadb
from tests.upstreams.mongodb import mongodb_database, mongodb_server
from tests.upstreams.rabbitmq import rabbitmq
from tests.upstreams.redis import redis_db, redis_server
from tests.upstreams.sqs import moto

from studio import providers
from studio.models import Principal, Role
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

__all__ = [
    "kafka", "mariadb", "mongodb_database", "mongodb_server", "moto", "program", "rabbitmq", "redis_db", "redis_server",
    "served",
]  # fmt: skip

KINDS = providers.built()
NETWORKED = [kind for kind in KINDS if kind != "sqlite"]
Serve = Callable[..., Any]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if report.lines():
        report.count("session", "the run", planted=poison.PLANTED, seen=len(poison.run().caught))
    if report.broken() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := report.lines():
        terminalreporter.section("attack report")
        for line in [*lines, *report.broken()]:
            terminalreporter.write_line(line)


class Target:
    """A service as the admin of one organization has it, and the shortest way to a connector."""

    def __init__(self, service: ConnectorService) -> None:
        self.root = service
        self.service = service.acting_as(Principal("acme", "mallory", Role.ADMIN))
        self._count = 0

    async def create(self, kind: str, config: dict[str, Any]) -> str:
        """Register a connector; its id."""
        self._count += 1
        family = providers.load(kind).family
        body = {"name": f"{kind} {self._count}", "connector_type": family, "provider": kind, "config": config}
        return str((await self.service.create(body))["id"])

    async def query(self, kind: str, connector_id: str) -> Any:
        """Read one thing through it."""
        return await self.service.execute_query(connector_id, corpus.read("kinds")[kind]["query"])


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Opens a service with settings of its own, each on an empty store."""
    numbers = count()
    async with AsyncExitStack() as stack:

        async def opened(**settings: Any) -> Target:
            chosen = Settings(data_dir=tmp_path / f"studio-{next(numbers)}", port=0, **settings)
            return Target(await stack.enter_async_context(ConnectorService(chosen)))

        yield opened


@pytest.fixture
async def closed(serve: Serve) -> Target:
    """A service that other machines can reach, so that private ranges are shut."""
    return await serve(host="0.0.0.0")


@pytest.fixture
async def local(serve: Serve) -> Target:
    """A service on loopback: a developer's machine."""
    return await serve()
