"""GraphQL: one endpoint, queries and mutations with variables."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import orjson
from pydantic import Field

from studio.contract import Effect, ProviderConfig, Result, operation
from studio.contract.web import ApiProvider, split_url
from studio.errors import InvalidRequest, OperationNotSupported, ReadOnly, StudioError
from studio.providers._http.client import Answer, HttpClient, Request
from studio.providers._http.errors import translate
from studio.providers._http.lists import cut_lists
from studio.providers.graphql.answer import document_of, errors_in, result_of
from studio.providers.graphql.config import GraphqlConfig, kind_of

if TYPE_CHECKING:
    from studio.contract import Probe
    from studio.providers.graphql.document import Judged

Document = Annotated[str, Field(description="A GraphQL document with the operation to run.", min_length=1)]
Variables = Annotated[dict[str, Any] | None, Field(description="Values of the document's variables, by name.")]
OperationName = Annotated[str | None, Field(description="Which operation of the document, where it has several.")]

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/graphql-response+json, application/json;q=0.9",
}
_INLINE = 1_000
"""Characters of a document that is parsed on the spot, in 5 ms at most; longer ones go to a thread."""
_KEPT = 256
_SMALLEST = b'{"query":"query { __typename }"}'
_HAS_SCHEMA = b'{"query":"query { __schema { queryType { name } } }"}'


class Graphql(ApiProvider[GraphqlConfig]):
    """GraphQL API: queries and mutations with variables, checked against the API's own schema."""

    kind: ClassVar[str] = "graphql"
    least: ClassVar[str] = "credentials that may run queries on the types that agents need, and no mutation"
    Config: ClassVar[type[ProviderConfig]] = GraphqlConfig

    # -- the contract ---------------------------------------------------------------------------

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the client; nothing connects yet."""
        await asyncio.to_thread(import_module, "studio.providers.graphql.schema")
        from studio.providers.graphql.document import judge
        from studio.providers.graphql.schema import SchemaSource

        self._url = split_url(self.config.endpoint)
        self._client = HttpClient(self.config, self._url, self.network)
        await self._client.open(stack)
        self._judge = lru_cache(_KEPT)(judge)
        self._schema = SchemaSource(
            lambda body, limit: self._send(body, idempotent=True, limit=limit),
            self._client.redactor,
            timeout_s=self.config.timeout_s,
            patience_s=self.config.timeout_s / 2,
        )
        stack.push_async_callback(self._schema.close)

    async def ping(self) -> None:
        """Ask for the name of the root type."""
        await self.authenticate()
        await self.sample()

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return translate(exc)

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """A GraphQL document; params are its variables. A mutation is run by `mutate`, anything else by `query`."""
        name = "mutate" if kind_of(query) == "mutation" else "query"
        return name, {"query": query, "variables": dict(params) if params else None}

    async def reach(self, probe: Probe) -> None:
        """The stages resolve, connect and tls."""
        await self._client.reach(probe)

    async def authenticate(self) -> None:
        """Get a token, and ask for the name of the root type."""
        await self._client.prepare()
        self._first = await self._send(_SMALLEST, idempotent=True)
        if self._first.status in {401, 403, 407}:
            self._result(self._first)

    async def sample(self) -> str | None:
        """Whether the answer to that was GraphQL, and whether the API tells its schema."""
        self._result(self._first)
        if not self.config.introspect:
            return "introspect is off: queries are not checked before they are sent"
        answer = await self._send(_HAS_SCHEMA, idempotent=True)
        try:
            refused = bool(errors_in(document_of(answer, self._client.redactor, self.config.max_bytes)))
        except StudioError:
            refused = True
        return "the API does not answer introspection: queries go out unchecked" if refused else None

    # -- operations -----------------------------------------------------------------------------

    @operation(Effect.READ)
    async def query(self, query: Document, variables: Variables = None, operation_name: OperationName = None) -> Result:
        """Run one query and return its data."""
        return await self._run("query", query, variables or {}, operation_name)

    @operation(Effect.WRITE)
    async def mutate(
        self, query: Document, variables: Variables = None, operation_name: OperationName = None
    ) -> Result:
        """Run one mutation and return its data."""
        if self.config.read_only:
            raise ReadOnly("this connector only reads, and a mutation does not; ask for one with read_only=false")
        return await self._run("mutation", query, variables or {}, operation_name)

    @operation(Effect.READ)
    async def schema(
        self,
        name: Annotated[str | None, Field(description="A type (User) or a field (User.posts, Query.user).")] = None,
        search: Annotated[str | None, Field(description="Only names that hold this text.", max_length=200)] = None,
    ) -> Result:
        """Describe the API: names first; with a name, one type or one field in the schema language."""
        if not self.config.introspect:
            raise OperationNotSupported("introspection is switched off for this connector (introspect)")
        from studio.providers.graphql import describe

        schema = await self._schema.wanted()
        if name is not None:
            return Result(data=describe.one(schema, name), row_count=1)
        data, cut = cut_lists(describe.names(schema, search), self.config.max_rows)
        return Result(data=data, row_count=1, truncated=cut)

    async def _run(self, kind: str, text: str, variables: dict[str, Any], name: str | None) -> Result:
        judged = await self._judged(text, name)
        if judged.kind != kind:
            verb = "mutate" if judged.kind == "mutation" else "query"
            raise InvalidRequest.at("query", f"is a {judged.kind}, not a {kind}; run it with the operation {verb}")
        judged.require_variables(variables)
        body = _body(judged, variables)
        if self.config.introspect:
            from studio.providers.graphql.schema import checked

            await checked(self._schema, judged, variables)
        elif judged.introspects:
            raise InvalidRequest.at("query", "asks for the schema; introspection is switched off for this connector")
        return self._result(await self._send(body, idempotent=kind == "query"))

    async def _judged(self, text: str, name: str | None) -> Judged:
        """The operation in a document; those seen lately are kept."""
        if len(text) <= _INLINE:
            return self._judge(text, name)
        return await asyncio.to_thread(self._judge, text, name)

    async def _send(self, body: bytes, *, idempotent: bool, limit: int | None = None) -> Answer:
        request = Request("POST", self._url.path or "/", headers=_HEADERS, body=body, idempotent=idempotent)
        return await self._client.send(request, limit=limit)

    def _result(self, answer: Answer) -> Result:
        return result_of(answer, self._client.redactor, max_bytes=self.config.max_bytes, max_rows=self.config.max_rows)


def _body(judged: Judged, variables: Mapping[str, Any]) -> bytes:
    """The request's body: always one object, never a batch."""
    sent: dict[str, Any] = {"query": judged.text}
    if variables:
        sent["variables"] = variables
    if judged.name is not None:
        sent["operationName"] = judged.name
    try:
        body = orjson.dumps(sent)
        _require_finite(variables)
        return body
    except TypeError:
        raise InvalidRequest.at("variables", "hold what JSON does not have, or a number beyond 64 bits") from None


def _require_finite(value: Any) -> None:
    """Raises TypeError for a number that would go out as null. The value is known not to be deep."""
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _require_finite(item)
