"""The `mongodb` provider: conformance, operations, faults. On an emulator, unless STUDIO_TEST_MONGODB names a server."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import bson
import pytest
from tests.upstreams.mongodb import READ, READ_WRITE, Mongodb
from tests.upstreams.mongodb_front import _message
from tests.upstreams.stall import stalling

from studio.errors import (
    AuthFailed,
    InvalidRequest,
    NotFound,
    PoolBusy,
    ReadOnly,
    StudioError,
    Timeout,
    Unreachable,
    UpstreamError,
)
from studio.providers.mongodb.provider import Mongodb as Provider
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.database import ServerConformance
from studio.testing.harness import call, open_provider

pytestmark = pytest.mark.server

HOSTILE = ["a b", "#x", "@x", "p/x", "a:b", "100%", 'q"q', "s's", "b\\b", "ünï", "=,n=x,r=y", "$(x) `y` {z}"]


class TestMongodb(ServerConformance):
    """Everything that a database does. Slowness is made on the way: the emulator knows no slow command."""

    kind = "mongodb"
    one = '{"find": "first"}'
    slow = '{"find": "first", "filter": {"a": "studio-stall"}}'
    broken = '{"find": "first", "filter": {"a": {"$nosuch": 7}}}'

    @pytest.fixture
    async def config(self, mongodb_server: Mongodb, mongodb_database: str) -> AsyncIterator[dict[str, Any]]:
        async with stalling(mongodb_server.port) as port:
            config = mongodb_server.config(port=port, database=mongodb_database)
            async with open_provider(Provider, {**config, "read_only": False}) as provider:
                await call(provider, "insert", collection="first", documents=[{"a": 1}])
            yield config


@pytest.fixture
async def writer(mongodb_server: Mongodb, mongodb_database: str) -> AsyncIterator[Any]:
    config = mongodb_server.config(database=mongodb_database, read_only=False)
    async with open_provider(Provider, config) as provider:
        yield provider


@pytest.fixture
async def reader(mongodb_server: Mongodb, mongodb_database: str) -> AsyncIterator[Any]:
    async with open_provider(Provider, mongodb_server.config(database=mongodb_database)) as provider:
        yield provider


async def run(provider: Any, command: Any, **params: Any) -> Any:
    text = command if isinstance(command, str) else json.dumps(command)
    name, arguments = provider.native(text, params)
    return await call(provider, name, **arguments)


async def users(provider: Any, count: int = 10) -> None:
    documents = [{"n": n, "name": f"name {n}", "even": n % 2 == 0, "address": {"city": "x"}} for n in range(count)]
    await call(provider, "insert", collection="users", documents=documents)


# -- operations -----------------------------------------------------------------------------------


async def test_documents_are_inserted_found_changed_and_deleted(writer: Any) -> None:
    await users(writer)
    found = await run(
        writer,
        {
            "find": "users",
            "filter": {"n": {"$gte": {"$param": "low"}}, "even": True},
            "projection": {"_id": 0, "n": 1},
            "sort": {"n": -1},
            "limit": 2,
        },
        low=3,
    )
    assert found.data == [{"n": 8}, {"n": 6}]
    changed = await run(
        writer,
        {"update": "users", "updates": [{"q": {"n": {"$param": "n"}}, "u": {"$set": {"name": {"$param": "new"}}}}]},
        n=4,
        new="$name",
    )
    assert changed.data == {"matched": 1, "modified": 1, "upserted": 0}
    [four] = (await call(writer, "find", collection="users", filter={"n": 4})).data
    assert four["name"] == "$name"
    gone = await run(writer, {"delete": "users", "deletes": [{"q": {"n": {"$lt": 4}}, "limit": 0}]})
    assert (gone.data, gone.row_count) == ({"deleted": 4}, 4)
    assert (await call(writer, "delete", collection="users", filter={"even": True})).row_count == 1
    assert (await run(writer, {"count": "users", "query": {}})).data == [{"count": 5}]


async def test_counts_distinct_values_and_pipelines_are_rows(writer: Any) -> None:
    await users(writer)
    assert (await run(writer, {"count": "users", "query": {"even": True}})).data == [{"count": 5}]
    assert (await call(writer, "distinct", collection="users", key="address.city")).data == [{"value": "x"}]
    grouped = await run(
        writer,
        {
            "aggregate": "users",
            "pipeline": [
                {"$match": {"n": {"$gte": {"$param": "low"}}}},
                {"$group": {"_id": "$even", "total": {"$sum": "$n"}}},
                {"$sort": {"total": 1}},
            ],
            "cursor": {},
        },
        low=8,
    )
    assert [row["total"] for row in grouped.data] == [8, 9]


async def test_skip_and_limit_may_be_parameters(writer: Any) -> None:
    await users(writer)
    command = {"find": "users", "sort": {"n": 1}, "skip": {"$param": "s"}, "limit": {"$param": "l"}}
    assert [row["n"] for row in (await run(writer, command, s=3, l=2)).data] == [3, 4]
    with pytest.raises(InvalidRequest, match=r"params\.l"):
        await run(writer, command, s=3, l="2")
    with pytest.raises(InvalidRequest, match=r"params\.l is missing|params\.l: is missing"):
        await run(writer, command, s=3)


async def test_collections_are_listed_and_described(writer: Any) -> None:
    await users(writer)
    assert (await run(writer, {"listCollections": 1})).data == [{"name": "users", "type": "collection"}]
    described = (await call(writer, "describe_collection", collection="users")).data
    fields = {field["name"]: field for field in described["fields"]}
    assert described["documents"] == described["sampled"] == 10
    assert fields["name"] == {"name": "name", "types": ["string"], "share": 1.0}
    assert fields["address.city"]["types"] == ["string"]
    assert "_id_" in [index["name"] for index in described["indexes"]]
    for name in ("nothing", "users; x", "users'"):
        with pytest.raises(NotFound):
            await call(writer, "describe_collection", collection=name)


async def test_bson_values_have_the_canonical_form(writer: Any, mongodb_server: Mongodb, mongodb_database: str) -> None:
    client = mongodb_server.client()
    key = bson.ObjectId()
    await client[mongodb_database]["things"].insert_one(
        {
            "_id": key,
            "binary": b"\xff\x00",
            "date": dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC),
            "long": bson.Int64(2**60),
            "double": 1.5,
            "nothing": None,
            "list": [1, {"a": "b"}],
        }
    )
    await client.close()
    [row] = (await run(writer, {"find": "things", "filter": {"_id": {"$param": "id"}}}, id={"$oid": str(key)})).data
    assert row == {
        "_id": str(key),
        "binary": "/wA=",
        "date": "2026-01-02T03:04:05.678000Z",
        "long": str(2**60),
        "double": 1.5,
        "nothing": None,
        "list": [1, {"a": "b"}],
    }


def test_every_other_bson_type_has_its_form_too() -> None:
    from bson import Code, DBRef, Decimal128, MaxKey, MinKey, Regex, Timestamp
    from bson.datetime_ms import DatetimeMS

    from studio.providers.mongodb.values import CODEC, plain

    document = {
        "a": Decimal128("1.10"),
        "b": Regex("^x", "i"),
        "c": Timestamp(5, 6),
        "d": MinKey(),
        "e": MaxKey(),
        "f": Code("x()"),
        "g": DBRef("c", 1),
        "h": DatetimeMS(10**17),
        "i": uuid.UUID(int=7),
        "j": float("nan"),
        "k": True,
    }
    read = bson.decode(bson.encode(document, codec_options=CODEC), codec_options=CODEC)
    shown = plain(read)
    json.dumps(shown)
    assert shown == {
        "a": "1.10",
        "b": "^x",
        "c": "5.6",
        "d": "MinKey",
        "e": "MaxKey",
        "f": "x()",
        "g": {"$ref": "c", "$id": 1},
        "h": str(10**17),
        "i": "00000000-0000-0000-0000-000000000007",
        "j": "NaN",
        "k": True,
    }


@pytest.mark.parametrize("count", [9, 10, 11])
async def test_truncated_is_exact_at_the_cap(mongodb_server: Mongodb, mongodb_database: str, count: int) -> None:
    async with open_provider(Provider, mongodb_server.config(database=mongodb_database, read_only=False)) as provider:
        await users(provider, count)
    async with open_provider(Provider, mongodb_server.config(database=mongodb_database, max_rows=10)) as provider:
        for command in (
            {"find": "users"},
            {"aggregate": "users", "pipeline": [{"$match": {}}], "cursor": {}},
            {"distinct": "users", "key": "n"},
        ):
            result = await run(provider, command)
            assert (command, result.row_count, result.truncated) == (command, min(count, 10), count > 10)
        assert (await run(provider, {"find": "users", "limit": 10})).truncated is False


async def test_large_results_come_batch_by_batch_and_the_byte_cap_ends_the_cursor(
    mongodb_server: Mongodb, mongodb_database: str
) -> None:
    writing = mongodb_server.config(database=mongodb_database, read_only=False, max_rows=5000)
    async with open_provider(Provider, writing) as provider:
        await users(provider, 2500)
        everything = await run(provider, {"find": "users", "projection": {"_id": 0, "n": 1}})
        assert sorted(row["n"] for row in everything.data) == list(range(2500))
    capped = mongodb_server.config(database=mongodb_database, max_rows=5000, max_bytes=20_000)
    async with open_provider(Provider, capped) as provider:
        commands: list[str] = []
        _record(provider, commands)
        part = await run(provider, {"find": "users"})
        assert part.truncated is True
        assert 0 < part.row_count < 500
        await provider._work.close()
        assert commands == ["find", "killCursors"]


def _record(provider: Any, commands: list[str]) -> None:
    """Note the commands that a provider sends from now on."""
    lease = provider._pool.lease

    @asynccontextmanager
    async def noted(**options: Any) -> AsyncIterator[Any]:
        async with lease(**options) as session:
            send = session.call

            async def sent(database: str, command: Any, **more: Any) -> Any:
                commands.append(next(iter(command)))
                return await send(database, command, **more)

            session.call = sent
            try:
                yield session
            finally:
                del session.call

    provider._pool.lease = noted


async def test_every_command_carries_a_time_limit_of_the_server(writer: Any) -> None:
    sent: list[dict[str, Any]] = []
    from studio.providers.mongodb.session import Session

    real = Session.call

    async def noted(self: Any, database: str, command: Any, **options: Any) -> Any:
        sent.append(dict(command))
        return await real(self, database, command, **options)

    await users(writer)
    Session.call = noted  # type: ignore[method-assign]
    try:
        for command in (
            {"find": "users"},
            {"count": "users", "query": {}},
            {"distinct": "users", "key": "n"},
            {"aggregate": "users", "pipeline": []},
            {"listCollections": 1},
            {"insert": "users", "documents": [{"n": 99}]},
            {"update": "users", "updates": [{"q": {"n": 99}, "u": {"$set": {"n": 98}}}]},
            {"delete": "users", "deletes": [{"q": {"n": 98}, "limit": 1}]},
        ):
            await run(writer, command)
    finally:
        Session.call = real  # type: ignore[method-assign]
    assert len(sent) == 8
    assert all(command["maxTimeMS"] == 30_000 for command in sent)


async def test_a_duplicate_key_is_named_and_what_came_before_stands(writer: Any) -> None:
    await call(writer, "insert", collection="c", documents=[{"_id": "a"}])
    with pytest.raises(UpstreamError, match="same key"):
        await call(writer, "insert", collection="c", documents=[{"_id": "a"}])


async def test_a_command_that_is_none_is_refused_with_the_place(reader: Any) -> None:
    for text, said in (
        ("", "not JSON"),
        ("SELECT 1", "not JSON"),
        ('{"find": }', "character 9"),
        ("[]", "JSON object"),
        ("{}", "name of a command"),
        ('{"mapReduce": "c"}', "name of a command"),
        ('{"find": "c", "maxTimeMS": 1}', "maxTimeMS"),
        ('{"find": "c", "$db": "admin"}', "db"),
        ('{"find": "c", "limit": 0}', "limit"),
        ('{"find": {"$param": "c"}}', "collection"),
        ('{"aggregate": 1, "pipeline": []}', "collection"),
        ('{"update": "c", "updates": []}', "exactly one"),
        ('{"delete": "c", "deletes": [{}, {}]}', "exactly one"),
        ("[" * 60_000, "nested|JSON"),
        ('{"find": "c", "filter": ' + '{"a":' * 200 + "1" + "}" * 201, "deep"),
        (" " * 100_001, "100000"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            await run(reader, text)


async def test_what_bson_cannot_hold_is_refused_and_the_connector_goes_on(writer: Any) -> None:
    for value in (2**70, {"a\x00b": 1}):
        with pytest.raises(InvalidRequest):
            await call(writer, "insert", collection="c", documents=[{"v": {"$param": "v"}}], params={"v": value})
    await writer.ping()


# -- read-only ------------------------------------------------------------------------------------


async def test_a_provider_refuses_writes_by_itself_too(reader: Any, writer: Any) -> None:
    await users(writer)
    for name, arguments in (
        ("insert", {"documents": [{"n": 1}]}),
        ("update", {"filter": {}, "update": {"$set": {"n": 0}}}),
        ("delete", {"filter": {}, "many": True}),
    ):
        with pytest.raises(ReadOnly):
            await call(reader, name, collection="users", **arguments)
    assert (await call(reader, "count", collection="users", filter={})).data == [{"count": 10}]


async def test_policy_refuses_writing_commands_on_a_read_only_connector(
    mongodb_server: Mongodb, mongodb_database: str, tmp_path: Any
) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path / "studio")) as service:
        connector_id = await _register(service, mongodb_server.config(database=mongodb_database))
        for text in (
            '{"insert": "c", "documents": [{}]}',
            '{"update": "c", "updates": [{"q": {}, "u": {"$set": {"a": 1}}}]}',
            '{"delete": "c", "deletes": [{"q": {}, "limit": 0}]}',
            '{"aggregate": "c", "pipeline": [{"$out": "d"}]}',
        ):
            with pytest.raises(ReadOnly):
                await service.execute_query(connector_id, text)


# -- accounts, TLS and faults ---------------------------------------------------------------------


async def probe(config: dict[str, Any], tmp_path: Any) -> dict[str, Any]:
    async with ConnectorService(Settings(data_dir=tmp_path / "studio")) as service:
        return dict(await service.test_config({"connector_type": "database", "provider": "mongodb", "config": config}))


async def _register(service: ConnectorService, config: dict[str, Any]) -> str:
    made = await service.create(
        {
            "organization_id": "acme",
            "name": "docs",
            "connector_type": "database",
            "provider": "mongodb",
            "config": config,
        }
    )
    return str(made["id"])


async def test_the_test_tells_who_enforces_read_only(mongodb_emulator: Mongodb, tmp_path: Any) -> None:
    mongodb_emulator.add_user("reader", "pw", READ)
    mongodb_emulator.add_user("root", "pw", [*READ_WRITE, "dropCollection", "createUser", "killop", "shutdown"])
    small = await probe(mongodb_emulator.config(username="reader", password="pw"), tmp_path)
    assert (small["success"], small["privileges"]["enforced_by"], small["privileges"]["excess"]) == (
        True,
        "account",
        [],
    )
    assert [stage["name"] for stage in small["stages"]] == ["resolve", "connect", "login", "privileges", "sample"]
    large = await probe(mongodb_emulator.config(username="root", password="pw"), tmp_path)
    assert large["privileges"]["enforced_by"] == "service"
    assert len(large["privileges"]["excess"]) == 5
    assert 'role: "read"' in large["privileges"]["grant"][0]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-1", None])
@pytest.mark.parametrize("tls", [False, True])
async def test_both_ways_of_logging_in_work_with_and_without_tls(
    mongodb_emulator: Mongodb, mechanism: str | None, tls: bool
) -> None:
    config = mongodb_emulator.config(auth_mechanism=mechanism)
    if tls:
        config |= {"port": mongodb_emulator.tls_port, "tls": True, "tls_ca": mongodb_emulator.ca}
    async with open_provider(Provider, config) as provider:
        await provider.ping()
        await call(provider, "list_collections")
    async with open_provider(Provider, {**config, "password": "wrong"}) as provider:
        with pytest.raises(AuthFailed):
            await provider.ping()


@pytest.mark.parametrize("password", HOSTILE)
async def test_a_hostile_password_works_and_a_wrong_one_is_never_repeated(
    mongodb_emulator: Mongodb, tmp_path: Any, password: str
) -> None:
    mongodb_emulator.add_user("hostile", password, READ)
    async with open_provider(Provider, mongodb_emulator.config(username="hostile", password=password)) as provider:
        await call(provider, "list_collections")
    tested = await probe(mongodb_emulator.config(username="hostile", password=password + "!"), tmp_path)
    assert tested["code"] == "auth_failed"
    assert password not in json.dumps(tested, ensure_ascii=False)


async def test_no_log_in_where_one_is_wanted_is_auth_failed(mongodb_emulator: Mongodb, tmp_path: Any) -> None:
    config = mongodb_emulator.config(username=None, password=None)
    async with open_provider(Provider, config) as provider:
        with pytest.raises(StudioError) as caught:
            await call(provider, "list_collections")
    assert caught.value.code in {"auth_failed", "upstream_error"}


async def test_a_password_that_no_server_could_have_is_refused(mongodb_emulator: Mongodb) -> None:
    async with open_provider(Provider, mongodb_emulator.config(password="a\u0627\u0031b")) as provider:
        with pytest.raises(AuthFailed):
            await provider.ping()


async def test_a_server_of_another_replica_set_is_refused(mongodb_emulator: Mongodb) -> None:
    async with open_provider(Provider, mongodb_emulator.config(replica_set="rs0")) as provider:
        with pytest.raises(UpstreamError, match="replica"):
            await provider.ping()


async def test_tls_checks_the_certificate_under_the_configured_name(mongodb_emulator: Mongodb, tmp_path: Any) -> None:
    for host in ("localhost", "127.0.0.1"):
        config = mongodb_emulator.config(
            host=host, port=mongodb_emulator.tls_port, tls=True, tls_ca=mongodb_emulator.ca
        )
        tested = await probe(config, tmp_path)
        assert tested["success"], tested
        assert [stage["name"] for stage in tested["stages"]][2:4] == ["tls", "login"]
    tested = await probe(mongodb_emulator.config(port=mongodb_emulator.tls_port, tls=True), tmp_path)
    assert (tested["code"], [stage["name"] for stage in tested["stages"] if not stage["ok"]]) == (
        "unreachable",
        ["tls"],
    )
    assert "CA" in tested["message"]


async def test_tls_refuses_a_certificate_for_another_name(mongodb_emulator: Mongodb, monkeypatch: Any) -> None:
    from studio.security.egress import Egress

    async def resolve(self: Any, host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(Egress, "resolve", resolve)
    config = mongodb_emulator.config(
        host="db.example", port=mongodb_emulator.tls_port, tls=True, tls_ca=mongodb_emulator.ca
    )
    async with open_provider(Provider, config) as provider:
        with pytest.raises(Unreachable, match="another host name"):
            await provider.ping()


async def test_the_wrong_kind_of_port_is_unreachable(mongodb_emulator: Mongodb) -> None:
    for config in (
        mongodb_emulator.config(tls=True, tls_ca=mongodb_emulator.ca, connect_timeout_s=1.0),
        mongodb_emulator.config(port=mongodb_emulator.tls_port, connect_timeout_s=1.0),
    ):
        async with open_provider(Provider, config) as provider:
            with pytest.raises(Unreachable):
                await provider.ping()


async def test_a_server_killed_and_restarted_under_load_heals_on_the_next_call() -> None:
    server = Mongodb()
    try:
        await asyncio.to_thread(server.start)
        async with open_provider(Provider, server.config(timeout_s=5.0)) as provider:
            await asyncio.gather(*(provider.ping() for _ in range(20)))

            async def load() -> str:
                try:
                    for _ in range(1000):
                        await call(provider, "list_collections")
                except StudioError as exc:
                    return exc.code
                return "ok"

            work = [asyncio.create_task(load()) for _ in range(8)]
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.crash)
            assert set(await asyncio.gather(*work)) <= {"unreachable"}
            with pytest.raises(Unreachable):
                await call(provider, "list_collections")
            await asyncio.to_thread(server.restart)
            await call(provider, "list_collections")
        async with open_provider(Provider, server.config(read_only=False)) as provider:
            await asyncio.gather(*(provider.ping() for _ in range(8)))
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.restart)
            for n in range(5):  # a write is never tried twice, so a dead session must be noticed before
                await call(provider, "insert", collection="c", documents=[{"n": n}])
    finally:
        server.close()


async def test_a_cancelled_command_takes_its_connection_along(mongodb_server: Mongodb, mongodb_database: str) -> None:
    async with stalling(mongodb_server.port) as port:
        config = mongodb_server.config(port=port, database=mongodb_database, pool_size=1)
        async with open_provider(Provider, config) as provider:
            await provider.ping()
            [before] = provider._pool._idle
            task = asyncio.create_task(call(provider, "find", collection="studio-stall"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert before.closed
            await provider.ping()
            [after] = provider._pool._idle
            assert after is not before


async def test_a_reader_that_is_cancelled_between_batches_ends_its_cursor(
    mongodb_server: Mongodb, mongodb_database: str
) -> None:
    writing = mongodb_server.config(database=mongodb_database, read_only=False, max_rows=5000)
    async with open_provider(Provider, writing) as provider:
        await users(provider, 2500)
    async with stalling(mongodb_server.port, b"getMore") as port:
        config = mongodb_server.config(port=port, database=mongodb_database, max_rows=5000, pool_size=1)
        async with open_provider(Provider, config) as provider:
            commands: list[str] = []
            _record(provider, commands)
            task = asyncio.create_task(call(provider, "find", collection="users"))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await provider._work.close()
            assert commands == ["find", "getMore", "killCursors"]


async def test_the_deadline_holds_while_the_server_hangs(
    mongodb_server: Mongodb, mongodb_database: str, tmp_path: Any
) -> None:
    async with stalling(mongodb_server.port) as port, ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        connector_id = await _register(
            service, mongodb_server.config(port=port, database=mongodb_database, timeout_s=0.4)
        )
        await service.execute_query(connector_id, '{"listCollections": 1}')
        start = time.perf_counter()
        with pytest.raises(Timeout):
            await service.execute_query(connector_id, '{"find": "studio-stall"}')
        assert time.perf_counter() - start < 0.5


async def test_a_full_pool_is_pool_busy_before_the_deadline(mongodb_server: Mongodb, mongodb_database: str) -> None:
    async with stalling(mongodb_server.port) as port:
        config = mongodb_server.config(port=port, database=mongodb_database, pool_size=1, timeout_s=0.5)
        async with open_provider(Provider, config) as provider:
            task = asyncio.create_task(call(provider, "find", collection="studio-stall"))
            await asyncio.sleep(0.15)
            with pytest.raises(PoolBusy):
                await provider.ping()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# -- hostile servers ------------------------------------------------------------------------------


class Rogue:
    """A server that answers every command with what the test wants, and counts who calls."""

    def __init__(self, *answers: dict[str, Any] | bytes | Callable[[int], bytes]) -> None:
        self.answers = list(answers)
        self.received: list[dict[str, Any]] = []
        self.connections = self.open = self.most = 0

    async def __aenter__(self) -> Rogue:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        answers = iter(self.answers)
        try:
            while True:
                head = await reader.readexactly(16)
                size, request = struct.unpack_from("<ii", head)
                body = await reader.readexactly(size - 16)
                # the documents of a write come in a section of their own after this one
                self.received.append(bson.decode(body[5 : 5 + struct.unpack_from("<i", body, 5)[0]]))
                answer = next(answers, {"ok": 1.0, "n": 1})
                if callable(answer):
                    answer = answer(request)
                writer.write(answer if isinstance(answer, bytes) else _message(answer, request))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


def hello(**more: Any) -> dict[str, Any]:
    return {"ok": 1.0, "isWritablePrimary": True, "minWireVersion": 9, "maxWireVersion": 25, **more}


def config_of(rogue: Rogue, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": rogue.port, "database": "app", **more}


async def test_no_host_that_a_server_names_is_ever_dialled() -> None:
    async with Rogue() as sink:
        address = f"127.0.0.1:{sink.port}"
        named = hello(setName="rs0", hosts=[address], primary=address, me=address, passives=[address])
        primary = {"ok": 0.0, "errmsg": "not primary", "code": 10107, "topologyVersion": None, "primary": address}
        async with Rogue(named, primary) as rogue, open_provider(Provider, config_of(rogue)) as provider:
            with pytest.raises(Unreachable):
                await call(provider, "count", collection="c")
            await asyncio.sleep(0.2)
            assert rogue.connections == 1
        assert sink.connections == 0


async def test_a_closed_range_is_never_dialled() -> None:
    from studio.errors import EgressDenied
    from studio.security.egress import Egress

    async with Rogue(hello()) as sink:
        async with open_provider(Provider, config_of(sink), network=Egress(private_open=False)) as provider:
            with pytest.raises(EgressDenied):
                await call(provider, "count", collection="c")
        assert sink.connections == 0
        async with open_provider(Provider, config_of(sink), network=Egress(private_open=True)) as provider:
            await call(provider, "count", collection="c")
        assert sink.connections == 1


async def test_pymongo_by_itself_would_dial_the_host_that_a_server_names() -> None:
    """Negative control: the same `hello`, followed by the driver's own client."""
    from pymongo import AsyncMongoClient

    async with Rogue() as sink:
        address = f"127.0.0.1:{sink.port}"
        named = hello(setName="rs0", hosts=[address], primary=address, me=address)
        async with Rogue(named, named) as rogue:
            client: Any = AsyncMongoClient("127.0.0.1", rogue.port, replicaSet="rs0", serverSelectionTimeoutMS=500)
            with pytest.raises(Exception, match=r"rs0|primary|servers|connection"):
                await client.admin.command("ping")
            await client.close()
        assert sink.connections > 0


async def test_nothing_is_left_open_and_never_more_than_the_pool() -> None:
    async with Rogue(hello()) as rogue:
        async with open_provider(Provider, config_of(rogue, pool_size=4)) as provider:
            answers = await asyncio.gather(*(call(provider, "count", collection="c") for _ in range(100)))
            assert [answer.data for answer in answers] == [[{"count": 1}]] * 100
            assert rogue.most == rogue.connections <= 4
        await asyncio.sleep(0.05)
        assert rogue.open == 0


async def test_a_session_that_died_while_idle_is_replaced_for_a_read_and_no_write_is_sent_twice() -> None:
    async with Rogue(hello()) as rogue, open_provider(Provider, config_of(rogue, read_only=False)) as provider:
        await call(provider, "count", collection="c")
        [session] = provider._pool._idle

        async def broken(*_: Any, **__: Any) -> Any:
            raise OSError("cut")

        session.call = broken
        await call(provider, "count", collection="c")
        [session] = provider._pool._idle
        session.call = broken
        with pytest.raises(Unreachable):
            await call(provider, "insert", collection="c", documents=[{"a": 1}])
        assert not any("insert" in command for command in rogue.received)
        await call(provider, "insert", collection="c", documents=[{"a": 1}])
    assert "insert" in rogue.received[-1]  # one that is sent is seen


async def test_a_provider_is_described_without_its_driver() -> None:
    import subprocess
    import sys

    script = (
        "import sys\nfrom studio.providers import load\nload('mongodb').native('{\"count\": \"c\"}', None)\n"
        "[one.describe() for one in load('mongodb').operations.values()]\nassert not {'pymongo', 'bson'} & set(sys.modules)"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True)
    assert done.stderr == b""


async def test_no_blank_is_filled_and_no_identity_of_this_machine_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MONGODB_URI", "MONGO_PASSWORD"):
        monkeypatch.setenv(name, "poison")
    async with Rogue(hello(), {"ok": 1.0, "n": 3}) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        assert (await call(provider, "count", collection="c")).data == [{"count": 3}]
    assert "count" in rogue.received[-1]
    assert "poison" not in str(rogue.received)
    assert not any("sasl" in str(command).lower() for command in rogue.received)


async def test_a_log_in_that_would_keep_this_process_busy_is_refused() -> None:
    async with Rogue(
        hello(saslSupportedMechs=["SCRAM-SHA-256"]),
        {"ok": 1.0, "conversationId": 1, "done": False, "payload": b"r=x,s=c2FsdA==,i=2000000000"},
    ) as rogue:
        config = config_of(rogue, username="u", password="p")
        async with open_provider(Provider, config) as provider:
            start = time.perf_counter()
            with pytest.raises(AuthFailed, match="more work"):
                await provider.ping()
            assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack("<iiii", 2_000_000_000, 1, 1, 2013),
        struct.pack("<iiii", 20, 1, 1, 2013) + b"\0\0\0\0",
        struct.pack("<iiii", 16, 1, 1, 7),
        {"ok": 1.0, "cursor": {"firstBatch": 7, "id": 0, "ns": "x"}},
        {"ok": 1.0},
    ],
)
async def test_what_is_not_the_protocol_is_an_error_of_ours(answer: Any) -> None:
    async with Rogue(hello(), answer) as rogue, open_provider(Provider, config_of(rogue, timeout_s=2.0)) as provider:
        with pytest.raises(StudioError) as caught:
            async with asyncio.timeout(2):
                await call(provider, "find", collection="c")
        assert caught.value.code in {"upstream_error", "unreachable"}
        assert "HTTP" not in caught.value.message


@pytest.mark.parametrize(
    ("code", "expected"),
    [(13, "upstream_error"), (18, "auth_failed"), (50, "timeout"), (262, "timeout"), (43, "upstream_error"),
     (91, "unreachable"), (11600, "unreachable"), (10107, "unreachable"), (9, "upstream_error")],
)  # fmt: skip
async def test_each_refusal_of_the_server_is_an_error_of_ours(code: int, expected: str) -> None:
    failure = {"ok": 0.0, "errmsg": "said by the server", "code": code, "codeName": "X"}
    async with Rogue(hello(), failure, failure) as rogue, open_provider(Provider, config_of(rogue)) as provider:
        with pytest.raises(StudioError) as caught:
            await call(provider, "count", collection="c")
        assert caught.value.code == expected
        assert (code in {91, 11600, 10107}) == ("primary" in caught.value.message)


async def test_a_read_goes_to_a_secondary_too_where_it_was_named_alone() -> None:
    secondary = hello(isWritablePrimary=False, secondary=True, setName="rs0")
    async with (
        Rogue(secondary, {"ok": 1.0, "n": 1}) as rogue,
        open_provider(Provider, config_of(rogue)) as provider,
    ):
        await call(provider, "count", collection="c")
    assert rogue.received[-1]["$readPreference"] == {"mode": "primaryPreferred"}
