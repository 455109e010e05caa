"""Conformance of the storage family. Inherit, say how to reach a real server, and run with pytest.

    class TestMyStorage(StorageConformance, StorageFaults):      # see `studio.testing.storage_faults`
        kind = "mystorage"

        @pytest.fixture
        def place(self, my_server):                 # a prefix of its own for each test
            return {"endpoint_url": …, "bucket": …, "secret_access_key": …, "prefix": f"{uuid4()}/"}

Everything goes through `ConnectorService`, as a caller would, but for raw bytes, which go through
the provider. Needs pytest and pytest-asyncio (`asyncio_mode = "auto"`).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from studio.errors import Conflict, InvalidRequest, NotFound, ResultBlocked
from studio.services.connector_service import ConnectorService
from studio.testing.storage_keys import StorageKeys
from studio.testing.storage_rows import StorageRows

TEXTS = ("", " ", "\x00\x01", "a\r\nb", "ünïcödé", "日本語", "🙂", "\ufeffbom", "'; DROP TABLE x; --", "x" * 5000)
"""Contents that must come back byte by byte."""
KEYS = (
    "plain", "with space", "a+b", "a&b=c?d#e", "100%", "50%25", "q'u\"o", "ünïcödé", "日本語/🙂", "~tilde", "a=b;c",
    "semi;colon/x", "UPPER/lower", "dots..inside", "...", "a:b@c", "(par)[br]{c}", "star*", "!x", "$y", ",z", "-", "_",
)  # fmt: skip
"""Keys that must be themselves."""


class StorageConformance(StorageKeys, StorageRows):
    """The verbs, whatever the service."""

    # -- one object -----------------------------------------------------------------------------

    async def test_contents_come_back_unchanged(self, service: ConnectorService, writable: str) -> None:
        for text in TEXTS:
            await service.execute("put", {"key": "it", "text": text}, connector_id=writable)
            data = (await service.execute_query(writable, "get it"))["data"]
            assert (data["content"], data["size"]) == (text, len(text.encode()))
        raw = bytes(range(256)) * 9
        given = base64.b64encode(raw).decode()
        await service.execute("put", {"key": "raw.bin", "base64": given}, connector_id=writable)
        data = (await service.execute_query(writable, "get raw.bin"))["data"]
        assert (data["encoding"], data["content"], data["length"]) == ("base64", given, len(raw))

    async def test_keys_are_themselves(self, service: ConnectorService, writable: str) -> None:
        for key in KEYS:
            await service.execute("put", {"key": f"k/{key}", "text": key}, connector_id=writable)
        for key in KEYS:
            data = (
                (await service.execute_query(writable, "get k/:key", {"key": key}))["data"]
                if "/" not in key
                else (await service.execute_query(writable, "get :key", {"key": f"k/{key}"}))["data"]
            )
            assert (data["key"], data["content"]) == (f"k/{key}", key)
        listed = await service.execute("list", {"prefix": "k/"}, connector_id=writable)
        assert sorted(row["key"] for row in listed["data"]) == sorted(f"k/{key}" for key in KEYS)

    async def test_head_describes_and_does_not_read(self, service: ConnectorService, writable: str) -> None:
        put = {"key": "a/page.html", "text": "<p>", "content_type": "text/html"}
        stored = (await service.execute("put", put, connector_id=writable))["data"]
        data = (await service.execute_query(writable, "head a/page.html"))["data"]
        assert (data["key"], data["size"], data["content_type"]) == ("a/page.html", 3, "text/html")
        assert data["etag"] == stored["etag"]
        assert data["modified"].startswith("20")
        assert data["modified"].endswith("Z")

    async def test_what_is_not_there_is_not_found(self, service: ConnectorService, writable: str) -> None:
        for query in ("get nothing", "head nothing", "get a/b/c/nothing", "rows nothing.csv", "rows nothing.parquet"):
            with pytest.raises(NotFound):
                await service.execute_query(writable, query)
        with pytest.raises(NotFound):
            await service.execute("copy", {"source": "nothing", "target": "x"}, connector_id=writable)

    async def test_a_copy_is_another_object_and_a_delete_may_be_repeated(
        self, service: ConnectorService, writable: str
    ) -> None:
        await service.execute("copy", {"source": "hello.txt", "target": "b/ö 1.txt"}, connector_id=writable)
        await service.execute_query(writable, "delete hello.txt")
        await service.execute_query(writable, "delete hello.txt")
        assert (await service.execute_query(writable, "get b/ö 1.txt"))["data"]["content"] == "hello"
        with pytest.raises(NotFound):
            await service.execute_query(writable, "get hello.txt")

    async def test_create_only_never_replaces(self, service: ConnectorService, writable: str) -> None:
        put = {"key": "once", "text": "first", "if_none_match": True}
        await service.execute("put", put, connector_id=writable)
        with pytest.raises(Conflict):
            await service.execute("put", {**put, "text": "second"}, connector_id=writable)
        assert (await service.execute_query(writable, "get once"))["data"]["content"] == "first"

    async def test_put_takes_one_content(self, service: ConnectorService, writable: str) -> None:
        for wrong in (
            {},
            {"text": "a", "base64": "YQ=="},
            {"base64": "not base64"},
            {"text": "a", "content_type": "x\ny"},
        ):
            with pytest.raises(InvalidRequest):
                await service.execute("put", {"key": "it", **wrong}, connector_id=writable)

    # -- ranges and caps ------------------------------------------------------------------------

    async def test_truncated_is_exact_to_the_byte(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config, max_bytes=1024, read_only=False)
        for size in (1023, 1024, 1025):
            await service.execute("put", {"key": "it", "text": "x" * size}, connector_id=connector_id)
            result = await service.execute_query(connector_id, "get it")
            assert (result["truncated"], len(result["data"]["content"])) == (size > 1024, min(size, 1024))

    async def test_ranges_add_up_to_the_whole(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config, max_bytes=1024, read_only=False)
        for key, raw in (("t.txt", ("äöü€🙂" * 300).encode()), ("b.bin", bytes(range(256)) * 11)):
            put = {"key": key, "base64": base64.b64encode(raw).decode()}
            await service.execute("put", put, connector_id=connector_id)
            read, found = 0, b""
            while read < len(raw):
                result = await service.execute("get", {"key": key, "offset": read}, connector_id=connector_id)
                data = result["data"]
                assert len(data["content"].encode()) <= 1024
                found += data["content"].encode() if data["encoding"] == "text" else base64.b64decode(data["content"])
                read += data["length"]
                assert result["truncated"] == (read < len(raw))
            assert found == raw
        given = {"key": "b.bin", "offset": 3, "length": 4, "encoding": "base64"}
        part = await service.execute("get", given, connector_id=connector_id)
        assert base64.b64decode(part["data"]["content"]) == b"\x03\x04\x05\x06"
        assert not part["truncated"]

    async def test_a_range_behind_the_end_is_refused_and_an_empty_object_is_none(
        self, service: ConnectorService, writable: str
    ) -> None:
        await service.execute("put", {"key": "empty", "text": ""}, connector_id=writable)
        result = await service.execute_query(writable, "get empty")
        assert (result["data"]["content"], result["truncated"]) == ("", False)
        with pytest.raises(InvalidRequest, match="offset"):
            await service.execute("get", {"key": "hello.txt", "offset": 100}, connector_id=writable)

    async def test_json_is_answered_as_json_where_it_is_whole(self, service: ConnectorService, writable: str) -> None:
        content = {"a": [1, None, 2**70], "b": "x"}
        await service.execute("put", {"key": "it.json", "text": json.dumps(content)}, connector_id=writable)
        data = (await service.execute_query(writable, "get it.json"))["data"]
        assert (data["encoding"], data["content"]) == ("json", {"a": [1, None, str(2**70)], "b": "x"})
        as_text = await service.execute("get", {"key": "it.json", "encoding": "text"}, connector_id=writable)
        assert json.loads(as_text["data"]["content"]) == content
        await service.execute("put", {"key": "broken.json", "text": "{"}, connector_id=writable)
        assert (await service.execute_query(writable, "get broken.json"))["data"]["encoding"] == "text"
        for key, encoding in (("broken.json", "json"), ("raw", "text")):
            await service.execute("put", {"key": "raw", "base64": "/w=="}, connector_id=writable)
            with pytest.raises(InvalidRequest, match="encoding"):
                await service.execute("get", {"key": key, "encoding": encoding}, connector_id=writable)

    # -- lists ----------------------------------------------------------------------------------

    async def test_a_list_shows_folders_with_the_delimiter_and_all_keys_without(
        self, service: ConnectorService, writable: str
    ) -> None:
        for key in ("a.txt", "logs/1", "logs/2", "logs/old/3", "logs-not/4"):
            await service.execute("put", {"key": key, "text": key}, connector_id=writable)
        everything = await service.execute_query(writable, "list")
        keys = [row["key"] for row in everything["data"]]
        assert keys == ["a.txt", "hello.txt", "logs-not/4", "logs/1", "logs/2", "logs/old/3"]
        assert {row["type"] for row in everything["data"]} == {"object"}
        folders = await service.execute_query(writable, "list logs/", {"delimiter": "/"})
        assert [(row["key"], row["type"], row["size"]) for row in folders["data"]] == [
            ("logs/1", "object", 6), ("logs/2", "object", 6), ("logs/old/", "prefix", None),
        ]  # fmt: skip
        partial = await service.execute_query(writable, "list logs")
        assert [row["key"] for row in partial["data"]] == keys[2:]
        assert (await service.execute_query(writable, "list nothing/"))["data"] == []

    async def test_very_many_keys_are_listed_in_pages_without_loss(
        self, service: ConnectorService, place: dict[str, Any]
    ) -> None:
        names = [f"many/{number:05d}" for number in range(self.many)]
        await self.fill(place, names)
        connector_id = await self.connect(service, place, max_rows=self.many)
        seen: list[str] = []
        cursor = None
        while True:
            given = {"prefix": "many/", "limit": 3000, "cursor": cursor}
            page = await service.execute("list", given, connector_id=connector_id)
            seen += [row["key"] for row in page["data"]]
            cursor = page["next_cursor"]
            assert page["truncated"] == (cursor is not None)
            if cursor is None:
                break
        assert seen == names
        whole = await service.execute("list", {"prefix": "many/"}, connector_id=connector_id)
        assert (whole["row_count"], whole["truncated"]) == (self.many, False)

    async def test_a_cursor_continues_its_own_list_only(self, service: ConnectorService, writable: str) -> None:
        for key in ("p/1", "p/2", "p/3", "q/1"):
            await service.execute("put", {"key": key, "text": ""}, connector_id=writable)
        page = await service.execute("list", {"prefix": "p/", "limit": 1}, connector_id=writable)
        for wrong in ({"prefix": "q/"}, {"prefix": ""}, {"prefix": "p/", "delimiter": "/"}):
            with pytest.raises(InvalidRequest, match="cursor"):
                await service.execute("list", {**wrong, "cursor": page["next_cursor"]}, connector_id=writable)
        for forged in ("", "x", "####", base64.urlsafe_b64encode(b"\xff" * 30).decode()):
            with pytest.raises(InvalidRequest, match="cursor"):
                await service.execute("list", {"prefix": "p/", "cursor": forged}, connector_id=writable)

    async def test_the_caps_cut_a_list_where_its_cursor_goes_on(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        names = [f"{'n' * 90}/{number:02d}" for number in range(40)]
        for name in names:
            await service.execute("put", {"key": name, "text": ""}, connector_id=writable)
        for caps in ({"max_bytes": 2048}, {"max_rows": 7}):
            connector_id = await self.connect(service, config, name=str(caps), **caps)
            seen: list[str] = []
            cursor, pages = None, 0
            while pages == 0 or cursor:
                page = await service.execute("list", {"prefix": "nn", "cursor": cursor}, connector_id=connector_id)
                assert 0 < page["row_count"] < 16
                seen += [row["key"] for row in page["data"]]
                cursor, pages = page["next_cursor"], pages + 1
            assert seen == names
        long = await self.connect(service, config, name="long", max_bytes=1024, prefix=config["prefix"] + "l/")
        await service.execute("put", {"key": "l/" + "/".join(["ü" * 122] * 4), "text": ""}, connector_id=writable)
        with pytest.raises(ResultBlocked):
            await service.execute("list", {}, connector_id=long)
