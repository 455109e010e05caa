"""The verbs of the database family, and what its SQL members share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar

from pydantic import Field
from typing_extensions import TypedDict  # Pydantic takes no other before Python 3.12

from studio.contract.operation import Batch, operation
from studio.contract.probe import Probe
from studio.contract.provider import ConfigT, Provider
from studio.models import Effect, Result

Sql = Annotated[str, Field(description="One SQL statement; values as :name parameters.", min_length=1)]
Params = Annotated[dict[str, Any] | None, Field(description="Values of the :name parameters.")]
TableName = Annotated[str, Field(min_length=1, max_length=255, description="A table's or view's name.")]
SchemaName = Annotated[str | None, Field(max_length=255, description="Its schema; the connector's own if left out.")]


class StatementWithParams(TypedDict, total=False):
    """One statement of a transaction: `query`, and `params` where it has any."""

    query: str
    params: dict[str, Any] | None


class DatabaseProvider(Provider[ConfigT]):
    """A database of any model."""

    family: ClassVar[str] = "database"


class SqlProvider(DatabaseProvider[ConfigT]):
    """A database that speaks SQL: the same six operations, whatever the engine."""

    @operation(Effect.READ)
    @abstractmethod
    def query(self, query: Sql, params: Params = None) -> AsyncIterator[Batch]:
        """Run one reading SQL statement and return its rows. It cannot change anything."""

    @operation(Effect.WRITE)
    @abstractmethod
    async def execute(self, query: Sql, params: Params = None) -> Result:
        """Run one SQL statement that may write; it is committed before the answer."""

    @operation(Effect.READ)
    @abstractmethod
    def list_tables(self) -> AsyncIterator[Batch]:
        """List the tables and views that can be read: schema, name, type, estimated rows."""

    @operation(Effect.READ)
    @abstractmethod
    async def describe_table(self, table: TableName, schema: SchemaName = None) -> dict[str, Any]:
        """Describe one table: columns, primary key, foreign keys and indexes."""

    @operation(Effect.READ)
    @abstractmethod
    async def explain(self, query: Sql, params: Params = None) -> list[Any]:
        """Show the plan of a query without running it."""

    @operation(Effect.WRITE)
    @abstractmethod
    async def transaction(
        self, statements: Annotated[list[StatementWithParams], Field(min_length=1, max_length=100)]
    ) -> Result:
        """Run several statements as one transaction: all of them take effect, or none."""

    @abstractmethod
    async def privileges(self) -> dict[str, Any]:
        """What the account may do (see `Probe.privileges`)."""

    async def probe(self, probe: Probe) -> None:
        """Stages: whatever reaching the server takes, then privileges and a sample query."""
        await self.reach(probe)
        with probe.stage("privileges"):
            probe.privileges = await self.privileges()
        with probe.stage("sample"):
            await self.ping()

    @abstractmethod
    async def reach(self, probe: Probe) -> None:
        """The stages up to a logged-in session: resolve, connect, tls, login (for files: open)."""
