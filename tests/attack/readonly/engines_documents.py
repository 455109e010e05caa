"""Redis, which is real, with its administrator's account; and MongoDB, which is an emulator, with a writer's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from pathlib import Path
from typing import Any, ClassVar

from tests.attack.readonly import corpus
from tests.attack.readonly.engines_sql import digest
from tests.attack.readonly.mutate import CommandMutator, DocumentMutator, Mutator
from tests.attack.readonly.oracle import Engine, State
from tests.upstreams.mongodb import Mongodb
from tests.upstreams.redis import Redis

from studio.errors import InvalidRequest

_KEYS = [
    "SET str hello", "SET num 10", "SET bits abc", "RPUSH list a b c", "SADD set a b c", "SADD set2 b c d", "ZADD zset 1 a 2 b 3 c",
    "ZADD zset2 1 a 9 z", "HSET hash a 1 b 2 n 5", "HSET user:1 name Ada age 36", "XADD stream 1-1 a 1", "XADD stream 2-1 a 2",
    "XGROUP CREATE stream group 0", "XREADGROUP GROUP group c COUNT 1 STREAMS stream >", "PFADD hll a b c",
    "GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "SET ttl x", "PEXPIREAT ttl 4102444800000", "SET ключ x",
    "XADD events 1-1 a 1", "GEOADD places 10.75 59.91 Oslo 5.32 60.39 Bergen", "SADD tags a", "RPUSH queue:emails a",
]  # fmt: skip


class RedisEngine(Engine):
    """A server of its own: the control changes its settings."""

    kind: ClassVar[str] = "redis"
    files: ClassVar[str] = "redis.attacks.txt"
    reads: ClassVar[tuple[str, ...]] = ("redis.reads.txt",)
    quick: ClassVar[int] = 4

    def __init__(self, server: Redis) -> None:
        self.server = server

    async def start(self, folder: Path) -> None:
        self.admins = {number: self.server.admin(number) for number in (0, 5)}
        self.admin = self.admins[0]
        self.settings = await self.admin.config_get("*")
        self.listener = self.admin.pubsub()
        await self.listener.subscribe("canary")
        names = await self.admin.execute_command("COMMAND LIST")
        self.commands = sorted(name.decode().replace("|", " ") for name in names)
        self.golden: dict[bytes, tuple[bytes, int]] = {}
        await self.restore()
        for line in _KEYS:
            await self.admin.execute_command(*line.split(" "))
        keys = await self.admin.keys()
        self.golden = {
            key: (await self.admin.dump(key), await self.admin.execute_command("PEXPIRETIME", key)) for key in keys
        }
        await self.restore()
        await super().start(folder)

    async def stop(self) -> None:
        await super().stop()
        await self.listener.aclose()
        for admin in self.admins.values():
            await admin.aclose()

    def config(self) -> dict[str, Any]:
        return self.server.config(username="default", password=self.server.admin_password)

    def fill(self, text: str) -> str:
        return text.replace("{dir}", "/tmp")

    def mutator(self, seed: int) -> Mutator:
        return CommandMutator(seed, *self.corpora())

    def corpora(self) -> tuple[list[str], list[str], list[str], list[str]]:
        writes, reads, _, wrappers = super().corpora()
        return writes, reads, self.commands, wrappers

    async def read(self, text: str) -> Any:
        return await self.service.execute("command", {"command": text}, agent_id="agent", alias="it")

    async def also(self, text: str) -> Any:
        return await self.service.execute_query(
            agent_id="agent", alias="it", query=text, params={"p": "str"} if ":p" in text else None
        )

    async def state(self) -> State:
        found: dict[str, str] = {}
        for number, admin in self.admins.items():
            keys = sorted([key async for key in admin.scan_iter(count=1000)])
            pipe = admin.pipeline(transaction=False)
            for key in keys:
                pipe.dump(key)
                pipe.execute_command("PEXPIRETIME", key)
            found[f"keys of {number}"] = digest((keys, await pipe.execute()))
        memory = await self.admin.info("memory")
        found["settings"] = digest(await self.admin.config_get("*"))
        found["accounts"] = digest(await self.admin.execute_command("ACL", "LIST"))
        found["functions"] = digest(await self.admin.execute_command("FUNCTION", "LIST"))
        found["scripts"] = digest(memory["number_of_cached_scripts"])
        found["role"] = digest((await self.admin.info("replication"))["role"])
        found["sessions"] = digest(sorted({client["name"] for client in await self.admin.client_list()}))
        found["files"] = digest(sorted(path.name for path in self.server.dir.iterdir()))
        heard = []
        while message := await self.listener.get_message(ignore_subscribe_messages=True, timeout=0):
            heard.append(message)
        found["messages"] = digest(heard)
        return found

    async def restore(self) -> None:
        await self.admin.flushall()
        await self.admin.execute_command("FUNCTION", "FLUSH")
        await self.admin.execute_command("SCRIPT", "FLUSH")
        for user in await self.admin.execute_command("ACL", "USERS"):
            if user not in (b"default", b"app"):
                await self.admin.execute_command("ACL", "DELUSER", user)
        for name, value in (await self.admin.config_get("*")).items():
            if value != self.settings[name]:
                with contextlib.suppress(Exception):
                    await self.admin.config_set(name, self.settings[name])
        for key, (dump, expires) in self.golden.items():
            await self.admin.restore(key, max(expires, 0), dump, absttl=True)
        for name in ("dump.rdb", "canary.rdb", "appendonlydir"):
            (self.server.dir / name).unlink(missing_ok=True)

    async def write(self, text: str) -> None:
        client = self.server.admin(socket_timeout=0.5, single_connection_client=True)
        with contextlib.suppress(Exception):
            await client.execute_command(*shlex.split(text.replace("\\n", "\n")))
        await client.aclose()


_DOCUMENTS = {
    "users": [
        {"_id": 1, "name": "Ada", "age": 36, "country": "GB", "email": "ada@example.com", "tags": ["admin", "staff"], "scores": [1, 5, 9], "address": {"city": "London"}},
        {"_id": 2, "name": "Grace", "age": 85, "country": "US", "tags": ["staff"], "scores": [4], "address": {"city": "New York"}, "manager": 1},
        {"_id": 3, "name": "José 🦊", "age": 41, "country": "DE", "email": None, "scores": [], "manager": 1},
    ],
    "orders": [
        {"_id": 1, "user": 1, "status": "paid", "total": 69.4, "items": [{"sku": "K1", "qty": 1}]},
        {"_id": 2, "user": 2, "status": "open", "total": 19.5, "items": [{"sku": "M1", "qty": 2}]},
    ],
}  # fmt: skip
_OPTIONS = {"query": "filter"}


class MongodbEngine(Engine):
    """An emulator: what it does not know it cannot do, so the guard is what counts here."""

    kind: ClassVar[str] = "mongodb"
    files: ClassVar[str] = "mongodb.attacks.txt"
    reads: ClassVar[tuple[str, ...]] = ("mongodb.reads.txt",)

    def __init__(self, server: Mongodb) -> None:
        self.server = server

    async def start(self, folder: Path) -> None:
        self.client = self.server.client()
        await self.restore()
        await super().start(folder)

    async def stop(self) -> None:
        await super().stop()
        await self.client.close()

    def config(self) -> dict[str, Any]:
        return self.server.config()

    def mutator(self, seed: int) -> Mutator:
        return DocumentMutator(seed, *self.corpora())

    def corpora(self) -> tuple[list[str], list[str], list[str], list[str]]:
        found = corpus.groups(self.files)
        return found["writes"] + found["session"], corpus.statements(*self.reads), found["calls"], []

    async def read(self, text: str) -> Any:
        return await self.service.execute_query(
            agent_id="agent", alias="it", query=text, params={"p": 1} if '"$param": "p"' in text else None
        )

    async def also(self, text: str) -> Any:
        """The operation itself, with whatever the document says as its arguments."""
        with contextlib.suppress(ValueError):
            document = json.loads(text)
            if isinstance(document, dict) and document:
                name = next(iter(document))
                rest = {_OPTIONS.get(key, key): value for key, value in document.items() if key not in (name, "cursor")}
                operation = name if name in ("find", "aggregate", "count", "distinct") else "find"
                return await self.service.execute(
                    operation, {"collection": document[name], **rest}, agent_id="agent", alias="it"
                )
        raise InvalidRequest.at("query", "is no document")

    async def state(self) -> State:
        names = sorted(set(await self.client.list_database_names()) - {"local", "config"})
        collections, indexes, documents = [], [], []
        for name in names:
            for collection in sorted(await self.client[name].list_collection_names()):
                held = [document async for document in self.client[name][collection].find().sort("_id", 1)]
                if held:  # the emulator makes a collection where it counts a missing one; MongoDB does not
                    collections.append((name, collection))
                    indexes.append(
                        [dict(index)["name"] async for index in await self.client[name][collection].list_indexes()]
                    )
                    documents.append(held)
        return {"collections": digest(collections), "indexes": digest(indexes), "documents": digest(documents)}

    async def restore(self) -> None:
        for name in set(await self.client.list_database_names()) - {"local", "config", "admin"}:
            await self.client.drop_database(name)
        for name, documents in _DOCUMENTS.items():
            await self.client["app"][name].insert_many([dict(document) for document in documents])
        await self.client["app"]["orders"].create_index("status", name="status_1")

    async def write(self, text: str) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(3):
                await self.client["app"].command(json.loads(text))
