"""What the audit log costs a read: the same governed call with its row and without."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.governed import Pair, case, governed
from studio.services import execution, metrics, planning
from studio.services.audited import Call
from studio.services.connector_service import ConnectorService


class Unaudited:
    """`Call` as it would be without the log: it times and counts."""

    def __init__(self, _core: object, planned: planning.Planned, _until: float) -> None:
        self._kind, self._start = planned.target.effective.kind.kind, time.perf_counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        metrics.record("database", self._kind, "query", "ok", self.seconds())

    def seconds(self) -> float:
        """Since the call began."""
        return time.perf_counter() - self._start

    def answered(self, result: object) -> None:
        """Nothing is noted."""


@case("audit", "SELECT 1 on sqlite; bare: the same through the service, without a row in the audit log")
@asynccontextmanager
async def audit(service: ConnectorService, folder: Path) -> AsyncIterator[Pair]:
    """The rows are written by another thread meanwhile, which costs this one time as well."""
    import apsw

    db = apsw.Connection(str(folder / "files" / "bench.db"))
    db.execute("CREATE TABLE t (id)")
    ours = await governed(service, "sqlite", "database", {"path": "bench.db"}, "SELECT 1 AS one")
    module: Any = execution

    async def without() -> object:
        module.Call = Unaudited
        try:
            return await ours()
        finally:
            module.Call = Call

    yield ours, without
    db.close()
