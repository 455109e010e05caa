"""MongoDB, from version 4.4, and what speaks its protocol: command documents with `{"$param": "name"}`.

A read is one of four commands whose every stage and operator is on an allow-list, with a time limit
of the server's own. A value is bound as a value: it can become neither an operator nor a field path.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from studio.contract import Batch, DatabaseProvider, Effect, Operation, Probe, ProviderConfig, Result, operation
from studio.contract.database import Params
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.providers._lifo import Pool
from studio.providers._tcp import Tcp
from studio.providers.mongodb import guard
from studio.providers.mongodb.bind import Binder
from studio.providers.mongodb.config import MongodbConfig
from studio.providers.mongodb.errors import intact, lost, work_error
from studio.providers.mongodb.password import OwnPassword
from studio.providers.mongodb.privileges import shape as shape_privileges
from studio.providers.mongodb.text import (
    Collection,
    Condition,
    Count,
    Documents,
    Hint,
    Options,
    Path,
    Pipeline,
    Skip,
    Update,
    translate,
)
from studio.providers.mongodb.work import BATCH, Work, keeping, outline, part, summary, written

if TYPE_CHECKING:
    from studio.providers.mongodb.session import Session

_LIST = {"listCollections": 1, "nameOnly": True, "authorizedCollections": True, "cursor": {}}


class Mongodb(OwnPassword, DatabaseProvider[MongodbConfig]):
    """A MongoDB database: collections of documents."""

    kind: ClassVar[str] = "mongodb"
    Config: ClassVar[type[ProviderConfig]] = MongodbConfig
    fixes: ClassVar[Mapping[str, str]] = {
        "tls": "set tls to what the server offers, and give its CA in tls_ca",
        "login": "check username, password, auth_source and replica_set",
        "auth_failed": "check username and password, and that auth_source is the database that holds the user",
        "privileges": "let the account ask connectionStatus, as every account may",
        "sample": "grant the account the role read on the database",
    }

    _pool: Pool[Session]

    async def open(self, stack: AsyncExitStack) -> None:
        """Make an empty pool; sessions are made when they are needed."""
        from studio.providers.mongodb.session import Opener

        config = self.config
        self._tcp = Tcp(
            self.network, config.host, config.port, connect_timeout_s=config.connect_timeout_s,
            tls=config.tls, ca=config.tls_ca,
        )  # fmt: skip
        self._opener = Opener(config)
        # before the deadline, so that a full pool is told from a slow server
        wait_s = config.timeout_s * 0.9
        self._pool = Pool(self._connect, size=config.pool_size, wait_s=wait_s, intact=intact, lost=lost)
        self._work = Work(self._pool, config)
        stack.push_async_callback(self._pool.close)
        stack.push_async_callback(self._work.close)

    async def ping(self) -> None:
        """The command ping."""
        await self._pool.use(lambda session: session.call("admin", {"ping": 1}), again=True)

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return work_error(exc)

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """A query is a command document; see `text.py`."""
        return translate(query, params)

    async def run(self, operation: Operation, arguments: Mapping[str, Any]) -> Result:
        """As of every provider; what it gives is kept."""
        with keeping():
            return await super().run(operation, arguments)

    async def probe(self, probe: Probe) -> None:
        """Stages: resolve, connect, tls, login, privileges, sample."""
        session = await self._tcp.reach(probe, self._connect)
        try:
            with probe.stage("privileges"):
                status = await session.call("admin", {"connectionStatus": 1, "showPrivileges": True})
                probe.privileges = shape_privileges(status, self.config.database)
            with probe.stage("sample"):
                await session.call(self.config.database, _LIST, reading=True)
        finally:
            session.abort()

    # -- reads ------------------------------------------------------------------------------------

    @operation(Effect.READ)
    async def find(
        self,
        collection: Collection,
        filter: Condition = None,  # noqa: A002 - MongoDB's own name for it
        projection: Options = None,
        sort: Options = None,
        skip: Skip = 0,
        limit: Count = None,
        hint: Hint = None,
        collation: Options = None,
        params: Params = None,
    ) -> AsyncGenerator[Batch, None]:
        """Find documents that fit a condition."""
        bind = Binder(params)
        command: dict[str, Any] = {
            "find": guard.collection(collection),
            "filter": guard.check(bind.query(filter or {}, "filter"), field="filter"),
        }
        if projection is not None:
            command["projection"] = guard.check(bind.expression(projection, "projection"), field="projection")
        if sort is not None:
            command["sort"] = guard.order(sort)
        if skip:
            command["skip"] = skip
        rows = self.config.max_rows + 1  # one more than may be answered tells whether there were more
        command["limit"] = rows if limit is None else min(limit, rows)
        command["batchSize"] = min(command["limit"], BATCH)
        async with aclosing(self._work.documents(command | bind.finish(hint, collation))) as batches:
            async for batch in batches:
                yield batch
                del batch  # before the next is read

    @operation(Effect.READ)
    async def aggregate(
        self,
        collection: Collection,
        pipeline: Pipeline,
        hint: Hint = None,
        collation: Options = None,
        params: Params = None,
    ) -> AsyncGenerator[Batch, None]:
        """Run a pipeline of reading stages."""
        bind = Binder(params)
        stages = guard.stages(bind.pipeline(pipeline, "pipeline"))
        rows = self.config.max_rows + 1
        command = {
            "aggregate": guard.collection(collection),
            "pipeline": [*stages, {"$limit": rows}],
            "cursor": {"batchSize": min(rows, BATCH)},
        }
        async with aclosing(self._work.documents(command | bind.finish(hint, collation))) as batches:
            async for batch in batches:
                yield batch
                del batch  # before the next is read

    @operation(Effect.READ)
    async def count(
        self,
        collection: Collection,
        filter: Condition = None,  # noqa: A002
        skip: Skip = 0,
        limit: Count = None,
        hint: Hint = None,
        collation: Options = None,
        params: Params = None,
    ) -> Result:
        """Count documents that fit a condition."""
        bind = Binder(params)
        query = guard.check(bind.query(filter or {}, "filter"), field="filter")
        command: dict[str, Any] = {"count": guard.collection(collection), "query": query}
        command |= {"skip": skip} if skip else {}
        command |= {"limit": limit} if limit is not None else {}
        reply = await self._work.ask(command | bind.finish(hint, collation))
        return Result(data=[{"count": part(reply, "n", int)}], row_count=1)

    @operation(Effect.READ)
    async def distinct(
        self,
        collection: Collection,
        key: Path,
        filter: Condition = None,  # noqa: A002
        collation: Options = None,
        params: Params = None,
    ) -> Result:
        """List the different values of a field."""
        bind = Binder(params)
        if key.startswith("$"):
            raise InvalidRequest.at("key", "is a field's path, without a $ before it")
        query = guard.check(bind.query(filter or {}, "filter"), field="filter")
        command = {"distinct": guard.collection(collection), "key": key, "query": query}
        return await self._work.values(command | bind.finish(None, collation))

    @operation(Effect.READ)
    async def list_collections(self) -> Result:
        """List the collections and views that can be read: name and type."""
        return await self._work.read(
            _LIST, lambda entry: {"name": entry["name"], "type": entry.get("type", "collection")}
        )

    @operation(Effect.READ)
    async def describe_collection(
        self, collection: Collection, sample: Annotated[int, Field(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:
        """Describe one collection: number of documents, indexes, and the fields of some of them."""
        from studio.providers.mongodb.values import type_name

        name = guard.collection(collection)
        listed = await self._work.read(_LIST, lambda entry: entry["name"])
        if name not in listed.data and not listed.truncated:
            raise NotFound("there is no such collection; list_collections names those that there are")
        size = min(sample, self.config.max_rows)
        found = {"find": name, "filter": {}, "limit": size, "batchSize": size}
        documents = await self._work.read(found, lambda document: outline(document, type_name))
        indexes = await self._work.read(
            {"listIndexes": name, "cursor": {}},
            lambda index: {"name": index["name"], "fields": index["key"], "unique": bool(index.get("unique", False))},
        )
        total = await self._work.ask({"count": name})
        return {
            "name": name,
            "documents": part(total, "n", int),
            "sampled": documents.row_count,
            "fields": summary(documents.data),
            "indexes": indexes.data,
        }

    # -- writes -----------------------------------------------------------------------------------

    @operation(Effect.WRITE)
    async def insert(
        self, collection: Collection, documents: Documents, ordered: bool = True, params: Params = None
    ) -> Result:
        """Insert documents; how many."""
        bind = Binder(params)
        bound = bind.data(documents, "documents")
        if not isinstance(bound, list) or not bound or not all(isinstance(document, dict) for document in bound):
            raise InvalidRequest.at("documents", "must be a list of at least one object")
        bind.finish()
        command = {"insert": guard.collection(collection), "ordered": ordered, "documents": bound}
        reply = await self._work.write(command)
        return written(reply, {"inserted": reply.get("n", 0)})

    @operation(Effect.WRITE)
    async def update(
        self,
        collection: Collection,
        filter: Condition,  # noqa: A002
        update: Update,
        many: bool = False,
        upsert: bool = False,
        hint: Hint = None,
        collation: Options = None,
        params: Params = None,
    ) -> Result:
        """Change the first document that fits a condition, or all of them; how many fitted and were changed."""
        bind = Binder(params)
        change = bind.pipeline(update, "update") if isinstance(update, list) else bind.changes(update, "update")
        statement = {
            "q": guard.check(bind.query(filter or {}, "filter"), field="filter"),
            "u": guard.check(change, field="update", writing=True),
            "multi": many,
            "upsert": upsert,
            **bind.finish(hint, collation),
        }
        reply = await self._work.write({"update": guard.collection(collection), "updates": [statement]})
        upserted = len(reply.get("upserted", ()))
        return written(
            reply, {"matched": reply.get("n", 0), "modified": reply.get("nModified", 0), "upserted": upserted}
        )

    @operation(Effect.DELETE)
    async def delete(
        self,
        collection: Collection,
        filter: Condition,  # noqa: A002
        many: bool = False,
        hint: Hint = None,
        collation: Options = None,
        params: Params = None,
    ) -> Result:
        """Delete the first document that fits a condition, or all of them; how many."""
        bind = Binder(params)
        query = guard.check(bind.query(filter or {}, "filter"), field="filter")
        statement = {"q": query, "limit": 0 if many else 1, **bind.finish(hint, collation)}
        reply = await self._work.write({"delete": guard.collection(collection), "deletes": [statement]})
        return written(reply, {"deleted": reply.get("n", 0)})

    async def _connect(self) -> Session:
        return await self._tcp.open(self._opener.log_in)
