"""The API's own schema: read when it is first needed, kept for a while, and asked before a query is sent.

An API that does not answer introspection is used without: its own errors then have to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from graphql import (
    GraphQLSchema,
    build_client_schema,
    get_introspection_query,
    parse,
    print_ast,
    specified_rules,
    validate,
)
from graphql.execution.values import get_variable_values
from graphql.validation import OverlappingFieldsCanBeMergedRule

from studio.errors import AuthFailed, InvalidRequest, ResultBlocked, UpstreamError
from studio.providers._http.body import Answer
from studio.providers._http.redact import Redactor
from studio.providers.graphql.answer import document_of, errors_in
from studio.providers.graphql.document import Judged

KEEP_S = 900.0
"""A schema, or the word that there is none, is read again after this long."""
DOUBT_S = 30.0
"""A schema older than this is read again before a query is refused because of it."""
MAX_BYTES = 8 * 1024 * 1024
_RULES = tuple(rule for rule in specified_rules if rule is not OverlappingFieldsCanBeMergedRule)
"""Comparing all fields with each other takes time by the square; the API does it anyway."""
_MAX_ERRORS = 5
_NOT_TOLD = (AuthFailed, UpstreamError, ResultBlocked)
"""What an API answers that keeps its schema to itself."""


@dataclass(frozen=True)
class Known:
    """What was learned, and when. `schema` is None where the API does not tell."""

    schema: GraphQLSchema | None
    at: float

    def age_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.at


class SchemaSource:
    """One API's schema for one session.

    Args:
        ask: sends a body and gives the answer, of at most so many bytes.
        patience_s: how long a query waits for the schema before it goes without.
    """

    def __init__(
        self, ask: Callable[[bytes, int], Awaitable[Answer]], redactor: Redactor, *, timeout_s: float, patience_s: float
    ) -> None:
        self._ask = ask
        self._redactor = redactor
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._known: Known | None = None
        self._reading: asyncio.Task[Known] | None = None

    async def now(self) -> GraphQLSchema | None:
        """The schema as far as it is known without waiting long.

        Raises:
            StudioError: the API cannot be reached.
        """
        known = self._known
        if known is None:
            task = self._read()
            await asyncio.wait({task}, timeout=self._patience_s)
            return task.result().schema if task.done() and not task.cancelled() else None
        if known.age_s() > KEEP_S:
            self._read()  # for those who come after; this one uses what is there
        return known.schema

    async def wanted(self) -> GraphQLSchema:
        """The schema itself, however long it takes.

        Raises:
            UpstreamError: the API does not tell.
        """
        known = self._known
        if known is None or known.age_s() >= (KEEP_S if known.schema else DOUBT_S):
            known = await asyncio.shield(self._read())
        if known.schema is None:
            raise UpstreamError("the API does not answer introspection, so its schema is not known here; see its docs")
        return known.schema

    async def fresher(self, than: GraphQLSchema) -> GraphQLSchema | None:
        """Another schema, where the known one is old enough to be in doubt; None where there is none."""
        known = self._known
        if known is not None and known.schema is than and known.age_s() > DOUBT_S:
            known = await asyncio.shield(self._read())
        return known.schema if known is not None and known.schema is not than else None

    async def close(self) -> None:
        """End what is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _read(self) -> asyncio.Task[Known]:
        if self._reading is None or self._reading.done():
            # A task of its own: a caller that is cancelled must not take the schema away from the others.
            self._reading = asyncio.create_task(self._fetch(), name="studio-graphql-schema")
            self._reading.add_done_callback(_seen)
        return self._reading

    async def _fetch(self) -> Known:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._ask(_introspection(), MAX_BYTES)
                schema = await asyncio.to_thread(_built, answer, self._redactor)
        except (*_NOT_TOLD, TimeoutError):
            schema = None
        self._known = Known(schema, time.monotonic())
        return self._known


@cache
def _introspection() -> bytes:
    return orjson.dumps({"query": print_ast(parse(get_introspection_query())), "operationName": "IntrospectionQuery"})


def _seen(task: asyncio.Task[Known]) -> None:
    """Where every waiter has gone, nobody else looks at the outcome."""
    if not task.cancelled():
        task.exception()


def _built(answer: Answer, redactor: Redactor) -> GraphQLSchema:
    """The schema out of an answer; takes a second for a very large one, so it belongs in a thread.

    Raises:
        StudioError: it holds none.
    """
    document = document_of(answer, redactor, MAX_BYTES)
    if errors_in(document) or not isinstance(document.get("data"), dict):
        raise UpstreamError("the API does not answer introspection")
    try:
        return build_client_schema(document["data"])
    except (RecursionError, Exception) as exc:  # whatever a hostile answer makes the library raise
        raise UpstreamError("the API's answer to introspection cannot be used") from exc


def check_document(schema: GraphQLSchema, judged: Judged) -> None:
    """Compare an operation with the schema.

    Raises:
        InvalidRequest: naming what does not exist, and what was probably meant.
    """
    known = judged.checked.get("schema")
    if known is not None and known[0] is schema:
        said = known[1]
    else:
        errors = validate(schema, judged.nodes, _RULES, max_errors=_MAX_ERRORS)
        said = "; ".join(dict.fromkeys(error.message[:300] for error in errors))
        judged.checked["schema"] = (schema, said)
    if said:
        raise InvalidRequest.at("query", f"does not fit the API's schema: {said[:1000]}")


def check_variables(schema: GraphQLSchema, judged: Judged, given: Mapping[str, Any]) -> None:
    """Compare the variables' values with their types.

    Raises:
        InvalidRequest: naming the variable.
    """
    outcome = get_variable_values(schema, judged.operation.variable_definitions or (), dict(given))
    if isinstance(outcome, list):
        said = "; ".join(error.message[:300] for error in outcome[:_MAX_ERRORS])
        raise InvalidRequest.at("variables", said[:1000])


async def checked(source: SchemaSource, judged: Judged, given: Mapping[str, Any]) -> None:
    """Refuse what the API's schema does not know, as far as that is known here.

    Raises:
        InvalidRequest: see `check_document` and `check_variables`.
    """
    schema = await source.now()
    if schema is None:
        return
    try:
        await _check(schema, judged, given)
    except InvalidRequest:
        newer = await source.fresher(schema)
        if newer is None:
            raise
        await _check(newer, judged, given)


async def _check(schema: GraphQLSchema, judged: Judged, given: Mapping[str, Any]) -> None:
    if "schema" not in judged.checked or judged.checked["schema"][0] is not schema:
        # Large documents take tens of milliseconds.
        await asyncio.to_thread(_look, schema, judged)
    check_document(schema, judged)
    check_variables(schema, judged, given)


def _look(schema: GraphQLSchema, judged: Judged) -> None:
    with contextlib.suppress(InvalidRequest):
        check_document(schema, judged)  # the outcome is kept with the operation
