"""The `redis` provider on a real server: conformance, operations, prefixes, faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.upstreams.redis import HOSTILE, Redis
from tests.upstreams.stall import stalling

from studio.errors import (
    AuthFailed,
    InvalidConfig,
    InvalidRequest,
    NotFound,
    OperationNotSupported,
    OverrideNotAllowed,
    PoolBusy,
    ReadOnly,
    StudioError,
    Timeout,
    Unreachable,
    UpstreamError,
)
from studio.providers.redis.provider import Redis as Provider
from studio.services.connector_service import ConnectorService
from studio.testing.database import ServerConformance
from studio.testing.harness import call, open_provider

pytestmark = pytest.mark.server


class TestRedis(ServerConformance):
    """Everything that a database does. Slowness is made on the way: no slow command may run."""

    kind = "redis"
    one = "PING"
    slow = "GET studio-stall"
    broken = "GET"

    @pytest.fixture
    async def config(self, redis_server: Redis, redis_db: int) -> AsyncIterator[dict[str, Any]]:
        async with stalling(redis_server.port) as port:
            yield redis_server.config(port=port, db=redis_db)


@pytest.fixture
async def reader(redis_server: Redis, redis_db: int) -> AsyncIterator[Any]:
    async with open_provider(Provider, redis_server.config(db=redis_db)) as provider:
        yield provider


@pytest.fixture
async def writer(redis_server: Redis, redis_db: int) -> AsyncIterator[Any]:
    async with open_provider(Provider, redis_server.config(db=redis_db, read_only=False)) as provider:
        yield provider


async def run(provider: Any, line: str, **params: Any) -> Any:
    name, arguments = provider.native(line, params)
    return (await call(provider, name, **arguments)).data


# -- operations -----------------------------------------------------------------------------------


async def test_a_text_is_set_read_counted_and_deleted(writer: Any) -> None:
    assert (await call(writer, "set", key="k", value="v")).data is True
    assert (await call(writer, "set", key="k", value="other", nx=True)).data is False
    assert (await call(writer, "get", key="k")).data == "v"
    assert (await call(writer, "mget", keys=["k", "none", "k"])).data == ["v", None, "v"]
    assert (await call(writer, "exists", keys=["k", "none"])).data == 1
    assert (await call(writer, "expire", key="k", seconds=100)).data is True
    assert 99_000 < (await call(writer, "describe_key", key="k")).data["expires_in_ms"] <= 100_000
    assert (await call(writer, "incr", key="n", by=5)).data == 5
    gone = await call(writer, "delete", keys=["k", "n", "none"])
    assert (gone.data, gone.row_count) == (2, 2)
    nothing = await call(writer, "get", key="k")
    assert (nothing.data, nothing.row_count) == (None, 0)


async def test_a_key_with_an_expiry_is_set_in_one_step(writer: Any) -> None:
    await call(writer, "set", key="k", value=1.5, ex=50)
    assert 0 < await run(writer, "TTL k") <= 50


async def test_hashes_lists_sets_and_sorted_sets_come_in_their_own_shapes(writer: Any) -> None:
    assert (await call(writer, "hset", key="h", fields={"a": "1", "ü": 2})).data == 2
    assert (await call(writer, "hgetall", key="h")).data == {"a": "1", "ü": "2"}
    await run(writer, "RPUSH l a b c d")
    assert (await call(writer, "lrange", key="l")).data == ["a", "b", "c", "d"]
    assert (await call(writer, "lrange", key="l", start=-2)).data == ["c", "d"]
    assert (await call(writer, "lrange", key="l", start=1, stop=2)).data == ["b", "c"]
    assert (await call(writer, "lrange", key="l", start=9)).data == []
    await run(writer, "SADD s c a b")
    assert (await call(writer, "smembers", key="s")).data == ["a", "b", "c"]
    await run(writer, "ZADD z 2 b 1 a 3.5 c")
    assert (await call(writer, "zrange", key="z")).data[0] == {"member": "a", "score": 1.0}
    assert [row["member"] for row in (await call(writer, "zrange", key="z", reverse=True)).data] == ["c", "b", "a"]
    assert (await call(writer, "zrange", key="none")).data == []


async def test_one_key_is_described(writer: Any) -> None:
    await run(writer, "RPUSH l a b c")
    described = (await call(writer, "describe_key", key="l")).data
    assert described == {"key": "l", "type": "list", "length": 3, "encoding": "listpack", "expires_in_ms": None} or (
        described["encoding"] in {"quicklist", "ziplist"}
    )
    with pytest.raises(NotFound):
        await call(writer, "describe_key", key="none")


async def test_what_is_not_utf8_is_base64(writer: Any, redis_server: Redis, redis_db: int) -> None:
    admin = redis_server.admin(redis_db)
    await admin.set("blob", b"\xff\x00\x01")
    await admin.aclose()
    assert (await call(writer, "get", key="blob")).data == "/wAB"


async def test_replies_have_the_canonical_form(writer: Any) -> None:
    await run(writer, "SET big 9007199254740993")
    assert await run(writer, "INCR big") == "9007199254740994"
    await run(writer, "ZADD z inf a 1.5 b")
    assert await run(writer, "ZSCORE z a") == "Infinity"
    assert await run(writer, "ZSCORE z b") == 1.5
    await run(writer, "HSET h a 1")
    assert await run(writer, "HGETALL h") == {"a": "1"}
    await run(writer, "XADD stream 1-1 field value")
    assert await run(writer, "XRANGE stream - +") == [["1-1", ["field", "value"]]]


async def test_scan_names_every_key_once_page_by_page(writer: Any) -> None:
    names = {f"user:{n}" for n in range(500)}
    await run(writer, "MSET " + " ".join(f"{name} x" for name in names))
    await run(writer, "SADD other x")
    seen: list[str] = []
    cursor = None
    while True:
        page = await call(writer, "scan", pattern="user:*", limit=70, cursor=cursor)
        seen += page.data
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == 500
    assert set(seen) == names
    assert (await call(writer, "scan", type="set")).data == ["other"]
    assert (await call(writer, "count_keys")).data == {"keys": 501, "exact": True}
    assert (await call(writer, "count_keys", pattern="user:1*")).data == {"keys": 111, "exact": True}


async def test_a_page_of_scan_never_exceeds_the_cap_and_loses_nothing(redis_server: Redis, redis_db: int) -> None:
    async with open_provider(Provider, redis_server.config(db=redis_db, read_only=False)) as provider:
        await run(provider, "MSET " + " ".join(f"k{n} x" for n in range(200)))
    async with open_provider(Provider, redis_server.config(db=redis_db, max_rows=1)) as provider:
        seen, cursor = [], None
        while True:
            page = await call(provider, "scan", cursor=cursor)
            assert page.row_count <= 1
            seen += page.data
            cursor = page.next_cursor
            if cursor is None:
                break
    assert sorted(seen) == sorted(f"k{n}" for n in range(200))


async def test_a_cursor_that_scan_did_not_give_is_refused(reader: Any) -> None:
    for cursor in ("x", "1.2.3", "-1", "٣", "1" * 30):
        with pytest.raises(InvalidRequest, match="cursor"):
            await call(reader, "scan", cursor=cursor)


@pytest.mark.parametrize("count", [9, 10, 11])
async def test_truncated_is_exact_at_the_cap(redis_server: Redis, redis_db: int, count: int) -> None:
    items = [f"m{n:02}" for n in range(count)]
    async with open_provider(Provider, redis_server.config(db=redis_db, read_only=False)) as provider:
        await run(provider, "RPUSH l " + " ".join(items))
        await run(provider, "SADD s " + " ".join(items))
        await run(provider, "HSET h " + " ".join(f"{item} 1" for item in items))
        await run(provider, "ZADD z " + " ".join(f"1 {item}" for item in items))
    async with open_provider(Provider, redis_server.config(db=redis_db, max_rows=10)) as provider:
        for name, key in (("lrange", "l"), ("smembers", "s"), ("hgetall", "h"), ("zrange", "z")):
            result = await call(provider, name, key=key)
            assert (name, result.row_count, result.truncated) == (name, min(count, 10), count > 10)
        for line in ("LRANGE l 0 -1", "SMEMBERS s", "HGETALL h"):
            result = await call(provider, "command", command=line)
            assert (line, result.row_count, result.truncated) == (line, min(count, 10), count > 10)


async def test_the_byte_cap_cuts_lists_and_refuses_one_value_that_is_too_large(
    redis_server: Redis, redis_db: int
) -> None:
    async with open_provider(Provider, redis_server.config(db=redis_db, read_only=False)) as provider:
        await run(provider, "RPUSH l :x :x :x", x="x" * 400)
        await run(provider, "SET big :x", x="x" * 3_000_000)
    async with open_provider(Provider, redis_server.config(db=redis_db, max_bytes=1024)) as provider:
        cut = await call(provider, "lrange", key="l")
        assert (cut.row_count, cut.truncated) == (2, True)
        with pytest.raises(UpstreamError, match="max_bytes"):
            await call(provider, "get", key="big")
        assert (await call(provider, "lrange", key="l", stop=0)).row_count == 1


# -- binding --------------------------------------------------------------------------------------


async def test_a_value_is_one_argument_or_the_inside_of_one(writer: Any) -> None:
    for value in ["a b", "", "'", '"', "\n", "\r\nDEL k\r\n", "$3\r\n", "NX", ":x", "*", "\\", "🙂", 7, -1.5]:
        await run(writer, "SET user::id :value", id="4 2", value=value)
        assert await run(writer, "GET user::id", id="4 2") == (value if isinstance(value, str) else str(value))
    assert (await call(writer, "scan")).data == ["user:4 2"]


async def test_a_missing_or_extra_parameter_is_named(reader: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"params\.id is missing"):
        await run(reader, "GET user::id")
    with pytest.raises(InvalidRequest, match=r"params\.other is not used"):
        await run(reader, "GET user:id", other=1)


async def test_the_command_and_its_subcommand_cannot_be_parameters(writer: Any) -> None:
    for line in (":c k", "'GE':c k", "OBJECT :c k"):
        with pytest.raises(InvalidRequest, match="cannot be a parameter"):
            await run(writer, line, c="T")


# -- read-only ------------------------------------------------------------------------------------

REFUSED = [
    "CONFIG SET dir /tmp", "CONFIG GET *", "EVAL 'return 1' 0", "EVAL_RO 'return 1' 0", "EVALSHA x 0", "FCALL f 0",
    "FUNCTION LIST", "SCRIPT FLUSH", "MODULE LOAD /x.so", "DEBUG SLEEP 1", "MIGRATE h 1 k 0 1", "REPLICAOF h 1",
    "SLAVEOF h 1", "SHUTDOWN", "SAVE", "BGSAVE", "SUBSCRIBE c", "MONITOR", "BLPOP k 0", "XREAD STREAMS s 0",
    "CLIENT KILL x", "ACL LIST", "RESET", "AUTH x", "HELLO 3", "SELECT 1", "QUIT", "MULTI", "EXEC", "WATCH k",
    "WAIT 1 0", "KEYS *", "SWAPDB 0 1", "MOVE k 1", "FLUSHALL", "CLUSTER NODES", "PUBLISH c m", "GEORADIUS k 1 1 1 m",
    "COPY k l DB 2", "NOSUCH k", "'GET x' y", "OBJECT", "OBJECT NOSUCH k", "XGROUP", "FAILOVER", "PSYNC ? 0",
    "LATENCY RESET", "MEMORY PURGE", "COMMAND", "READONLY", "ASKING",
]  # fmt: skip
WRITES = [
    "SET k v", "DEL k", "UNLINK k", "INCR n", "APPEND k x", "GETDEL k", "GETEX k EX 1", "GETSET k v", "EXPIRE k 1",
    "PERSIST k", "RENAME k l", "COPY k l", "RESTORE x 0 y", "LPUSH l x", "LPOP l", "LTRIM l 0 0", "RPOPLPUSH l l",
    "SADD s x", "SPOP s", "SUNIONSTORE t s s", "SMOVE s t a", "HSET h a 1", "HDEL h a", "ZADD z 1 x", "ZPOPMIN z",
    "ZUNIONSTORE y 1 z", "ZRANGESTORE y z 0 -1", "GEOSEARCHSTORE g g FROMMEMBER a BYRADIUS 1 m", "SORT l STORE m",
    "SORT l", "SORT_RO l", "BITOP NOT b k", "BITFIELD k SET u8 0 1", "SETBIT k 0 1", "PFADD p x", "PFCOUNT p",
    "PFMERGE p p", "XADD x * a 1", "XDEL x 1-1", "XGROUP CREATE x g $", "XACK x g 1-1", "FLUSHDB", "MSET a 1",
    "LMPOP 1 l LEFT", "INFO", "SLOWLOG GET",
]  # fmt: skip
READS = [
    "GET k", "MGET k n", "STRLEN k", "GETRANGE k 0 1", "EXISTS k", "TYPE k", "TTL k", "DUMP k", "TOUCH k", "SCAN 0",
    "RANDOMKEY", "DBSIZE", "LRANGE l 0 -1", "LINDEX l 0", "LPOS l a", "SMEMBERS s", "SCARD s", "SINTER s s",
    "SINTERCARD 1 s", "SRANDMEMBER s", "HGETALL h", "HGET h a", "HSCAN h 0", "ZRANGE z 0 -1 WITHSCORES", "ZSCORE z a",
    "ZUNION 1 z", "ZDIFF 1 z WITHSCORES", "GEOPOS g a", "GEODIST g a a", "BITCOUNT k", "BITFIELD_RO k GET u8 0",
    "OBJECT ENCODING k", "MEMORY USAGE k", "XRANGE x - +", "XLEN x", "XINFO STREAM x", "LCS k k", "PING", "ECHO x",
    "TIME", "SUBSTR k 0 1",
]  # fmt: skip


async def filled(redis_server: Redis, number: int) -> Any:
    """A database with a key of every type, and the administrator's client."""
    admin = redis_server.admin(number)
    await admin.set("k", "value")
    await admin.set("n", 1)
    await admin.rpush("l", "1", "2")
    await admin.sadd("s", "a", "b")
    await admin.hset("h", "a", "1")
    await admin.zadd("z", {"a": 1})
    await admin.geoadd("g", [1, 1, "a"])
    await admin.pfadd("p", "a", "b")
    await admin.xadd("x", {"a": "1"}, id="1-1")
    return admin


async def state(admin: Any) -> dict[bytes, Any]:
    """All of a database, byte for byte."""
    return {key: (await admin.dump(key), await admin.pttl(key)) for key in sorted(await admin.keys("*"))}


async def test_an_accepted_read_changes_nothing(reader: Any, redis_server: Redis, redis_db: int) -> None:
    admin = await filled(redis_server, redis_db)
    before = await state(admin)
    for line in READS:
        await run(reader, line)
        assert await state(admin) == before, line
    await admin.append("k", "x")
    assert await state(admin) != before  # a write would have been seen
    await admin.aclose()


async def test_what_is_no_read_is_refused_before_it_is_sent(redis_server: Redis, redis_db: int, tmp_path: Any) -> None:
    admin = await filled(redis_server, redis_db)
    before = await state(admin)
    await admin.config_resetstat()
    async with ConnectorService(_settings(tmp_path)) as service:
        connector_id = await _register(service, redis_server.config(db=redis_db))
        for line in WRITES:
            with pytest.raises(ReadOnly):
                await service.execute_query(connector_id, line)
        for line in REFUSED:
            with pytest.raises(StudioError) as caught:
                await service.execute_query(connector_id, line)
            assert caught.value.code in {"invalid_request", "read_only"}, line
    assert await state(admin) == before
    stats = await admin.info("commandstats")
    await admin.aclose()
    assert "cmdstat_dump" in stats
    assert set(stats) <= {"cmdstat_keys", "cmdstat_dump", "cmdstat_pttl", "cmdstat_info", "cmdstat_config|resetstat"}


async def test_a_provider_refuses_writes_by_itself_too(reader: Any) -> None:
    for name, arguments in (
        ("set", {"key": "k", "value": "v"}),
        ("incr", {"key": "k"}),
        ("hset", {"key": "k", "fields": {"a": 1}}),
        ("expire", {"key": "k", "seconds": 1}),
        ("delete", {"keys": ["k"]}),
        ("command", {"command": "SET k v"}),
    ):
        with pytest.raises(ReadOnly):
            await call(reader, name, **arguments)


async def test_what_may_never_run_does_not_run_on_a_writable_connector_either(writer: Any) -> None:
    for line in REFUSED:
        with pytest.raises(InvalidRequest):
            await run(writer, line)


async def test_the_named_writes_do_write_where_that_is_allowed(writer: Any, redis_server: Redis, redis_db: int) -> None:
    admin = await filled(redis_server, redis_db)
    assert await run(writer, "SORT l STORE m") == 2
    assert await run(writer, "ZUNIONSTORE y 1 z") == 1
    assert "redis_version" in await run(writer, "INFO server")
    await run(writer, "FLUSHDB")
    assert await admin.dbsize() == 0
    await admin.aclose()


async def test_without_the_guard_a_write_goes_through(
    reader: Any, monkeypatch: pytest.MonkeyPatch, redis_server: Redis, redis_db: int
) -> None:
    from studio.models import Effect

    await reader._do(Effect.READ, "SET", "hole", "x")  # negative control: the session itself can write
    admin = redis_server.admin(redis_db)
    assert await admin.get("hole") == b"x"
    await admin.aclose()


async def test_a_command_that_this_server_means_otherwise_is_refused(
    reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studio.models import Effect
    from studio.providers.redis import commands as table

    monkeypatch.setitem(table.TABLE, "rpush", (Effect.READ, "1"))
    monkeypatch.setitem(table.TABLE, "nosuch", (Effect.READ, "1"))
    with pytest.raises(OperationNotSupported, match="another meaning"):
        await run(reader, "RPUSH l x")
    with pytest.raises(OperationNotSupported, match="does not have"):
        await run(reader, "NOSUCH l")
    assert (await call(reader, "exists", keys=["l"])).data == 0


# -- key_prefix -----------------------------------------------------------------------------------


async def test_a_prefix_stands_before_every_key_of_every_command(redis_server: Redis, redis_db: int) -> None:
    admin = redis_server.admin(redis_db)
    await admin.mset({"secret": "outside", "app:x": "other tenant"})
    prefixed = redis_server.config(db=redis_db, read_only=False, key_prefix="app*:")
    async with open_provider(Provider, prefixed) as provider:
        await run(provider, "SET a 1")
        await run(provider, "MSET b 2 c 3")
        await run(provider, "SADD s x")
        await run(provider, "SUNIONSTORE t s s")
        await run(provider, "BITOP AND d b c")
        await run(provider, "ZADD z 1 m")
        await run(provider, "ZUNIONSTORE y 1 z")
        await run(provider, "XGROUP CREATE x g $ MKSTREAM")
        await run(provider, "RPUSH l e")
        await call(provider, "hset", key="h", fields={"f": 1})
        assert await run(provider, "MGET a secret :k", k="../secret") == ["1", None, None]
        assert await run(provider, "OBJECT ENCODING a") == "int"
        assert await run(provider, "ZUNION :n z y", n=2) == ["m"]
        assert await run(provider, "LMPOP 1 l LEFT") == ["l", ["e"]]
        names = sorted((await call(provider, "scan")).data)
        assert names == ["a", "b", "c", "d", "h", "s", "t", "x", "y", "z"]
        assert (await call(provider, "count_keys")).data == {"keys": 10, "exact": True}
        assert (await call(provider, "delete", keys=["a", "secret"])).data == 1
    assert all(key.startswith(b"app*:") for key in set(await admin.keys("*")) - {b"secret", b"app:x"})
    assert await admin.get("secret") == b"outside"
    await admin.aclose()


@pytest.mark.parametrize(
    "line",
    ["SCAN 0", "DBSIZE", "RANDOMKEY", "FLUSHDB", "SORT l", "SORT l BY x*", "SORT_RO l GET *", "INFO", "SLOWLOG GET"],
)
async def test_what_reaches_beyond_a_prefix_is_refused(redis_server: Redis, redis_db: int, line: str) -> None:
    config = redis_server.config(db=redis_db, read_only=False, key_prefix="app:")
    async with open_provider(Provider, config) as provider:
        with pytest.raises(InvalidRequest, match="key_prefix"):
            await run(provider, line)


@pytest.mark.parametrize("line", ["ZUNION 9 a", "ZUNION 0 a", "ZUNION x a", "ZUNION -1 a", "LMPOP 2 a", "ZUNION"])
async def test_a_count_of_keys_that_does_not_fit_is_refused_under_a_prefix(
    redis_server: Redis, redis_db: int, line: str
) -> None:
    config = redis_server.config(db=redis_db, read_only=False, key_prefix="app:")
    async with open_provider(Provider, config) as provider:
        with pytest.raises(InvalidRequest, match="number of keys"):
            await run(provider, line)


async def test_an_attachment_narrows_the_prefix_and_never_leaves_it(
    redis_server: Redis, redis_db: int, tmp_path: Any
) -> None:
    admin = redis_server.admin(redis_db)
    await admin.mset({"app:x": "1", "app:one:x": "2"})
    async with ConnectorService(_settings(tmp_path)) as service:
        connector_id = await _register(service, redis_server.config(db=redis_db, key_prefix="app:"))
        await service.attach_to_agent(connector_id, "agent-1", "kv", {"key_prefix": "app:one:"})
        answer = await service.execute_query(agent_id="agent-1", alias="kv", query="GET x")
        assert answer["data"] == "2"
        with pytest.raises(OverrideNotAllowed):
            await service.attach_to_agent(connector_id, "agent-1", "other", {"key_prefix": "ap"})
        with pytest.raises(StudioError):
            await service.attach_to_agent(connector_id, "agent-1", "host", {"host": "127.0.0.2"})
    await admin.aclose()


# -- accounts, TLS and faults ---------------------------------------------------------------------


async def probe(config: dict[str, Any], tmp_path: Any) -> dict[str, Any]:
    async with ConnectorService(_settings(tmp_path)) as service:
        return dict(await service.test_config({"connector_type": "database", "provider": "redis", "config": config}))


def _settings(tmp_path: Any) -> Any:
    from studio.settings import Settings

    return Settings(data_dir=tmp_path / "studio")


async def _register(service: ConnectorService, config: dict[str, Any]) -> str:
    made = await service.create(
        {
            "organization_id": "acme",
            "name": "kv",
            "connector_type": "database",
            "provider": "redis",
            "config": config,
        }
    )
    return str(made["id"])


async def test_the_least_privilege_account_of_the_page_works_and_is_recognised(
    redis_server: Redis, redis_db: int, tmp_path: Any
) -> None:
    tested = await probe(redis_server.config(db=redis_db, key_prefix="app:"), tmp_path)
    assert tested["privileges"]["enforced_by"] == "service"
    assert "write to keys" in tested["privileges"]["excess"]
    [grant] = tested["privileges"]["grant"]
    admin = redis_server.admin(redis_db)
    await admin.set("app:k", "v")
    words = grant.replace("'", "").replace("CHOOSE-A-PASSWORD", "pw").split()
    await admin.execute_command(*words)
    config = redis_server.config(db=redis_db, key_prefix="app:", username="studio_reader", password="pw")
    tested = await probe(config, tmp_path)
    assert (tested["success"], tested["privileges"]["enforced_by"], tested["privileges"]["excess"]) == (
        True,
        "account",
        [],
    )
    async with open_provider(Provider, config) as provider:
        assert await run(provider, "GET k") == "v"
        assert (await call(provider, "scan")).data == ["k"]
        assert (await call(provider, "describe_key", key="k")).data["type"] == "string"
    async with open_provider(Provider, {**config, "read_only": False}) as provider:
        with pytest.raises(UpstreamError, match="ACL") as caught:
            await run(provider, "SET k x")
        assert "studio_reader" not in caught.value.message
    await admin.execute_command("ACL", "DELUSER", "studio_reader")
    await admin.aclose()


async def test_an_administrator_has_its_excess_listed(redis_server: Redis, tmp_path: Any) -> None:
    tested = await probe(redis_server.config(username=None, password=redis_server.admin_password), tmp_path)
    assert len(tested["privileges"]["excess"]) == 6
    assert [stage["name"] for stage in tested["stages"]] == ["resolve", "connect", "login", "privileges", "sample"]


async def test_a_test_of_the_connection_leaves_no_key_behind(redis_server: Redis, redis_db: int, tmp_path: Any) -> None:
    await probe(redis_server.config(db=redis_db), tmp_path)
    admin = redis_server.admin(redis_db)
    assert await admin.dbsize() == 0
    await admin.aclose()


@pytest.mark.parametrize("password", HOSTILE)
async def test_a_hostile_password_works_and_a_wrong_one_is_never_repeated(
    redis_server: Redis, tmp_path: Any, password: str
) -> None:
    admin = redis_server.admin()
    await admin.execute_command("ACL", "SETUSER", "hostile", "reset", "on", f">{password}", "~*", "+@all")
    await admin.aclose()
    async with open_provider(Provider, redis_server.config(username="hostile", password=password)) as provider:
        await provider.ping()
    tested = await probe(redis_server.config(username="hostile", password=password + "!"), tmp_path)
    assert tested["code"] == "auth_failed"
    assert password not in json.dumps(tested, ensure_ascii=False)


async def test_no_password_where_one_is_wanted_is_auth_failed(redis_server: Redis) -> None:
    async with open_provider(Provider, redis_server.config(username=None, password=None)) as provider:
        with pytest.raises(AuthFailed):
            await provider.ping()


async def test_a_database_that_is_not_there_is_said_so(redis_server: Redis, tmp_path: Any) -> None:
    tested = await probe(redis_server.config(db=5000), tmp_path)
    assert (tested["code"], tested["message"]) == ("upstream_error", "the server has no database of that number")


async def test_tls_checks_the_certificate_under_the_configured_name(redis_server: Redis, tmp_path: Any) -> None:
    for host in ("localhost", "127.0.0.1"):
        config = redis_server.config(host=host, port=redis_server.tls_port, tls=True, tls_ca=redis_server.ca)
        tested = await probe(config, tmp_path)
        assert tested["success"], tested
        assert [stage["name"] for stage in tested["stages"]][2:4] == ["tls", "login"]
    wrong_ca = redis_server.config(port=redis_server.tls_port, tls=True)
    tested = await probe(wrong_ca, tmp_path)
    assert tested["code"] == "unreachable"
    assert [stage["name"] for stage in tested["stages"] if not stage["ok"]] == ["tls"]
    assert "CA" in tested["message"]


async def test_tls_refuses_a_certificate_for_another_name(redis_server: Redis, monkeypatch: Any) -> None:
    from studio.security.egress import Egress

    async def resolve(self: Any, host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(Egress, "resolve", resolve)
    config = redis_server.config(host="db.example", port=redis_server.tls_port, tls=True, tls_ca=redis_server.ca)
    async with open_provider(Provider, config) as provider:
        with pytest.raises(Unreachable, match="another host name"):
            await provider.ping()


async def test_tls_on_a_port_that_speaks_none_fails_in_its_own_stage(redis_server: Redis, tmp_path: Any) -> None:
    config = redis_server.config(tls=True, tls_ca=redis_server.ca, connect_timeout_s=1.0)
    tested = await probe(config, tmp_path)
    assert tested["code"] == "unreachable"
    assert [stage["name"] for stage in tested["stages"] if not stage["ok"]] == ["tls"]


async def test_clear_text_to_a_tls_port_is_unreachable(redis_server: Redis) -> None:
    async with open_provider(
        Provider, redis_server.config(port=redis_server.tls_port, connect_timeout_s=1.0)
    ) as provider:
        with pytest.raises(Unreachable):
            await provider.ping()


async def test_every_refusal_of_the_server_is_an_error_of_ours(writer: Any, redis_server: Redis) -> None:
    await run(writer, "RPUSH l x")
    for line in ("GET l", "INCR l", "HGET l", "SET k v EX 0", "GETRANGE k a b"):
        with pytest.raises(UpstreamError, match="the server refused"):
            await run(writer, line)
    assert await run(writer, "PING") == "PONG"


async def test_out_of_memory_and_a_full_server_are_told_apart(own_redis: Redis) -> None:
    admin = own_redis.admin()
    await admin.config_set("maxmemory", 1)
    async with open_provider(Provider, own_redis.config(read_only=False)) as provider:
        with pytest.raises(UpstreamError, match="out of memory"):
            await run(provider, "SET k v")
    await admin.config_set("maxmemory", 0)
    await admin.config_set("maxclients", 1)
    async with open_provider(Provider, own_redis.config()) as provider:
        with pytest.raises(Unreachable):
            await provider.ping()
    await admin.aclose()


async def test_a_replica_refuses_writes_in_our_words(own_redis: Redis) -> None:
    admin = own_redis.admin()
    await admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    async with open_provider(Provider, own_redis.config(read_only=False)) as provider:
        with pytest.raises(UpstreamError, match="read-only replica"):
            await run(provider, "SET k v")
    await admin.aclose()


async def test_a_server_killed_and_restarted_under_load_heals_on_the_next_call(own_redis: Redis) -> None:
    async with open_provider(Provider, own_redis.config(timeout_s=5.0)) as provider:
        await asyncio.gather(*(provider.ping() for _ in range(20)))

        async def load() -> str:
            try:
                for _ in range(2000):
                    await call(provider, "get", key="k")
            except StudioError as exc:
                return exc.code
            return "ok"

        work = [asyncio.create_task(load()) for _ in range(8)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_redis.crash)
        assert set(await asyncio.gather(*work)) <= {"unreachable", "ok"}
        with pytest.raises(Unreachable):
            await call(provider, "get", key="k")
        await asyncio.to_thread(own_redis.launch)
        assert (await call(provider, "get", key="k")).data is None
    async with open_provider(Provider, own_redis.config(read_only=False)) as provider:
        await asyncio.gather(*(provider.ping() for _ in range(8)))
        await asyncio.to_thread(own_redis.crash)
        await asyncio.to_thread(own_redis.launch)
        for n in range(1, 6):  # a write is never tried twice, so a dead session must be noticed before
            assert (await call(provider, "incr", key="n")).data == n


async def test_a_provider_is_described_without_its_driver() -> None:
    import subprocess
    import sys

    script = (
        "import sys\nfrom studio.providers import load\nload('redis').native('GET k', None)\n"
        "[one.describe() for one in load('redis').operations.values()]\nassert not {'redis', 'hiredis'} & set(sys.modules)"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True)
    assert done.stderr == b""


async def test_a_session_killed_while_idle_is_replaced_without_a_word(
    reader: Any, redis_server: Redis, redis_db: int
) -> None:
    await reader.ping()
    admin = redis_server.admin(redis_db)
    await admin.execute_command("CLIENT", "KILL", "USER", "app")
    await admin.aclose()
    await call(reader, "get", key="k")


async def test_a_write_is_never_sent_twice(redis_server: Redis, redis_db: int) -> None:
    """The reply to a write is lost: the caller hears of it, and the counter stands at one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
        try:
            while data := await reader.read(65_536):
                up_writer.write(data)
                reply = await up_reader.read(65_536)
                if b"INCR" in data:
                    break
                writer.write(reply)
        finally:
            writer.close()
            up_writer.close()

    front = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = front.sockets[0].getsockname()[1]
    async with open_provider(Provider, redis_server.config(port=port, db=redis_db, read_only=False)) as provider:
        await run(provider, "GET counter")
        with pytest.raises(Unreachable):
            await call(provider, "incr", key="counter")
    front.close()
    admin = redis_server.admin(redis_db)
    assert await admin.get("counter") == b"1"
    await admin.aclose()


async def test_the_deadline_holds_while_the_server_hangs(own_redis: Redis, tmp_path: Any) -> None:
    admin = own_redis.admin()
    async with ConnectorService(_settings(tmp_path)) as service:
        connector_id = await _register(service, own_redis.config(timeout_s=0.4))
        await service.execute_query(connector_id, "PING")
        await admin.client_pause(1500)
        start = time.perf_counter()
        with pytest.raises(Timeout):
            await service.execute_query(connector_id, "GET k")
        assert time.perf_counter() - start < 0.5
        await admin.client_unpause()
        assert (await service.execute_query(connector_id, "GET k"))["data"] is None
    await admin.aclose()


async def test_a_cancelled_command_takes_its_connection_along(redis_server: Redis, redis_db: int) -> None:
    admin = redis_server.admin(redis_db)
    async with (
        stalling(redis_server.port) as port,
        open_provider(Provider, redis_server.config(port=port, db=redis_db, pool_size=1)) as provider,
    ):
        await provider.ping()
        before = await _sessions(admin, redis_db)
        assert len(before) == 1
        task = asyncio.create_task(call(provider, "get", key="studio-stall"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await call(provider, "get", key="k")
        for _ in range(50):
            if not before & (after := await _sessions(admin, redis_db)):
                break
            await asyncio.sleep(0.02)
        assert len(after) == 1
        assert after != before
    await admin.aclose()


async def test_a_full_pool_is_pool_busy_before_the_deadline(redis_server: Redis, redis_db: int) -> None:
    async with (
        stalling(redis_server.port) as port,
        open_provider(Provider, redis_server.config(port=port, db=redis_db, pool_size=1, timeout_s=0.5)) as provider,
    ):
        task = asyncio.create_task(call(provider, "get", key="studio-stall"))
        await asyncio.sleep(0.1)
        with pytest.raises(PoolBusy):
            await call(provider, "get", key="k")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sessions(admin: Any, number: int) -> set[str]:
    return {entry["id"] for entry in await admin.client_list() if entry["db"] == str(number) and entry["user"] == "app"}


async def test_nothing_is_left_open_and_never_more_than_the_pool(redis_server: Redis, redis_db: int) -> None:
    admin = redis_server.admin(redis_db)
    async with open_provider(Provider, redis_server.config(db=redis_db, pool_size=4)) as provider:
        answers = await asyncio.gather(
            *(call(provider, "command", command="ECHO :n", params={"n": n}) for n in range(100))
        )
        assert [answer.data for answer in answers] == [str(n) for n in range(100)]
        assert 1 <= len(await _sessions(admin, redis_db)) <= 4
    await asyncio.sleep(0.05)
    assert await _sessions(admin, redis_db) == set()
    await admin.aclose()


# -- hostile servers ------------------------------------------------------------------------------


class Rogue:
    """A server that answers the log-in as Redis would and then whatever the test wants."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.received = b""
        self.connections = 0

    async def __aenter__(self) -> Rogue:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = True
        answers = iter(self.answers)
        while data := await reader.read(65_536):
            self.received += data
            writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n" if first else next(answers, b"-ERR no more\r\n"))
            first = False
        writer.close()


async def test_a_redirect_to_another_host_is_not_followed() -> None:
    async with Rogue() as sink:
        hosts = b"127.0.0.1:%d" % sink.port
        push = b">4\r\n+MOVING\r\n:1\r\n:30\r\n$%d\r\n%s\r\n" % (len(hosts), hosts)
        for answer in (b"-MOVED 1 %s\r\n" % hosts, b"-ASK 1 %s\r\n" % hosts, push + b"+OK\r\n"):
            async with Rogue(answer, b"+OK\r\n") as rogue:
                config = {"host": "127.0.0.1", "port": rogue.port}
                async with open_provider(Provider, config) as provider:
                    said = ""
                    try:
                        await call(provider, "get", key="k")
                    except StudioError as exc:
                        said = exc.message
                    assert str(sink.port) not in said
                    await asyncio.sleep(0.05)
        assert sink.connections == 0
        async with open_provider(Provider, {"host": "127.0.0.1", "port": sink.port}) as provider:
            await provider._pool.use(lambda session: asyncio.sleep(0), again=False)
        assert sink.connections == 1  # one that is made is seen


async def test_a_closed_range_is_never_dialled() -> None:
    from studio.errors import EgressDenied
    from studio.security.egress import Egress

    async with Rogue(b"$-1\r\n") as sink:
        config = {"host": "127.0.0.1", "port": sink.port}
        async with open_provider(Provider, config, network=Egress(private_open=False)) as provider:
            with pytest.raises(EgressDenied):
                await call(provider, "get", key="k")
        assert sink.connections == 0
        async with open_provider(Provider, config, network=Egress(private_open=True)) as provider:
            await call(provider, "get", key="k")
        assert sink.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*1\r\n" * 20_000 + b":1\r\n",
        b"%1\r\n*1\r\n:1\r\n:2\r\n",
        b":x\r\n",
        b"$-5\r\n",
    ],
)
async def test_what_is_not_the_protocol_is_an_error_of_ours(answer: bytes) -> None:
    async with Rogue(answer) as rogue, open_provider(Provider, {"host": "127.0.0.1", "port": rogue.port}) as provider:
        with pytest.raises(StudioError) as caught:
            await call(provider, "get", key="k")
        assert caught.value.code in {"upstream_error", "unreachable"}
        assert "HTTP" not in caught.value.message


async def test_a_reply_without_end_is_cut_off() -> None:
    async with Rogue(b"$900000000\r\n" + b"x" * 30_000_000) as rogue:
        config = {"host": "127.0.0.1", "port": rogue.port, "max_bytes": 1024}
        async with open_provider(Provider, config) as provider:
            with pytest.raises(UpstreamError, match="max_bytes"):
                await call(provider, "get", key="k")


async def test_no_blank_is_filled_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "REDIS_PASSWORD", "REDISCLI_AUTH", "REDIS_HOST"):
        monkeypatch.setenv(name, "poison")
    async with (
        Rogue(b"$-1\r\n") as rogue,
        open_provider(Provider, {"host": "127.0.0.1", "port": rogue.port}) as provider,
    ):
        await call(provider, "get", key="k")
    assert b"GET" in rogue.received
    assert b"poison" not in rogue.received
    assert b"AUTH" not in rogue.received


# -- config ---------------------------------------------------------------------------------------


def test_a_uri_is_taken_apart_and_may_not_contradict() -> None:
    parsed = Provider.Config.parse({"uri": "rediss://us%40er:p%2Fw@Redis.example:7000/3"})
    assert parsed.split() == (
        {"host": "redis.example", "tls": True, "port": 7000, "db": 3, "username": "us@er"},
        {"password": "p/w"},
    )
    for wrong in (
        {"uri": "redis://h", "tls": True},
        {"uri": "redis://h:1", "port": 2},
        {"uri": "redis+unix:///tmp/x"},
        {"uri": "unix:///tmp/x"},
        {"uri": "redis://h/x"},
        {"uri": "redis://h?a=b"},
        {"uri": 7},
        {"host": "/tmp/redis.sock"},
        {"host": "h", "tls_ca": "-----BEGIN CERTIFICATE-----"},
        {"host": "h", "username": "x"},
        {"host": "h", "db": -1},
        {"host": "h", "key_prefix": ""},
        {"host": "h", "sentinel": "x"},
    ):
        with pytest.raises(InvalidConfig) as caught:
            Provider.Config.parse(wrong)
        assert "tmp" not in str(caught.value.fields)
