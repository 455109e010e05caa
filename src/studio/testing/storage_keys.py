"""Conformance of the storage family: who may do what, and that no key leaves the prefix."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import pytest

from studio.contract.keys import PLACES
from studio.errors import InvalidRequest, NotFound, OperationNotSupported, OverrideNotAllowed, ReadOnly, StudioError
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.testing.harness import call, open_provider
from studio.testing.storage_base import StorageBase

ESCAPES = (
    "../{0}", "a/../../{0}", "./../{0}", "..", ".", "a/..", "a/.", "/{0}", "/../{0}", "..\\{0}", "a\\..\\..\\{0}",
    "%2e%2e/{0}", "%2e%2e%2f{0}", "..%2f{0}", "%252e%252e/{0}", "%25252e%25252e%25252f{0}", "a/%2E%2E/../{0}",
    "%c0%ae%c0%ae/{0}", "..%c0%af{0}", "\uff0e\uff0e/{0}", "\u2024\u2024/{0}", "..\uff0f{0}",
    "..\u2044..\u2215{0}", "\u2025/{0}",
    "%ef%bc%8e%ef%bc%8e/{0}", "..;/{0}", "a/..;x=y/{0}", ".. /{0}", "..\t/{0}", "..\n/{0}", "..\x00/{0}", "a/..%00/{0}",
    "\ud800/{0}",
)  # fmt: skip
"""Spellings of a way out of the prefix; {0} is what lies outside."""
GET = {"list": {"prefix": "{}"}, "copy": {"source": "{}", "target": "copied"}, "put": {"key": "{}", "text": "escaped"}}


class StorageKeys(StorageBase):
    """Rights, the prefix, and the query language."""

    # -- rights ---------------------------------------------------------------------------------

    async def test_a_read_only_connector_changes_nothing(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        reader = await self.connect(service, config, allow_presign=True)
        writes: list[tuple[str, dict[str, Any]]] = [
            ("put", {"key": "hello.txt", "text": "changed"}), ("copy", {"source": "hello.txt", "target": "b"}),
            ("delete", {"key": "hello.txt"}), ("presign", {"key": "hello.txt", "method": "PUT"}),
        ]  # fmt: skip
        for operation, arguments in writes:
            with pytest.raises(ReadOnly, match="read"):
                await service.execute(operation, arguments, connector_id=reader)
        async with open_provider(load(self.kind), {**config, "allow_presign": True}) as provider:
            for operation, arguments in writes:  # the provider by itself, below policy
                with pytest.raises(ReadOnly):
                    await call(provider, operation, **arguments)
        rows = (await service.execute_query(reader, "list"))["data"]
        assert [(row["key"], row["size"]) for row in rows] == [("hello.txt", 5)]

    async def test_presign_is_off_until_allowed_and_then_bounded(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        off = await self.connect(service, config, name="off", read_only=False)
        with pytest.raises(OperationNotSupported, match="allow_presign"):
            await service.execute_query(off, "presign hello.txt")
        on = await self.connect(service, config, name="on", allow_presign=True, read_only=False)
        made = (await service.execute_query(on, "presign hello.txt"))["data"]
        assert (made["method"], made["expires_s"]) == ("GET", 60)
        assert await asyncio.to_thread(_fetch, made["url"]) == b"hello"
        with pytest.raises(InvalidRequest, match="expires_s"):
            await service.execute("presign", {"key": "hello.txt", "expires_s": 61}, connector_id=on)
        put = (await service.execute_query(on, "presign new.txt", {"method": "PUT"}))["data"]
        await asyncio.to_thread(_fetch, put["url"], b"stored", put.get("headers"))
        assert (await service.execute_query(on, "get new.txt"))["data"]["content"] == "stored"
        with pytest.raises(OverrideNotAllowed):
            await service.attach_to_agent(off, "agent-1", "it", {"allow_presign": True})

    # -- the prefix -----------------------------------------------------------------------------

    async def test_no_spelling_of_a_key_leaves_the_prefix(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        await service.execute("put", {"key": "outside.txt", "text": "canary"}, connector_id=writable)
        prefix = config["prefix"] + "inner/"
        inner = await self.connect(service, config, name="inner", prefix=prefix, read_only=False, allow_presign=True)
        for spelling in ESCAPES:
            for name in ("outside.txt", "hello.txt"):
                key = spelling.format(name)
                for verb in PLACES:
                    shape = GET.get(verb, {"key": "{}"})
                    arguments = {field: value.format(key) for field, value in shape.items()}
                    with pytest.raises(StudioError) as caught:
                        await service.execute(verb, arguments, connector_id=inner)
                    assert caught.value.code == "invalid_request", (verb, key)
                arguments = {"source": "hello.txt", "target": key}
                with pytest.raises(InvalidRequest):
                    await service.execute("copy", arguments, connector_id=inner)
        assert (await service.execute_query(writable, "get outside.txt"))["data"]["content"] == "canary"
        assert [row["key"] for row in (await service.execute_query(writable, "list"))["data"]] == [
            "hello.txt", "outside.txt",
        ]  # fmt: skip

    async def test_a_sibling_folder_is_not_below_the_prefix(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        for key in ("team/a", "team-b/secret"):
            await service.execute("put", {"key": key, "text": key}, connector_id=writable)
        team = await self.connect(service, config, name="team", prefix=config["prefix"] + "team")
        assert [row["key"] for row in (await service.execute_query(team, "list"))["data"]] == ["a"]
        with pytest.raises(NotFound):
            await service.execute_query(team, "get -b/secret")

    async def test_an_attachment_may_narrow_the_prefix_and_nothing_else(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        await service.execute("put", {"key": "team/a", "text": "mine"}, connector_id=writable)
        below = config["prefix"] + "team/"
        await service.attach_to_agent(writable, "agent-1", "mine", {"prefix": below})
        assert (await service.execute_query(agent_id="agent-1", alias="mine", query="get a"))["row_count"] == 1
        wider = ("", "other/", config["prefix"].rstrip("/") + "-x/", config["prefix"] + "../")
        for number, prefix in enumerate(wider):
            with pytest.raises(StudioError) as caught:
                await service.attach_to_agent(writable, "agent-1", f"w{number}", {"prefix": prefix})
            assert caught.value.code in {"override_not_allowed", "invalid_config"}

    # -- the query language ---------------------------------------------------------------------

    async def test_a_value_fills_one_segment_and_never_leaves_its_place(
        self, service: ConnectorService, writable: str
    ) -> None:
        await service.execute_query(writable, "put logs/:name", {"name": "a b.txt", "text": "x"})
        assert (await service.execute_query(writable, "get logs/:name", {"name": "a b.txt"}))["row_count"] == 1
        for value in (
            "../hello.txt",
            "a/b",
            "..",
            "%2e%2e%2fhello.txt",
            "a%2fb",
            "\uff0f",
            "..\\x",
            "",
            True,
            None,
            ["a"],
        ):
            with pytest.raises(InvalidRequest, match=r"params\.name"):
                await service.execute_query(writable, "get logs/:name", {"name": value})
        assert (await service.execute_query(writable, "get :key", {"key": "logs/a b.txt"}))["row_count"] == 1
        with pytest.raises(InvalidRequest, match=r"params\.name"):
            await service.execute_query(writable, "get logs/:name")
        for wrong in ("", "drop x", "get", "get hello.txt; delete hello.txt", "SELECT 1"):
            with pytest.raises(StudioError) as caught:
                await service.execute_query(writable, wrong)
            assert caught.value.code in {"invalid_request", "not_found"}


def _fetch(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(  # noqa: S310
        url, body, headers or {}, method="GET" if body is None else "PUT"
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not know the tests' server
    with direct.open(request, timeout=10) as answer:
        found: bytes = answer.read()
        return found
