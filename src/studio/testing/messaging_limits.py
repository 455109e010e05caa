"""Conformance of queues: caps, names, prefixes and peeking."""

from __future__ import annotations

import time
from typing import Any

import pytest

from studio.errors import NotFound, OperationNotSupported, ResultBlocked, StudioError
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.testing.messaging import handles, texts
from studio.testing.messaging_base import QueueBase


class QueueLimits(QueueBase):
    """What bounds an answer, and what a name can reach."""

    async def test_what_max_bytes_leaves_out_is_not_lost(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        sent = [f"{number}" * 300 for number in range(6)]
        await self.publish(service, writable, *sent)
        small = await self.connect(service, config, name="small", read_only=False, max_bytes=1024)
        rows: list[Any] = []
        cut = False
        for _ in range(12):
            answer = await service.execute_query(small, f"receive {self.name}", {"auto_ack": True})
            assert answer["row_count"] <= 2
            cut = cut or answer["truncated"]
            rows += answer["data"]
            if len(rows) == len(sent):
                break
        assert sorted(row["message"] for row in rows) == sent
        assert cut

    async def test_a_message_larger_than_max_bytes_is_an_error_and_stays(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        await self.publish(service, writable, "x" * 3000)
        small = await self.connect(service, config, name="small", read_only=False, max_bytes=1024)
        with pytest.raises(ResultBlocked, match="max_bytes"):
            await service.execute_query(small, f"receive {self.name}", {"auto_ack": True})
        await service.update(small, {"status": "inactive"})  # ends its session
        [row] = await self.collect(service, writable, 1, auto_ack=True)
        assert len(row["message"]) == 3000

    async def test_max_messages_bounds_an_answer(self, service: ConnectorService, writable: str) -> None:
        await self.publish(service, writable, *"abcdefghijkl")
        answer = await service.execute_query(writable, f"receive {self.name}", {"max_messages": 3, "auto_ack": True})
        assert 1 <= answer["row_count"] <= 3
        rest = await self.collect(service, writable, 12 - answer["row_count"], auto_ack=True)
        assert sorted(texts(answer) + [row["message"] for row in rest]) == list("abcdefghijkl")

    # -- names ----------------------------------------------------------------------------------

    async def test_what_is_not_there_is_not_found_and_is_not_made(
        self, service: ConnectorService, writable: str
    ) -> None:
        for query, params in (
            ("publish nothing", {"message": "x"}), ("receive nothing", {"wait_s": 0.0}), ("describe nothing", None),
        ):  # fmt: skip
            start = time.perf_counter()
            with pytest.raises(NotFound):
                await service.execute_query(writable, query, params)
            assert time.perf_counter() - start < 3
        with pytest.raises(NotFound):
            await service.execute_query(writable, "describe nothing")

    async def test_names_outside_of_the_prefix_are_not_reached(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        await self.publish(service, writable, "canary")
        inner = {**config, self.prefix_field: config[self.prefix_field] + "inner"}
        connector_id = await self.connect(service, inner, name="inner", read_only=False)
        for name in (
            self.name,
            config[self.prefix_field] + self.name,
            f"../{self.name}",
            f"/{self.name}",
            f".{self.name}",
        ):
            for verb, more in (("publish", {"message": "x"}), ("receive", {"auto_ack": True}), ("describe", {})):
                with pytest.raises(StudioError) as caught:
                    await service.execute(verb, {"name": name, **more}, connector_id=connector_id)
                assert caught.value.code in {"not_found", "invalid_request"}, (verb, name)
        assert [row["message"] for row in await self.collect(service, writable, 1, auto_ack=True)] == ["canary"]

    async def test_names_in_a_list_have_no_prefix(self, service: ConnectorService, config: dict[str, Any]) -> None:
        reader = await self.connect(service, config)
        if "list" not in load(self.kind).operations:
            with pytest.raises(OperationNotSupported, match=r"it has: .*describe"):
                await service.execute_query(reader, "list")
            return
        assert [row["name"] for row in (await service.execute_query(reader, "list"))["data"]] == [self.name]

    async def test_a_peek_changes_nothing(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        if "peek" not in load(self.kind).operations:
            with pytest.raises(StudioError, match="no operation"):
                await service.execute_query(writable, f"peek {self.name}")
            return
        reader = await self.connect(service, config, name="reader")
        assert texts(await service.execute_query(reader, f"peek {self.name}")) == []
        await self.publish(service, writable, "a", "b", "c")
        before = (await service.execute_query(reader, self.one))["data"]
        for _ in range(3):
            answer = await service.execute_query(reader, f"peek {self.name}", {"max_messages": 10})
            assert sorted(texts(answer)) == ["a", "b", "c"]
            assert set(handles(answer)) == {None}
        assert (await service.execute_query(reader, self.one))["data"] == before
        assert len(await self.collect(service, writable, 3, auto_ack=True)) == 3
