"""Conformance of brokers that keep messages until they are acknowledged, on top of `MessagingConformance`."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from studio.contract import Provider
from studio.errors import InvalidRequest, NotFound, StudioError, Timeout
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.testing.harness import open_provider
from studio.testing.messaging import ask, texts
from studio.testing.messaging_base import as_text
from studio.testing.messaging_limits import QueueLimits

TEXTS = (" ", "a\r\nb", "ünïcödé", "日本語", "🙂", "\ufeffbom", "'; DROP TABLE x; --", '{"a": 1}', "x" * 5000)
"""Texts that must come back as they are; all of them can travel in XML too, which SQS once spoke."""


class QueueConformance(QueueLimits):
    """What a broker does that keeps messages until they are acknowledged."""

    # -- out and in -----------------------------------------------------------------------------

    async def test_messages_come_back_unchanged(self, service: ConnectorService, writable: str) -> None:
        sent = await self.publish(service, writable, *TEXTS)
        assert (sent["row_count"], len({row["id"] for row in sent["data"]})) == (len(TEXTS), len(TEXTS))
        rows = await self.collect(service, writable, len(TEXTS), auto_ack=True)
        assert sorted(row["message"] for row in rows) == sorted(TEXTS)
        assert {row["encoding"] for row in rows} == {"text"}
        assert {row["id"] for row in rows} == {row["id"] for row in sent["data"]}
        assert all(row["published_at"].startswith("20") for row in rows)

    async def test_json_is_sent_as_json_and_bytes_as_bytes(self, service: ConnectorService, writable: str) -> None:
        document = {"a": [1, {"ü": None}], "b": 2.5}
        await self.publish(service, writable, document, [1, 2])
        rows = await self.collect(service, writable, 2, auto_ack=True)
        assert sorted((json.loads(row["message"]) for row in rows), key=str) == sorted([document, [1, 2]], key=str)
        raw = base64.b64encode(bytes(range(256))).decode()
        await self.publish(service, writable, raw, encoding="base64")
        [row] = await self.collect(service, writable, 1, auto_ack=True)
        assert (row["message"], row["encoding"]) == (raw, "base64")

    async def test_keys_and_headers_travel_with_the_message(self, service: ConnectorService, writable: str) -> None:
        key = {"key": "k-ü" if self.keyed else None}
        batch = [{"message": "a", "headers": self.most_headers, **key}, {"message": "b"}]
        await service.execute("publish", {"name": self.name, "batch": batch}, connector_id=writable)
        rows = {row["message"]: row for row in await self.collect(service, writable, 2, auto_ack=True)}
        assert {name: as_text(value) for name, value in rows["a"]["headers"].items()} == {
            name: as_text(value) for name, value in self.most_headers.items()
        }
        assert (rows["a"]["key"], rows["b"]["key"], rows["b"]["headers"]) == (key["key"], None, {})

    async def test_an_empty_queue_answers_nothing_in_time(self, service: ConnectorService, writable: str) -> None:
        assert await self.nothing(service, writable)
        start = time.perf_counter()
        result = await service.execute_query(writable, f"receive {self.name}", {"wait_s": 1.0})
        assert (result["row_count"], result["data"], result["truncated"]) == (0, [], False)
        assert 0.9 < time.perf_counter() - start < 2.5
        for wrong in ({"wait_s": 30.0}, {"wait_s": -1.0}, {"max_messages": 0}, {"max_messages": 1001}):
            with pytest.raises(InvalidRequest, match=next(iter(wrong))):
                await service.execute_query(writable, f"receive {self.name}", wrong)

    async def test_a_receive_that_waits_is_woken_by_a_message(self, service: ConnectorService, writable: str) -> None:
        assert await self.nothing(service, writable)
        waiting = asyncio.create_task(
            service.execute_query(writable, f"receive {self.name}", {"wait_s": 10.0, "auto_ack": True})
        )
        await asyncio.sleep(0.3)
        start = time.perf_counter()
        await self.publish(service, writable, "hello")
        assert texts(await waiting) == ["hello"]
        assert time.perf_counter() - start < 3

    async def test_a_hundred_publishes_at_once_lose_and_double_nothing(
        self, service: ConnectorService, writable: str
    ) -> None:
        names = [f"m{number}" for number in range(100)]
        await asyncio.gather(*(self.publish(service, writable, name) for name in names))
        rows = await self.collect(service, writable, 100, auto_ack=True)
        assert sorted(row["message"] for row in rows) == sorted(names)
        assert await self.nothing(service, writable)

    # -- acknowledging --------------------------------------------------------------------------

    async def test_what_was_acknowledged_stays_away_and_the_rest_comes_back_to_the_next_session(
        self, config: dict[str, Any]
    ) -> None:
        cls = load(self.kind)
        async with open_provider(cls, {**config, "read_only": False}) as provider:
            await ask(provider, "publish", name=self.name, messages=["a", "b", "c", "d"])
            rows = await self._rows(provider, 4, hold_s=2)
            by = {row["message"]: row["handle"] for row in rows}
            assert (await ask(provider, "ack", handles=[by["a"], by["b"]])).data == 2
        async with open_provider(cls, {**config, "read_only": False}) as provider:
            again = await self._rows(provider, 2, auto_ack=True)
            assert sorted(row["message"] for row in again) == ["c", "d"]
            if self.session_holds:
                with pytest.raises(NotFound, match="session that has ended"):
                    await ask(provider, "ack", handles=[by["c"]])
        async with open_provider(cls, {**config, "read_only": False}) as provider:
            assert (await ask(provider, "receive", name=self.name)).rows == []

    async def _rows(self, provider: Provider[Any], count: int, **more: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        until = asyncio.get_running_loop().time() + self.settle_s
        while len(rows) < count and asyncio.get_running_loop().time() < until:
            rows += (await ask(provider, "receive", name=self.name, max_messages=count - len(rows), **more)).to_dict()[
                "data"
            ]
        return rows

    async def test_what_was_given_back_comes_at_once_and_says_so(
        self, service: ConnectorService, writable: str
    ) -> None:
        await self.publish(service, writable, "a", "b")
        first = await self.collect(service, writable, 2)
        assert {row["redelivered"] for row in first} <= {False, None}
        back = [row["handle"] for row in first if row["message"] == "b"]
        assert (await service.execute("nack", {"handles": back}, connector_id=writable))["data"] == 1
        [again] = await self.collect(service, writable, 1)
        assert again["message"] == "b"
        assert again["redelivered"] in {True, None}
        rest = [again["handle"], *(row["handle"] for row in first if row["message"] == "a")]
        await service.execute_query(writable, "ack", {"handles": rest})
        assert await self.nothing(service, writable)

    async def test_what_was_neither_acknowledged_nor_given_back_comes_after_its_time(
        self, service: ConnectorService, writable: str
    ) -> None:
        await self.publish(service, writable, "a")
        [row] = await self.collect(service, writable, 1, hold_s=1)
        assert (await service.execute_query(writable, f"receive {self.name}", {"wait_s": 0.0}))["row_count"] == 0
        [again] = await self.collect(service, writable, 1, hold_s=30)
        assert (again["message"], again["handle"] == row["handle"]) == ("a", False)
        if self.session_holds:
            with pytest.raises(NotFound, match="comes back"):
                await service.execute("ack", {"handles": [again["handle"], row["handle"]]}, connector_id=writable)
        assert (await service.execute("ack", {"handles": [again["handle"]]}, connector_id=writable))["data"] == 1

    async def test_a_handle_is_good_once_and_cannot_be_made_up(self, service: ConnectorService, writable: str) -> None:
        await self.publish(service, writable, "a")
        [row] = await self.collect(service, writable, 1)
        assert len(row["handle"]) > 20
        for forged in ("x", row["handle"][:-3] + "xxx", row["handle"].partition(".")[0]):
            with pytest.raises(StudioError) as caught:
                await service.execute("ack", {"handles": [forged]}, connector_id=writable)
            assert caught.value.code in {"not_found", "invalid_request"}
        await service.execute("ack", {"handles": [row["handle"]]}, connector_id=writable)
        if self.session_holds:
            for verb in ("ack", "nack"):
                with pytest.raises(NotFound):
                    await service.execute(verb, {"handles": [row["handle"]]}, connector_id=writable)

    async def test_messages_may_be_acknowledged_out_of_order(self, config: dict[str, Any]) -> None:
        cls = load(self.kind)
        async with open_provider(cls, {**config, "read_only": False}) as provider:
            await ask(provider, "publish", name=self.name, messages=["a", "b", "c"])
            by = {row["message"]: row["handle"] for row in await self._rows(provider, 3, hold_s=1)}
            await ask(provider, "ack", handles=[by["c"], by["b"]])
            again = await self._rows(provider, 1, hold_s=30)
            assert [row["message"] for row in again] == ["a"]
            if self.out_of_order:
                return
            await ask(provider, "ack", handles=[again[0]["handle"]])
        async with open_provider(cls, {**config, "read_only": False}) as provider:
            assert (await ask(provider, "receive", name=self.name)).rows == []

    # -- caps -----------------------------------------------------------------------------------

    # -- faults ---------------------------------------------------------------------------------

    async def test_the_deadline_ends_a_slow_receive_and_a_cancelled_one_takes_nothing(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, read_only=False, pool_size=1, timeout_s=20.0)
        assert await self.nothing(service, connector_id)
        task = asyncio.create_task(
            service.execute_query(connector_id, f"receive {self.name}", {"wait_s": 15.0, "hold_s": 1})
        )
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.publish(service, connector_id, "still here")
        [row] = await self.collect(service, connector_id, 1)
        assert row["message"] == "still here"
        await service.update(connector_id, {"config": {"timeout_s": 0.5}})
        start = time.perf_counter()
        with pytest.raises((Timeout, InvalidRequest)):
            await service.execute_query(connector_id, f"receive {self.name}", {"wait_s": 0.5})
        assert time.perf_counter() - start < 1.5
