"""What each Redis command does and where its keys stand.

The table was read off the `COMMAND` reply of Redis 7.0 by the rules of `effect_of`, and a test holds
it to the server's. It must be static because policy asks for a command's effect before there is a
connection; `judge.py` then compares it with the server that is really there.
What is not in the table is refused.

A layout says where keys stand: `1` one key there, `1..-1` from there to the last argument,
`1..-1/2` every second of these, `1#` a count of keys that follow it, `-` none, `?` unknowable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from studio.models import Effect

_READS = {
    "-": "dbsize randomkey scan ping echo time",
    "1": """bitcount bitfield_ro bitpos dump expiretime geodist geohash geopos georadius_ro georadiusbymember_ro
        geosearch get getbit getrange hexists hget hgetall hkeys hlen hmget hrandfield hscan hstrlen hvals lindex llen
        lpos lrange pexpiretime pttl scard sismember smembers smismember srandmember sscan strlen substr ttl type xlen
        xpending xrange xrevrange zcard zcount zlexcount zmscore zrandmember zrange zrangebylex zrangebyscore zrank
        zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore""",
    "1..-1": "exists mget sdiff sinter sunion touch",
    "1..2": "lcs",
    "1#": "sintercard zdiff zinter zintercard zunion",
    "2": """memory|usage object|encoding object|freq object|idletime object|refcount xinfo|consumers xinfo|groups
        xinfo|stream""",
}
_WRITES = {
    "1": """append bitfield decr decrby expire expireat geoadd getex getset hincrby hincrbyfloat hmset hset hsetnx incr
        incrby incrbyfloat linsert lpush lpushx lset persist pexpire pexpireat pfadd psetex rpush rpushx sadd set
        setbit setex setnx setrange xack xadd xautoclaim xclaim xsetid zadd zincrby""",
    "1..-1": "pfcount",  # it may store what it counted
    "1..-1/2": "mset msetnx",
    "1,2": "copy geosearchstore lmove rename renamenx rpoplpush smove zrangestore",
    "1,2..-1": "pfmerge sdiffstore sinterstore sunionstore",
    "1,2#": "zdiffstore zinterstore zunionstore",
    "2": "xgroup|create xgroup|createconsumer xgroup|setid",
    "2,3..-1": "bitop",
}
_DELETES = {
    "1": """getdel hdel lpop lrem ltrim rpop spop srem xdel xtrim zpopmax zpopmin zrem zremrangebylex zremrangebyrank
        zremrangebyscore""",
    "1..-1": "del unlink",
    "1#": "lmpop zmpop",
    "2": "xgroup|delconsumer xgroup|destroy",
}
_ADMIN = {"-": "flushdb info slowlog|get slowlog|len", "1": "restore", "?": "sort sort_ro"}
_REASONS = {
    "it scans the whole keyspace in one go; use the operation scan": "keys",
    "it reaches another database than the connector's": "select move swapdb flushall",
    "scripts and functions can do anything": "eval evalsha eval_ro evalsha_ro fcall fcall_ro function script",
    "it changes or shows the server's own settings": "config acl module debug client latency monitor",
    "it waits for others and holds its session meanwhile": """blpop brpop blmove blmpop brpoplpush bzmpop bzpopmax
        bzpopmin xread xreadgroup wait waitaof subscribe psubscribe ssubscribe""",
    "sessions are shared, so their state stays as it is": """auth hello reset quit multi exec discard watch unwatch
        unsubscribe punsubscribe sunsubscribe asking readonly readwrite""",
    "it belongs to the server's administrator": """migrate replicaof slaveof psync sync replconf failover cluster
        shutdown save bgsave bgrewriteaof role lastsave restore-asking pfdebug pfselftest""",
    "messages are the redis_pubsub provider's business": "publish spublish pubsub",
    "it can write as well as read; use GEOSEARCH or GEOSEARCHSTORE": "georadius georadiusbymember",
}


def _table() -> dict[str, tuple[Effect, str]]:
    groups = {Effect.READ: _READS, Effect.WRITE: _WRITES, Effect.DELETE: _DELETES, Effect.ADMIN: _ADMIN}
    return {
        name: (effect, layout)
        for effect, layouts in groups.items()
        for layout, names in layouts.items()
        for name in names.split()
    }


TABLE = _table()
"""Command, or `container|subcommand`, in lower case: its effect and its layout."""
CONTAINERS = frozenset(name.partition("|")[0] for name in TABLE if "|" in name)
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Commands that are never run, and why."""
KEYLESS_UNDER_PREFIX = frozenset({"ping", "echo", "time"})
"""Of the commands without keys, those that tell nothing of keys outside of a prefix."""

_HARMLESS = frozenset({"ping", "echo", "time"})
"""Not flagged as reads, but they neither read nor change anything of the database."""
_BAD_FLAGS = frozenset({"admin", "blocking", "pubsub", "noscript"})
_BAD_CATEGORIES = frozenset(
    {"@dangerous", "@scripting", "@blocking", "@admin", "@pubsub", "@transaction", "@connection"}
)
_CHANGING = frozenset({"RW", "OW", "RM", "insert", "update", "delete"})


def effect_of(name: str, flags: Iterable[str], categories: Iterable[str], specs: Sequence[Any]) -> Effect | None:
    """What `COMMAND INFO` says that a command does: read, write, admin, or None for none of these.

    A delete is a write to the server; which writes are deletes is our table's own distinction.
    """
    flagged = frozenset(flags)
    if name in _HARMLESS:
        return Effect.READ
    if flagged & _BAD_FLAGS or frozenset(categories) & _BAD_CATEGORIES:
        return Effect.ADMIN
    if "write" in flagged or any(_CHANGING & frozenset(spec["flags"]) for spec in specs):
        return Effect.WRITE
    return Effect.READ if "readonly" in flagged else None


def layout_of(specs: Sequence[Any]) -> str:
    """The key specifications of `COMMAND INFO` (Redis 7) in this module's notation."""
    places = [_place(spec) for spec in specs]
    return "?" if "?" in places else ",".join(places) or "-"


def _place(spec: Any) -> str:
    begin, find = spec["begin_search"], spec["find_keys"]
    if begin["type"] != "index" or find["type"] not in {"range", "keynum"}:
        return "?"
    at, how = begin["spec"]["index"], find["spec"]
    if find["type"] == "keynum":
        return f"{at}#" if (how["keynumidx"], how["firstkey"], how["keystep"]) == (0, 1, 1) else "?"
    last = how["lastkey"]
    if how["limit"] or last < -1:
        return "?"
    step = "" if how["keystep"] == 1 else f"/{how['keystep']}"
    return str(at) if last == 0 else f"{at}..{at + last if last > 0 else last}{step}"


def positions(layout: str, arguments: Sequence[bytes]) -> list[int]:
    """Where the keys of a command line stand; the command itself is at 0.

    Raises:
        ValueError: they cannot be told.
    """
    found: list[int] = []
    for place in layout.split(",") if layout != "-" else ():
        if place.endswith("#"):
            at = int(place[:-1])
            count = int(arguments[at]) if at < len(arguments) else 0
            if not 0 < count < len(arguments) - at:
                raise ValueError(place)
            found += range(at + 1, at + 1 + count)
            continue
        first, _, rest = place.partition("..")
        last, _, step = rest.partition("/")
        end = len(arguments) - 1 if last == "-1" else int(last or first)
        found += range(int(first), min(end, len(arguments) - 1) + 1, int(step or 1))
    return found
