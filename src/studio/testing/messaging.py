"""Conformance of the messaging family. Inherit, say how to reach a real broker, and run with pytest.

    class TestMyQueues(QueueConformance):           # see `studio.testing.messaging_queues`
        kind = "myqueues"
        prefix_field = "queue_prefix"

        @pytest.fixture
        async def place(self, my_server):           # a prefix of its own for each test, with an empty `orders`
            return {"host": …, "password": …, "queue_prefix": f"{uuid4()}."}

        def elsewhere(self, place, port):           # the same place on another port of this machine
            return {**place, "port": port}

Everything goes through `ConnectorService`, as a caller would, but for what must end a session, which
goes through the provider. Needs pytest and pytest-asyncio (`asyncio_mode = "auto"`).
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, ClassVar

import pytest

from studio.contract import Provider, Result
from studio.errors import InvalidRequest, OverrideNotAllowed, ReadOnly, StudioError, Unreachable
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.testing.harness import open_provider, says_who_enforces
from studio.testing.provider import ProviderConformance

WRONG = 'wr0ng#@/:%41" p ässword'


async def ask(provider: Provider[Any], verb: str, /, **arguments: Any) -> Result:
    """Run one operation of a provider the way the house does."""
    operation = provider.operation(verb)
    return await provider.run(operation, operation.parse(arguments))


def texts(answer: Any) -> list[Any]:
    """The messages of an answer of receive or peek."""
    return [row["message"] for row in answer["data"]]


def handles(answer: Any) -> list[str]:
    """Their handles."""
    return [row["handle"] for row in answer["data"]]


class MessagingConformance(ProviderConformance):
    """What every broker does, whether it keeps messages or not."""

    family = "messaging"
    one = "describe orders"
    prefix_field: ClassVar[str]
    secret_field: ClassVar[str] = "password"  # noqa: S105 - a field's name
    name: ClassVar[str] = "orders"

    @pytest.fixture
    async def place(self) -> dict[str, Any]:
        """How to reach a broker, below a prefix that nobody else uses, with an empty `orders`. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    async def config(self, place: dict[str, Any]) -> dict[str, Any]:
        """The place itself."""
        return place

    @pytest.fixture
    async def writable(self, service: ConnectorService, config: dict[str, Any]) -> str:
        """A connector that may publish and receive."""
        return await self.connect(service, config, name="writable", read_only=False)

    def elsewhere(self, place: dict[str, Any], port: int) -> dict[str, Any]:
        """The same place on another port of this machine."""
        return {**place, "port": port}

    # -- the main job ---------------------------------------------------------------------------

    async def test_a_test_names_its_stages_and_says_who_enforces_read_only(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(await self.connect(service, config))
        assert tested["success"], tested
        assert all(stage["ok"] and stage["ms"] >= 0 for stage in tested["stages"])
        names = [stage["name"] for stage in tested["stages"] if stage["name"] != "tls"]
        assert names == ["resolve", "connect", "login", "privileges", "sample"]
        says_who_enforces(tested)

    async def test_a_read_only_connector_neither_publishes_nor_takes(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        reader = await self.connect(service, config)
        writes: dict[str, dict[str, Any]] = {
            "publish": {"name": self.name, "message": "x"}, "receive": {"name": self.name, "auto_ack": True},
            "ack": {"handles": ["x"]}, "nack": {"handles": ["x"]},
        }  # fmt: skip
        before = (await service.execute_query(reader, self.one))["data"]
        for verb, arguments in writes.items():
            if verb not in load(self.kind).operations:
                continue
            with pytest.raises(ReadOnly, match="read"):
                await service.execute(verb, arguments, connector_id=reader)
            async with open_provider(load(self.kind), config) as provider:  # the provider by itself, below policy
                with pytest.raises(ReadOnly):
                    await ask(provider, verb, **arguments)
        assert (await service.execute_query(reader, self.one))["data"] == before

    async def test_a_message_is_given_once_and_in_one_form(self, service: ConnectorService, writable: str) -> None:
        wrongs: tuple[dict[str, Any], ...] = (
            {}, {"message": "a", "messages": ["b"]}, {"message": "a", "batch": [{"message": "b"}]}, {"messages": []},
            {"batch": [{}]}, {"batch": [{"message": "a", "other": 1}]}, {"message": 1}, {"message": "a", "other": 1},
            {"message": "no base64", "encoding": "base64"}, {"message": {"a": 1}, "encoding": "base64"},
            {"message": {"a": float("nan")}}, {"message": "\ud800"}, {"message": "a", "headers": {"h": None}},
            {"batch": [{"message": "a"}], "headers": {"h": "x"}},
        )  # fmt: skip
        for wrong in wrongs:
            with pytest.raises(InvalidRequest):
                await service.execute_query(writable, f"publish {self.name}", wrong)

    async def test_a_query_is_a_verb_and_a_name(self, service: ConnectorService, config: dict[str, Any]) -> None:
        reader = await self.connect(service, config)
        asked: tuple[tuple[str, dict[str, Any] | None], ...] = (
            (f"describe {self.name}", None), ("DESCRIBE :it", {"it": self.name}), ("describe", {"name": self.name}),
        )  # fmt: skip
        for query, params in asked:
            assert (await service.execute_query(reader, query, params))["data"]["name"] == self.name
        wrong: tuple[tuple[str, dict[str, Any] | None], ...] = (
            ("", None), ("drop orders", None), ("describe", None), ("describe :it", None), ("describe :it", {"it": 7}),
            (f"describe {self.name}", {"name": "x"}), (f"list {self.name}", None), (f"describe {self.name}", {"x": 1}),
        )  # fmt: skip
        for query, params in wrong:
            with pytest.raises(InvalidRequest):
                await service.execute_query(reader, query, params)

    async def test_an_attachment_may_narrow_the_prefix_and_nothing_else(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        prefix = config[self.prefix_field]
        below = {self.prefix_field: prefix + self.name[:2]}
        await service.attach_to_agent(writable, "agent-1", "narrow", below)
        found = await service.execute_query(agent_id="agent-1", alias="narrow", query=f"describe {self.name[2:]}")
        assert found["data"]["name"] == self.name[2:]
        for number, wider in enumerate((prefix[:-1], "x" + prefix, "")):
            with pytest.raises(StudioError) as caught:
                await service.attach_to_agent(writable, "agent-1", f"w{number}", {self.prefix_field: wider})
            assert caught.value.code in {"override_not_allowed", "invalid_config"}
        for field in load(self.kind).Config.destination_fields():
            with pytest.raises(OverrideNotAllowed):
                await service.attach_to_agent(writable, "agent-1", f"d-{field}", {field: config.get(field) or "x"})

    # -- faults ---------------------------------------------------------------------------------

    async def test_a_closed_port_is_unreachable_at_once(
        self, service: ConnectorService, config: dict[str, Any], unused_tcp_port: int
    ) -> None:
        connector_id = await self.connect(service, self.elsewhere(config, unused_tcp_port), read_only=False)
        for query, params in ((self.one, None), (f"publish {self.name}", {"message": "x"})):
            start = time.perf_counter()
            with pytest.raises(Unreachable):
                await service.execute_query(connector_id, query, params)
            assert time.perf_counter() - start < 2
        tested = await service.test_connection(connector_id)
        failed = [stage for stage in tested["stages"] if not stage["ok"]]
        assert (tested["success"], tested["code"]) == (False, "unreachable")
        assert failed[0]["name"] == "connect"
        assert failed[0]["fix"]

    async def test_a_server_that_never_answers_costs_the_connect_timeout_and_no_more(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async def swallow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await asyncio.sleep(30)
            finally:
                writer.close()

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        silent = self.elsewhere(config, server.sockets[0].getsockname()[1])
        given = {**silent, "connect_timeout_s": 0.5, "timeout_s": 1.0, "read_only": False}
        connector_id = await self.connect(service, given)
        for query, params in ((self.one, None), (f"publish {self.name}", {"message": "x"})):
            start = time.perf_counter()
            with pytest.raises(StudioError) as caught:
                await service.execute_query(connector_id, query, params)
            assert caught.value.code in {"unreachable", "timeout"}
            assert time.perf_counter() - start < 2
        server.close()

    async def test_a_wrong_password_is_auth_failed_at_once_and_no_answer_repeats_it(
        self, service: ConnectorService, config: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        connector_id = await self.connect(service, {**config, self.secret_field: WRONG}, read_only=False)
        start = time.perf_counter()
        tested = await service.test_connection(connector_id)
        assert (tested["success"], tested["code"]) == (False, "auth_failed"), tested
        shown = [json.dumps(tested, ensure_ascii=False)]
        for query, params in ((self.one, None), (f"publish {self.name}", {"message": "x"})):
            with pytest.raises(StudioError) as caught:
                await service.execute_query(connector_id, query, params)
            assert caught.value.code == "auth_failed"
            shown.append(caught.value.message)
        assert time.perf_counter() - start < 3
        shown += [json.dumps(await service.get(connector_id), ensure_ascii=False), caplog.text]
        assert not any(WRONG in text for text in shown)
