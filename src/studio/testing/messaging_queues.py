"""Conformance of brokers that keep messages until they are acknowledged, on top of `MessagingConformance`."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any, ClassVar

import pytest

from studio.contract import Provider
from studio.errors import InvalidRequest, NotFound, OperationNotSupported, ResultBlocked, StudioError, Timeout
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.testing.harness import open_provider
from studio.testing.messaging import MessagingConformance, ask, handles, texts

TEXTS = (" ", "a\r\nb", "ünïcödé", "日本語", "🙂", "\ufeffbom", "'; DROP TABLE x; --", '{"a": 1}', "x" * 5000)
"""Texts that must come back as they are; all of them can travel in XML too, which SQS once spoke."""


class QueueConformance(MessagingConformance):
    """What a broker does that keeps messages until they are acknowledged."""

    settle_s: ClassVar[float] = 5
    """How long a message may take from one session to the next."""
    session_holds: ClassVar[bool] = True
    """Whether handles end with their session; else they hold wherever they are used (SQS)."""
    keyed: ClassVar[bool] = True
    """Whether a message for `orders` may have a key."""
    most_headers: ClassVar[dict[str, Any]] = {"text": "ünï", "number": 7, "half": 1.5, "yes": True}
    """Headers to send; they come back as these or as their texts."""
    out_of_order: ClassVar[bool] = True
    """Whether what was acknowledged stays away although something before it was not."""

    async def publish(self, service: ConnectorService, connector_id: str, *messages: Any, **more: Any) -> Any:
        """Publish to `orders`."""
        return await service.execute_query(connector_id, f"publish {self.name}", {"messages": list(messages), **more})

    async def collect(self, service: ConnectorService, connector_id: str, count: int, **more: Any) -> list[Any]:
        """Receive until there are `count` rows: one receive may answer fewer than there are."""
        rows: list[Any] = []
        until = asyncio.get_running_loop().time() + self.settle_s
        while len(rows) < count and asyncio.get_running_loop().time() < until:
            given = {"max_messages": min(count - len(rows), 1000), **more}
            rows += (await service.execute_query(connector_id, f"receive {self.name}", given))["data"]
        return rows

    async def nothing(self, service: ConnectorService, connector_id: str) -> bool:
        """Whether there is nothing to receive; a consumer group is joined by then."""
        answer = await service.execute_query(connector_id, f"receive {self.name}", {"wait_s": 0.3})
        return bool(answer["row_count"] == 0)

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
        assert {name: _text(value) for name, value in rows["a"]["headers"].items()} == {
            name: _text(value) for name, value in self.most_headers.items()
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

    # -- faults ---------------------------------------------------------------------------------

    async def test_the_deadline_ends_a_slow_receive_and_a_cancelled_one_takes_nothing(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, read_only=False, pool_size=1, timeout_s=20.0)
        assert await self.nothing(service, connector_id)
        task = asyncio.create_task(service.execute_query(connector_id, f"receive {self.name}", {"wait_s": 15.0}))
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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
