"""Fixtures that all tests share, and the poison of the whole run. Importing this file needs no driver."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests import poison
from tests.servers import Postgres

poison.begin()  # here already, because conftests below this one import the product, as the next line does
from studio.loop import new_loop  # noqa: E402

pytest_plugins = ["tests.attack.switch"]


class _Loop(new_loop):
    """The service's loop, made fit for pytest. uvloop calls Python from C, and what is raised there is lost.

    A time limit that strikes while the loop sleeps would only be logged, and a ResourceWarning that is an
    error would leave its socket open and `close` waiting for it for ever.
    """

    struck: BaseException | None = None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), pytest.fail.Exception):
            self.struck = context["exception"]
            self.stop()
        else:
            super().call_exception_handler(context)

    def run_until_complete(self, future: Any) -> Any:
        try:
            return super().run_until_complete(future)
        except RuntimeError:
            struck, self.struck = self.struck, None
            if struck is None:
                raise
            raise struck from None

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always", ResourceWarning)
            super().close()
        for warning in left:
            warnings.warn(str(warning.message), warning.category, stacklevel=2)


class _Policy(asyncio.DefaultEventLoopPolicy):
    """Tests run on the loop under which the service is served; STUDIO_TEST_LOOP=asyncio takes asyncio's own."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _Loop()


if os.environ.get("STUDIO_TEST_LOOP") != "asyncio":
    asyncio.set_event_loop_policy(_Policy())

SERVER_FIXTURES = {"postgres", "own_postgres"}
"""With those of `tests.upstreams`: a test that uses one is marked `server`, so that `-m "not server"` leaves it out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        found = getattr(item, "_fixtureinfo", None)
        for name, definitions in found.name2fixturedefs.items() if found else ():
            if name in SERVER_FIXTURES or definitions[-1].func.__module__.startswith("tests.upstreams"):
                item.add_marker("server")
                break


def pytest_runtest_logfinish(nodeid: str) -> None:
    poison.run().look(nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    poison.run().end()
    if poison.run().caught and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in [poison.run().says(), *poison.run().caught]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of the whole run; tests isolate themselves by database."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of one module's own, to crash and to restart."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """An empty database of the shared server, by name."""
    async with postgres.fresh_database() as name:
        yield name


@pytest.fixture
def spans() -> Iterator[Any]:
    """What is traced during the test: an `InMemorySpanExporter`."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from studio.services import tracing

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.stop()
