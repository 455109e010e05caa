"""Conformance of the api family. Inherit, say how to reach a real server, and run with pytest.

    class TestMyApi(ApiConformance):
        kind = "myapi"
        endpoint = "base_url"
        one = "GET /things"

        @pytest.fixture
        async def config(self, my_server):
            return {"base_url": ...}

Everything goes through `ConnectorService`, as a caller would. Hostile upstreams are part of the suite.
Needs pytest and pytest-asyncio (`asyncio_mode = "auto"`).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from typing import Any, ClassVar

import pytest

from studio.errors import (
    AuthFailed,
    EgressDenied,
    OverrideNotAllowed,
    RateLimited,
    ReadOnly,
    SecretsRequired,
    StudioError,
    Timeout,
    Unreachable,
)
from studio.services.connector_service import ConnectorService
from studio.testing.harness import says_who_enforces
from studio.testing.http import Received, reply, upstream
from studio.testing.provider import ProviderConformance

SECRET = 'tok3n#@/:%"canary-0123456789'  # noqa: S105 - of no account anywhere
MIB = 1024 * 1024


class ApiConformance(ProviderConformance):
    """What every provider of the api family does, whatever its language."""

    family: ClassVar[str] = "api"
    endpoint: ClassVar[str]
    """The config field that holds the URL of the API."""
    slow: ClassVar[str]
    """A query that would take ten seconds or more."""
    slow_params: ClassVar[dict[str, Any] | None] = None
    broken: ClassVar[str]
    """A query that the upstream refuses."""
    broken_params: ClassVar[dict[str, Any] | None] = None
    write: ClassVar[str]
    """A query that is not a read."""
    write_params: ClassVar[dict[str, Any] | None] = None

    def at(self, config: dict[str, Any], url: str, **more: Any) -> dict[str, Any]:
        """The config with its API at another origin."""
        return {**config, self.endpoint: url, **more}

    async def ask(self, service: ConnectorService, connector_id: str) -> Any:
        """Run `one`."""
        return await service.execute_query(connector_id, self.one)

    # -- tests and reads ------------------------------------------------------------------------

    async def test_a_test_names_its_stages_and_says_who_enforces_read_only(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(await self.connect(service, config))
        names = [stage["name"] for stage in tested["stages"]]
        assert names[:2] == ["resolve", "connect"]
        assert names[-2:] == ["auth", "sample"]
        assert ("tls" in names) == str(config[self.endpoint]).startswith("https:")
        assert all(stage["ok"] and stage["ms"] >= 0 for stage in tested["stages"])
        assert tested["privileges"]["enforced_by"] == "service"
        says_who_enforces(tested)

    async def test_the_catalogue_shows_the_ways_to_authenticate_as_variants(self, service: ConnectorService) -> None:
        described = await service.describe_type(self.kind)
        assert {self.endpoint, "auth"} <= set(described["destination_fields"])
        assert '"discriminator"' in json.dumps(described)

    async def test_what_is_not_a_read_is_refused_by_a_read_only_connector(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async with upstream(reply(200, b"{}", Content_Type="application/json")) as server:
            connector_id = await self.connect(service, self.at(config, server.url))
            with pytest.raises(ReadOnly, match="read"):
                await service.execute_query(connector_id, self.write, self.write_params)
        assert not server.requests

    # -- faults ---------------------------------------------------------------------------------

    async def test_what_the_upstream_refuses_is_an_error_that_says_why(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config)
        with pytest.raises(StudioError) as caught:
            await service.execute_query(connector_id, self.broken, self.broken_params)
        assert caught.value.code in {"upstream_error", "invalid_request"}
        assert len(caught.value.message) > 10

    async def test_the_deadline_ends_a_slow_operation_and_the_next_one_works(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, timeout_s=1.0)
        await self.ask(service, connector_id)
        start = time.perf_counter()
        with pytest.raises(Timeout):
            await service.execute_query(connector_id, self.slow, self.slow_params)
        assert time.perf_counter() - start < 2
        assert (await self.ask(service, connector_id))["success"]

    async def test_a_cancelled_call_closes_its_connection_and_leaves_a_usable_connector(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, pool_size=1)
        await self.ask(service, connector_id)
        task = asyncio.create_task(service.execute_query(connector_id, self.slow, self.slow_params))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await self.ask(service, connector_id))["success"]

    async def test_a_closed_port_is_unreachable_at_once(
        self, service: ConnectorService, config: dict[str, Any], unused_tcp_port: int
    ) -> None:
        connector_id = await self.connect(service, self.at(config, f"http://127.0.0.1:{unused_tcp_port}"))
        start = time.perf_counter()
        with pytest.raises(Unreachable):
            await self.ask(service, connector_id)
        assert time.perf_counter() - start < 2
        tested = await service.test_connection(connector_id)
        failed = [stage for stage in tested["stages"] if not stage["ok"]]
        assert (tested["success"], tested["code"], failed[0]["name"]) == (False, "unreachable", "connect")
        assert failed[0]["fix"]
        assert (await service.get(connector_id))["status"] == "error"

    async def test_a_name_that_does_not_resolve_fails_in_that_stage(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(
            await self.connect(service, self.at(config, "http://no-such-host.invalid"))
        )
        assert (tested["code"], tested["stages"][-1]["name"]) == ("unreachable", "resolve")

    async def test_a_server_that_never_answers_costs_the_deadline_and_its_connection_is_closed(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async def never(_request: Received) -> bytes:
            await asyncio.sleep(60)
            return b""

        async with upstream(never) as server:
            connector_id = await self.connect(service, self.at(config, server.url), timeout_s=0.4)
            with pytest.raises(Timeout):
                await self.ask(service, connector_id)
            assert server.connections
            assert await server.drained()

    async def test_what_is_not_http_is_an_error_that_repeats_nothing_of_it(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        for noise in (b"SSH-2.0-canary\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\ncanary"):
            async with upstream(lambda _, noise=noise: noise) as server:  # type: ignore[misc]
                connector_id = await self.connect(
                    service, self.at(config, server.url), name=f"n{len(noise)}", timeout_s=1.0
                )
                with pytest.raises(StudioError) as caught:
                    await self.ask(service, connector_id)
                assert caught.value.code in {"unreachable", "upstream_error", "timeout"}
                assert "canary" not in caught.value.message

    # -- credentials ----------------------------------------------------------------------------

    async def test_refused_credentials_are_auth_failed_and_no_answer_repeats_them(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        auth = {"type": "bearer", "token": SECRET}
        body = json.dumps({"error": f"bad token {SECRET}"}).encode()
        for status in (401, 500):
            async with upstream(reply(status, body, Content_Type="application/json")) as server:
                connector_id = await self.connect(
                    service, self.at(config, server.url), name=f"s{status}", auth=auth, headers={"X-More": SECRET}
                )
                tested = await service.test_connection(connector_id)
                assert (tested["success"], tested["code"]) == (
                    False, "auth_failed" if status == 401 else "upstream_error",
                )  # fmt: skip
                with pytest.raises(AuthFailed if status == 401 else StudioError) as caught:
                    await self.ask(service, connector_id)
                shown = json.dumps([tested, caught.value.message, await service.get(connector_id)])
                assert "canary" not in shown
                assert server.requests[-1].header("Authorization") == f"Bearer {SECRET}"

    async def test_another_destination_needs_the_secrets_again(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async with upstream(reply(200)) as sink:
            connector_id = await self.connect(service, config, auth={"type": "bearer", "token": SECRET})
            with pytest.raises(SecretsRequired, match=r"auth\.token"):
                await service.update(connector_id, {"config": {self.endpoint: sink.url}})
            with pytest.raises(OverrideNotAllowed):
                await service.attach_to_agent(connector_id, "agent-123", "api", {self.endpoint: sink.url})
        assert not sink.connections

    async def test_too_many_requests_says_when_to_come_back(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async with upstream(reply(429, Retry_After="120")) as server:
            connector_id = await self.connect(service, self.at(config, server.url))
            with pytest.raises(RateLimited) as caught:
                await self.ask(service, connector_id)
        assert caught.value.retry_after_s == 120

    # -- hostile places and answers -------------------------------------------------------------

    async def test_no_redirect_leads_to_another_host(self, service: ConnectorService, config: dict[str, Any]) -> None:
        async with upstream(reply(200, b"{}")) as sink:
            for status in (301, 302, 303, 307, 308):
                for place in (sink.url + "/x", f"//127.0.0.1:{sink.port}/x", "file:///etc/passwd", "gopher://x/"):
                    async with upstream(reply(status, Location=place)) as server:
                        connector_id = await self.connect(service, self.at(config, server.url), f"{status}{place}")
                        with pytest.raises(StudioError) as caught:
                            await self.ask(service, connector_id)
                        assert caught.value.code == "upstream_error"
        assert not sink.connections

    async def test_closed_addresses_are_never_dialled(self, service: ConnectorService, config: dict[str, Any]) -> None:
        for number, host in enumerate(
            ("169.254.169.254", "168.63.129.16", "0.0.0.0", "[::ffff:169.254.169.254]", "[fd00:ec2::254]")  # noqa: S104
        ):
            connector_id = await self.connect(service, self.at(config, f"http://{host}"), name=f"c{number}")
            with pytest.raises(EgressDenied):
                await self.ask(service, connector_id)
            assert (await service.test_connection(connector_id))["code"] == "egress_denied"

    async def test_the_gate_holds_at_the_socket_too(
        self, service: ConnectorService, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that was fine at one look-up and is not at the next, and an address that needs no look-up."""
        from studio.security.egress import Egress

        def closed(_self: Any, address: str, port: int) -> None:
            raise EgressDenied("closed for the test")

        async with upstream(reply(200, b"{}")) as sink:
            for name in ("localhost", "127.0.0.1"):
                connector_id = await self.connect(service, self.at(config, f"http://{name}:{sink.port}"), name=name)
                monkeypatch.setattr(Egress, "permit", closed)
                with pytest.raises(EgressDenied):
                    await self.ask(service, connector_id)
                monkeypatch.undo()
        assert not sink.connections

    async def test_proxies_of_the_environment_are_not_used(
        self, service: ConnectorService, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with upstream(reply(200, b"{}")) as sink:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, sink.url)
            assert (await self.ask(service, await self.connect(service, config)))["success"]
        assert not sink.connections

    async def test_a_compressed_bomb_is_refused_in_little_memory(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        bomb = gzip.compress(b"[" + b" " * (200 * MIB) + b"]")
        for encoding in ("gzip", "gzip, gzip", "br"):
            async with upstream(reply(200, bomb, Content_Encoding=encoding, Content_Type="application/json")) as server:
                connector_id = await self.connect(service, self.at(config, server.url), name=encoding)
                tracemalloc.start()
                with pytest.raises(StudioError) as caught:
                    await self.ask(service, connector_id)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                assert caught.value.code == "upstream_error"
                assert peak < 32 * MIB
