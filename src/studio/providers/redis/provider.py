"""Redis, from version 7, and what speaks its protocol: command lines with `:name` parameters.

Redis has no read-only session, so a command's effect is decided before it is sent: from a table that
was read off Redis itself, which the server's own `COMMAND INFO` must confirm. A value is bound as
one argument, whatever it holds.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from studio.contract import DatabaseProvider, Effect, Probe, ProviderConfig, Result, operation
from studio.contract.database import Params
from studio.contract.network import TlsContext
from studio.errors import InvalidRequest, NotFound, ReadOnly, StudioError
from studio.providers._lifo import Pool
from studio.providers._tcp import Tcp
from studio.providers.redis import shapes
from studio.providers.redis.config import RedisConfig
from studio.providers.redis.errors import FIXES, intact, lost, work_error
from studio.providers.redis.judge import Verdict, confirm, judge, placed, stripped
from studio.providers.redis.line import encoded, parse
from studio.providers.redis.password import set_password
from studio.providers.redis.privileges import privileges
from studio.providers.redis.scan import Cursor, count, members, scan

if TYPE_CHECKING:
    from studio.providers.redis.sessions import Session

CommandLine = Annotated[str, Field(min_length=1, description="One command line; values as :name parameters.")]
Key = Annotated[str, Field(min_length=1, max_length=65_536, description="A key, without the connector's key_prefix.")]
Keys = Annotated[list[Key], Field(min_length=1, max_length=10_000)]
Pattern = Annotated[str, Field(max_length=1024, description="Glob-style: * ? [a-z]; below the key_prefix.")]
Value = str | int | float
KeyType = Literal["string", "list", "set", "zset", "hash", "stream"]

_LENGTHS = {"string": "STRLEN", "list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN", "stream": "XLEN"}


def _effect(arguments: Mapping[str, Any]) -> Effect:
    return judge(parse(arguments["command"])).effect


class Redis(DatabaseProvider[RedisConfig]):
    """A Redis server: keys with texts, hashes, lists, sets, sorted sets and streams."""

    kind: ClassVar[str] = "redis"
    Config: ClassVar[type[ProviderConfig]] = RedisConfig
    rotates: ClassVar[str | None] = "password"
    fixes: ClassVar[Mapping[str, str]] = FIXES

    _pool: Pool[Session]

    async def open(self, stack: AsyncExitStack) -> None:
        """Make an empty pool; sessions are made when they are needed."""
        config = self.config
        self._tcp = Tcp(
            self.network, config.host, config.port, connect_timeout_s=config.connect_timeout_s,
            tls=config.tls, ca=config.tls_ca,
        )  # fmt: skip
        self._prefix = (config.key_prefix or "").encode()
        self._confirmed: dict[str, StudioError | None] = {}
        # before the deadline, so that a full pool is told from a slow server
        wait_s = config.timeout_s * 0.9
        self._pool = Pool(self._connect, size=config.pool_size, wait_s=wait_s, intact=intact, lost=lost)
        stack.push_async_callback(self._pool.close)

    async def ping(self) -> None:
        """PING."""
        await self._ask("PING")

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return work_error(exc)

    async def set_password(self, new: str) -> str | None:
        """See `password.py`."""
        return await self._pool.use(partial(set_password, self.config.username or "default", new), again=False)

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """A query is a command line."""
        return "command", {"command": query, "params": dict(params) if params else None}

    async def probe(self, probe: Probe) -> None:
        """Stages: resolve, connect, tls, login, privileges, sample."""
        session = await self._tcp.reach(probe, self._connect)
        try:
            with probe.stage("privileges"):
                probe.privileges = await privileges(session.calls, self.config.key_prefix or "")
            with probe.stage("sample"):
                await session.call("PING")
        finally:
            session.abort()

    # -- operations -------------------------------------------------------------------------------

    @operation(_effect)
    async def command(self, command: CommandLine, params: Params = None) -> Result:
        """Run one Redis command line, such as `GET user::id`; its effect is that of the command."""
        line = parse(command)
        verdict = judge(line)
        arguments = placed(verdict, line.bind(params), self._prefix)
        await self._confirm(verdict)
        reply = await self._do(verdict.effect, *arguments)
        return shapes.result(stripped(verdict, reply, self._prefix), self.config)

    @operation(Effect.READ)
    async def get(self, key: Key) -> Result:
        """Read the text under a key; null where there is none."""
        return shapes.result(await self._ask("GET", self._key(key)), self.config)

    @operation(Effect.READ)
    async def mget(self, keys: Keys) -> Result:
        """Read the texts under several keys, in their order; null where there is none."""
        return shapes.result(await self._ask("MGET", *map(self._key, keys)), self.config)

    @operation(Effect.READ)
    async def scan(
        self,
        pattern: Pattern = "*",
        type: KeyType | None = None,  # noqa: A002 - what everybody calls it
        limit: Annotated[int | None, Field(ge=1, le=100_000, description="Most keys in one answer.")] = None,
        cursor: Annotated[str | None, Field(max_length=64, description="next_cursor of the answer before.")] = None,
    ) -> Result:
        """List names of keys, a page at a time; a key may come twice while others are written."""
        rows = min(limit or 1000, self.config.max_rows)
        options = [*self._match(pattern), *(["TYPE", type] if type else [])]
        found, after = await scan(self._ask, options, rows, self.config.max_bytes, Cursor.parse(cursor))
        result = shapes.result([name.removeprefix(self._prefix) for name in found], self.config)
        result.next_cursor = None if after is None else str(after)
        return result

    @operation(Effect.READ)
    async def count_keys(self, pattern: Pattern = "*") -> dict[str, Any]:
        """Count the keys that fit a pattern; exact is false where counting was stopped early."""
        if pattern == "*" and not self._prefix:
            return {"keys": await self._ask("DBSIZE"), "exact": True}
        total, all_counted = await count(self._ask, self._match(pattern))
        return {"keys": total, "exact": all_counted}

    @operation(Effect.READ)
    async def describe_key(self, key: Key) -> dict[str, Any]:
        """Describe one key: its type, length, encoding, and the time it has left in milliseconds."""
        name = self._key(key)
        kind = shapes.text(await self._ask("TYPE", name))
        if kind == "none":
            raise NotFound("there is no such key; scan names those that there are")
        commands: list[list[Any]] = [["PTTL", name], ["OBJECT", "ENCODING", name]]
        if kind in _LENGTHS:
            commands.append([_LENGTHS[kind], name])
        async with self._pool.lease() as session:
            left, encoding, *length = [_or_none(answer) for answer in await session.calls(commands)]
        expires = left if isinstance(left, int) and left >= 0 else None
        return {
            "key": key,
            "type": kind,
            "length": length[0] if length else None,
            "encoding": shapes.plain(encoding),
            "expires_in_ms": expires,
        }

    @operation(Effect.READ)
    async def exists(self, keys: Keys) -> int:
        """Count how many of these keys exist."""
        return int(await self._ask("EXISTS", *map(self._key, keys)))

    @operation(Effect.READ)
    async def hgetall(self, key: Key) -> Result:
        """Read the fields of a hash as one object."""
        config = self.config
        fields = await members(self._ask, "HSCAN", self._key(key), config.max_rows, config.max_bytes)
        return shapes.result(fields, config)

    @operation(Effect.READ)
    async def smembers(self, key: Key) -> Result:
        """Read the members of a set, in their order."""
        config = self.config
        found = await members(self._ask, "SSCAN", self._key(key), config.max_rows, config.max_bytes)
        return shapes.result(frozenset(found), config)

    @operation(Effect.READ)
    async def lrange(self, key: Key, start: int = 0, stop: int = -1) -> Result:
        """Read the elements of a list from one place to another; the first is 0, the last -1."""
        length = await self._ask("LLEN", self._key(key))
        first, last = shapes.window(start, stop, length, self.config.max_rows)
        return shapes.result(await self._ask("LRANGE", self._key(key), first, max(last, -1)), self.config)

    @operation(Effect.READ)
    async def zrange(self, key: Key, start: int = 0, stop: int = -1, reverse: bool = False) -> Result:
        """Read the members of a sorted set with their scores, by rank; the lowest is 0."""
        length = await self._ask("ZCARD", self._key(key))
        first, last = shapes.window(start, stop, length, self.config.max_rows)
        options = ["REV", "WITHSCORES"] if reverse else ["WITHSCORES"]
        rows = await self._ask("ZRANGE", self._key(key), first, last, *options) if last >= first else []
        return shapes.result([{b"member": member, b"score": score} for member, score in rows], self.config)

    @operation(Effect.WRITE)
    async def set(
        self,
        key: Key,
        value: Value,
        ex: Annotated[int | None, Field(ge=1, description="Seconds until it expires.")] = None,
        nx: Annotated[bool, Field(description="Only if the key does not exist.")] = False,
    ) -> bool:
        """Store a text under a key; false where nx kept it from doing so."""
        options = [*(["EX", str(ex)] if ex else []), *(["NX"] if nx else [])]
        return await self._do(Effect.WRITE, "SET", self._key(key), encoded(value, "value"), *options) is not None

    @operation(Effect.WRITE)
    async def incr(self, key: Key, by: int = 1) -> Any:
        """Add to the number under a key; the new number."""
        return await self._do(Effect.WRITE, "INCRBY", self._key(key), str(by))

    @operation(Effect.WRITE)
    async def hset(self, key: Key, fields: Annotated[dict[str, Value], Field(min_length=1)]) -> Any:
        """Set fields of a hash; how many were new."""
        parts = [part for name, value in fields.items() for part in (name.encode(), encoded(value, f"fields.{name}"))]
        return await self._do(Effect.WRITE, "HSET", self._key(key), *parts)

    @operation(Effect.WRITE, idempotent=True)
    async def expire(self, key: Key, seconds: Annotated[int, Field(ge=1)]) -> bool:
        """Let a key expire; false where there is none."""
        return bool(await self._do(Effect.WRITE, "EXPIRE", self._key(key), str(seconds)))

    @operation(Effect.DELETE, idempotent=True)
    async def delete(self, keys: Keys) -> Result:
        """Delete keys; how many there were."""
        count = await self._do(Effect.DELETE, "DEL", *map(self._key, keys))
        return Result(data=count, row_count=count)

    # -- below the operations ---------------------------------------------------------------------

    def _key(self, key: str) -> bytes:
        try:
            return self._prefix + key.encode()
        except UnicodeEncodeError:
            raise InvalidRequest.at("key", "is not valid Unicode text") from None

    def _match(self, pattern: str) -> list[Any]:
        """The MATCH option of SCAN, below the prefix."""
        try:
            return ["MATCH", shapes.glob_literal(self._prefix) + pattern.encode()]
        except UnicodeEncodeError:
            raise InvalidRequest.at("pattern", "is not valid Unicode text") from None

    async def _ask(self, *arguments: Any) -> Any:
        return await self._do(Effect.READ, *arguments)

    async def _do(self, effect: Effect, *arguments: Any) -> Any:
        """One command on a session of the pool. A read is tried once more where an idle session turns out dead."""
        if effect is not Effect.READ and self.config.read_only:
            raise ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")
        return await self._pool.use(lambda session: session.call(*arguments), again=effect is Effect.READ)

    async def _confirm(self, verdict: Verdict) -> None:
        """Ask the server once what it means by a command; see `_redis_judge.confirm`."""
        if verdict.name not in self._confirmed:
            reply = await self._ask("COMMAND", "INFO", verdict.name)
            try:
                confirm(verdict, reply, prefixed=bool(self._prefix))
                self._confirmed[verdict.name] = None
            except StudioError as exc:
                self._confirmed[verdict.name] = exc
        refusal = self._confirmed[verdict.name]
        if refusal is not None:
            raise type(refusal)(refusal.message)

    async def _connect(self) -> Session:
        return await self._tcp.open(self._log_in)

    async def _log_in(self, sock: socket.socket, tls: TlsContext | None) -> Session:
        from studio.providers.redis.sessions import log_in

        config = self.config
        return await log_in(
            sock, tls, host=config.host, port=config.port, username=config.username,
            password=config.password.get_secret_value() if config.password else None, db=config.db,
            # some more for the protocol's own bytes, and so that a list of large elements can be cut
            limit=config.max_bytes * 5 // 4 + (1 << 20),
        )  # fmt: skip


def _or_none(answer: Any) -> Any:
    """An answer; None where the account may not ask that, or the key vanished meanwhile."""
    return None if isinstance(answer, Exception) else answer
