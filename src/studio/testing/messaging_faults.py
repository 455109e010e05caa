"""Conformance of a broker under faults: it is ended, started again, and frozen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from studio.errors import NotFound, StudioError, Timeout
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.harness import open_provider
from studio.testing.messaging import ask


class DurableConformance:
    """Beside `QueueConformance`, on a broker of the test's own that it may end and start again."""

    kind: ClassVar[str]
    heals_s: ClassVar[float] = 0
    """How long after the port is back a call may still fail."""

    @pytest.fixture
    async def own(self) -> Any:
        """(server, config, name): the server has crash(), launch(), freeze() and thaw(). To be overridden."""
        raise NotImplementedError

    async def test_what_was_published_survives_a_crash_and_the_next_call_heals(self, own: Any) -> None:
        server, config, name = own
        async with open_provider(load(self.kind), {**config, "read_only": False, "timeout_s": 10.0}) as provider:
            await ask(provider, "publish", name=name, messages=["a", "b"])
            waiting = asyncio.create_task(ask(provider, "receive", name=name, max_messages=2, hold_s=30))
            held = (await waiting).to_dict()["data"]
            server.crash()
            for verb, more in (("publish", {"message": "x"}), ("receive", {}), ("describe", {})):
                start = time.perf_counter()
                with pytest.raises(StudioError) as caught:
                    async with asyncio.timeout(3):
                        await ask(provider, verb, name=name, **more)
                assert caught.value.code == "unreachable", verb
                assert time.perf_counter() - start < 3
            server.launch()  # not in a thread: the server ends with the thread that starts it
            await asyncio.sleep(self.heals_s)
            assert (await ask(provider, "publish", name=name, message="c")).row_count == 1
            with pytest.raises(NotFound):
                await ask(provider, "ack", handles=[row["handle"] for row in held])
            seen: list[str] = []
            until = time.monotonic() + 15
            while len(seen) < 3 and time.monotonic() < until:
                answer = await ask(provider, "receive", name=name, auto_ack=True)
                seen += [row["message"] for row in answer.to_dict()["data"]]
            assert sorted(seen) == ["a", "b", "c"]

    async def test_a_frozen_broker_costs_the_deadline_and_no_more(self, own: Any, tmp_path: Path) -> None:
        server, config, name = own
        config = {**config, "read_only": False, "timeout_s": 1.0}
        record = {"organization_id": "acme", "connector_type": "messaging", "provider": self.kind, "config": config}
        async with ConnectorService(Settings(data_dir=tmp_path / "studio")) as service:
            made = str((await service.create({"name": "frozen", **record}))["id"])
            await service.execute_query(made, f"publish {name}", {"message": "x"})
            server.freeze()
            try:
                start = time.perf_counter()
                with pytest.raises(Timeout):
                    await service.execute_query(made, f"publish {name}", {"message": "x"})
                assert 0.9 < time.perf_counter() - start < 1.5
            finally:
                server.thaw()
            assert (await service.execute_query(made, f"describe {name}"))["row_count"] == 1
