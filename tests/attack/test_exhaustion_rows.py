"""Bombs in the rows of databases: real servers make them, and the bounds are those of `served`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tests.attack.served import LIMITS, Bounds, Served
from tests.servers import Postgres
from tests.upstreams.mariadb import Mariadb
from tests.upstreams.redis import Redis

POSTGRESQL = {
    "one value": "SELECT repeat('x', 200000000)",
    "one row": "SELECT " + ", ".join(["repeat('x', 10000000)"] * 20),
    "large rows": "SELECT repeat('x', 1000000) FROM generate_series(1, 1000)",
    "small rows": "SELECT n FROM generate_series(1, 1000000) n",
    "bytes": "SELECT decode(repeat('00', 30000000), 'hex')",
    "small values of JSON": "SELECT ('[' || repeat('{},', 1300000) || '{}]')::json",
    "long numbers of JSON": "SELECT ('[' || repeat('12345678901234567,', 200000) || '1]')::json",
    "one long number of JSON": "SELECT repeat('1', 4000000)::json",
    "deep JSON": "SELECT (repeat('[', 5000) || repeat(']', 5000))::json",
    "deep JSON of long numbers": "SELECT (repeat('[', 5000) || '12345678901234567' || repeat(']', 5000))::json",
    "number": "SELECT (repeat('9', 130000))::numeric",
    "rows of JSON": "SELECT ('[' || repeat('{},', 90000) || '{}]')::json FROM generate_series(1, 20)",
    "rows of JSON that grow": "SELECT ('[' || repeat('{},', n * n * 100) || '{}]')::jsonb FROM generate_series(1, 30) n",
    "array": "SELECT array_agg(n) FROM generate_series(1, 1000000) n",
    "half an array": "SELECT array_agg(n) FROM generate_series(1, 500000) n",
    "array of numerics": "SELECT array_agg(n % 100 + 0.0) FROM generate_series(1, 1000000) n",
    "array of small texts": "SELECT array_agg(n::text) FROM generate_series(1, 400000) n",
    "array of JSON": "SELECT array_agg('{}'::json) FROM generate_series(1, 400000) n",
    "arrays": "SELECT (SELECT array_agg(n) FROM generate_series(1, 30000) n) FROM generate_series(1, 50)",
    "a large array beside a large text": "SELECT array_agg(n), repeat('x', 3000000) FROM generate_series(1, 90000) n",
    "records": "SELECT array_agg(r) FROM (SELECT n AS a, n AS b FROM generate_series(1, 200000) n) r",
    "columns": "SELECT " + ", ".join(["n"] * 1600) + " FROM generate_series(1, 1000) n",
    "a wide text": "SELECT repeat('x', 4000000) || '🙂'",
    "wide texts": "SELECT repeat('x', 2000000) || '🙂' FROM generate_series(1, 10)",
    "columns of wide texts": "SELECT " + ", ".join(["repeat('x', 800000) || '🙂'"] * 5),
    "a wide text in JSON": "SELECT ('\"' || repeat('x', 4000000) || '🙂\"')::jsonb",
    "a wide text in an array": "SELECT array[repeat('x', 4000000) || '🙂']",
}
MARIADB = {
    "one value": "SELECT REPEAT('x', 15000000)",
    "one row": "SELECT " + ", ".join(["REPEAT('x', 3000000)"] * 5),
    "large rows": "SELECT REPEAT('x', 1000000) FROM seq_1_to_1000",
    "larger rows": "SELECT REPEAT('x', 4000000) FROM seq_1_to_200",
    "columns": "SELECT " + ", ".join(["seq"] * 1000) + " FROM seq_1_to_1000",
    "wide rows": "SELECT " + ", ".join(["REPEAT('x', 1000)"] * 1000) + " FROM seq_1_to_1000",
    "small rows": "SELECT seq FROM seq_1_to_1000000",
    "bytes": "SELECT CAST(REPEAT('x', 14000000) AS BINARY)",
    "small values of JSON": "SELECT JSON_COMPACT(CONCAT('[', REPEAT('{},', 1300000), '{}]'))",
    "small values of JSON in rows": "SELECT JSON_COMPACT(CONCAT('[', REPEAT('{},', 90000), '{}]')) FROM seq_1_to_20",
    "long numbers of JSON": "SELECT JSON_COMPACT(CONCAT('[', REPEAT('12345678901234567,', 200000), '1]'))",
    "long texts of JSON": "SELECT JSON_COMPACT(CONCAT('\"', REPEAT('x', 4000000), '\"'))",
    "deep JSON": "SELECT JSON_COMPACT(CONCAT(REPEAT('[', 30), REPEAT(']', 30)))",
    "number": "SELECT REPEAT('9', 65) + 0.0",
    "a wide text": "SELECT CONCAT(REPEAT('x', 4000000), '🙂')",
    "wide texts": "SELECT CONCAT(REPEAT('x', 2000000), '🙂') FROM seq_1_to_10",
    "a wide text in JSON": "SELECT JSON_COMPACT(CONCAT('\"', REPEAT('x', 4000000), '🙂\"'))",
}
_ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT "
_MANY = _ENDLESS.replace("FROM r)", "FROM r LIMIT 500000)")
SQLITE = {
    "rows": _ENDLESS + "n FROM r",
    "text": _MANY + "group_concat(n) FROM r",
    "columns": _ENDLESS + ", ".join(["n"] * 1900) + " FROM r",
    "bytes": "SELECT zeroblob(4000000), zeroblob(4000000)",
    "many bytes": "SELECT " + ", ".join(["zeroblob(4000000)"] * 20),
    "rows of bytes": _ENDLESS + "zeroblob(3000000) FROM r",
    "rows of too many bytes": _ENDLESS + "zeroblob(4000000) FROM r",
    "rows of text": _ENDLESS + "hex(zeroblob(500000)) FROM r",
    "rows of long text": _ENDLESS + "hex(zeroblob(2000000)) FROM r",
    "wide letters": "SELECT hex(zeroblob(2000000)) || char(128578)",
    "one text many times": "SELECT " + ", ".join(["t"] * 500) + " FROM (SELECT hex(zeroblob(2000000)) || char(233) t)",
    "control characters": "SELECT replace(hex(zeroblob(1000000)), '0', char(1))",
    "JSON": _MANY + "json_group_array(n) FROM r",
    "deep JSON": "SELECT json(replace(hex(zeroblob(450)), '0', '[') || replace(hex(zeroblob(450)), '0', ']'))",
    "values of JSON": "SELECT json_set('[' || replace(hex(zeroblob(900000)), '0', '1,') || '1]', '$[0]', 2)",
    "each of JSON": "SELECT value FROM json_each('[' || replace(hex(zeroblob(900000)), '0', '1,') || '1]')",
    "replaced many times": "SELECT " + "replace(" * 20 + "hex(zeroblob(1900000))" + ", '0', '1')" * 20,
    "printf": "SELECT " + ", ".join(["printf('%.*c', 4000000, 'x')"] * 20),
    "sort": _ENDLESS.replace("FROM r)", "FROM r LIMIT 5000000)") + "n FROM r ORDER BY n % 1000 DESC",
    "sort of bytes": _MANY + "randomblob(100000) z FROM r ORDER BY z",
    "sort of long bytes": _MANY + "zeroblob(3000000 + n) z FROM r ORDER BY z DESC",
    "groups": _MANY + "n % 400000, count(*), group_concat(n) FROM r GROUP BY hex(randomblob(50))",
    "distinct": _MANY + "DISTINCT hex(randomblob(500)) FROM r",
    "materialised": "WITH RECURSIVE r(n, z) AS MATERIALIZED (SELECT 1, '' UNION ALL SELECT n + 1, randomblob(100000) FROM r"
    " LIMIT 100000) SELECT count(*) FROM r a JOIN r b ON a.z = b.z",
    "union": _ENDLESS + "randomblob(1000) FROM r UNION SELECT 2",
    "queue": "WITH RECURSIVE r(n) AS (SELECT randomblob(1000) UNION SELECT randomblob(1000) FROM r, (SELECT 1 UNION SELECT 2)"
    " ORDER BY 1) SELECT count(*) FROM r",
    "window": _MANY + "sum(n) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING),"
    " hex(randomblob(500)) FROM r",
    "texts in a window": _MANY + "length(group_concat(n) OVER (ORDER BY n)) FROM r",
    "median": _MANY + "median(n) FROM r",
    "list": "SELECT " + "1 IN (" + ", ".join(map(str, range(100000))) + ")",
}
REDIS = {
    "one value": ("GET value", "SETRANGE value 200000000 x"),
    "a list": ("LRANGE list 0 -1", "EVAL \"for n = 1, 1000000 do redis.call('RPUSH', KEYS[1], n) end\" 1 list"),
    "a hash": ("HGETALL hash", "EVAL \"for n = 1, 300000 do redis.call('HSET', KEYS[1], n, n) end\" 1 hash"),
    "a set": ("SMEMBERS set", "EVAL \"for n = 1, 500000 do redis.call('SADD', KEYS[1], n) end\" 1 set"),
    "scores": (
        "ZRANGE scores 0 -1 WITHSCORES",
        "EVAL \"for n = 1, 300000 do redis.call('ZADD', KEYS[1], n, n) end\" 1 scores",
    ),
    "wide texts": (
        "LRANGE wide 0 -1",
        "EVAL \"for n = 1, 2 do redis.call('RPUSH', KEYS[1], string.rep('x', 2000000) .. '🙂') end\" 1 wide",
    ),
}


async def held(served: Served, kind: str, config: dict[str, Any], one: str, bombs: dict[str, str]) -> None:
    made = await served.create(kind, {**config, **LIMITS, "timeout_s": 20.0})
    await served.warm(partial(served.query, made, one))
    made = await served.create(kind, {**config, **LIMITS})
    await served.warm(partial(served.query, made, one))
    bounds = Bounds(kind)
    for name, query in bombs.items():
        await asyncio.sleep(0.2)  # the session that the last one cost is being closed
        await bounds.hold(name, partial(served.query, made, query))
    assert not bounds.broken


async def test_no_row_of_postgresql_takes_more(served: Served, postgres: Postgres) -> None:
    await held(served, "postgresql", postgres.config(), "SELECT 1, '{}'::json, array[1]", POSTGRESQL)


async def test_no_row_of_mysql_takes_more(served: Served, mariadb: Mariadb) -> None:
    await held(served, "mysql", mariadb.config(), "SELECT 1, JSON_COMPACT('[]')", MARIADB)


async def test_no_row_of_sqlite_takes_more(served: Served) -> None:
    (served.home / "data" / "files" / "rows.db").touch()
    await held(served, "sqlite", {"path": "rows.db"}, "SELECT 1, json_array(1)", SQLITE)


async def test_no_reply_of_redis_takes_more(served: Served, redis_server: Redis, redis_db: int) -> None:
    import shlex

    admin = redis_server.admin(redis_db)
    for _, command in REDIS.values():
        await admin.execute_command(*shlex.split(command))
    await admin.aclose()
    bombs = {name: query for name, (query, _) in REDIS.items()}
    await held(served, "redis", redis_server.config(db=redis_db), "LRANGE nothing 0 -1", bombs)
