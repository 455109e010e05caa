"""One operation out of a GraphQL document, parsed and bounded before anything is sent.

What goes out is the parsed operation printed anew, with the fragments that it uses and nothing
else: a server that reads comments, strings or the choice of an operation in its own way still gets
exactly what was judged here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSyntaxError,
    InlineFragmentNode,
    NonNullTypeNode,
    OperationDefinitionNode,
    SelectionSetNode,
    parse,
    print_ast,
)

from studio.errors import InvalidRequest
from studio.providers.graphql.config import MAX_LENGTH

MAX_TOKENS = 2_000
MAX_DEPTH = 12
MAX_ALIASES = 30
MAX_FIELDS = 1_000
"""Selected fields, each fragment counted wherever it is used."""
MAX_INTROSPECTION = 3
"""Lists of a schema inside each other: types, fields, args … of which each multiplies the answer."""
_SCHEMA_FIELDS = frozenset({"__schema", "__type"})
_SCHEMA_LISTS = frozenset({"types", "fields", "interfaces", "possibleTypes", "inputFields"})


class Size(NamedTuple):
    """How much a selection asks for, with its fragments in place."""

    depth: int = 0
    aliases: int = 0
    fields: int = 0
    introspection: int = 0

    def beside(self, other: Size) -> Size:
        """Both, side by side."""
        return Size(
            max(self.depth, other.depth),
            self.aliases + other.aliases,
            self.fields + other.fields,
            max(self.introspection, other.introspection),
        )


@dataclass(frozen=True)
class Judged:
    """An operation that may be sent. `text` is what goes out."""

    operation: OperationDefinitionNode
    nodes: DocumentNode
    text: str
    introspects: bool
    checked: dict[str, Any] = field(default_factory=dict)
    """Room for the outcome of later checks, which is kept with the operation."""

    @property
    def kind(self) -> str:
        """`query` or `mutation`."""
        return self.operation.operation.value

    @property
    def name(self) -> str | None:
        """The operation's name."""
        return self.operation.name.value if self.operation.name else None

    @cached_property
    def variables(self) -> Mapping[str, bool]:
        """Names of the declared variables, and whether a value must be given."""
        return {
            node.variable.name.value: isinstance(node.type, NonNullTypeNode) and node.default_value is None
            for node in self.operation.variable_definitions or ()
        }

    def require_variables(self, given: Mapping[str, Any]) -> None:
        """Raises InvalidRequest: one is missing, or fills no place."""
        for name, needed in self.variables.items():
            if needed and given.get(name) is None:
                raise InvalidRequest.at(f"variables.{name}", "is missing: the operation needs it")
        for name in given:
            if name not in self.variables:
                known = ", ".join(f"${known}" for known in self.variables) or "none"
                raise InvalidRequest.at(
                    f"variables.{name}"[:200], f"is not declared by the operation; declared: {known}"
                )


def judge(text: str, operation_name: str | None = None) -> Judged:
    """Parse a document and pick its operation.

    Raises:
        InvalidRequest: it cannot be read, has not exactly one operation to run, or asks for too much.
    """
    try:
        nodes = _parsed(text)
        fragments = {node.name.value: node for node in nodes.definitions if isinstance(node, FragmentDefinitionNode)}
        operation = _chosen(nodes, operation_name)
        measure = _Measure(fragments)
        size = measure.of(operation.selection_set)
        _require_bounds(size if measure.introspects else size._replace(introspection=0))
        sent = DocumentNode(definitions=(operation, *(fragments[name] for name in measure.used)))
        return Judged(operation, sent, print_ast(sent), introspects=measure.introspects)
    except RecursionError:
        raise InvalidRequest.at("query", "is nested too deeply") from None


def _parsed(text: str) -> DocumentNode:
    if len(text) > MAX_LENGTH:
        raise InvalidRequest.at("query", f"is longer than {MAX_LENGTH:,} characters; give values as variables")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequest.at("query", "holds half of a surrogate pair")
    try:
        return parse(text, max_tokens=MAX_TOKENS)
    except GraphQLSyntaxError as exc:
        where = f" at line {exc.locations[0].line}, column {exc.locations[0].column}" if exc.locations else ""
        raise InvalidRequest.at("query", f"is not GraphQL: {exc.message[:300]}{where}") from None


def _chosen(nodes: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """The one operation to run."""
    for node in nodes.definitions:
        if not isinstance(node, OperationDefinitionNode | FragmentDefinitionNode):
            raise InvalidRequest.at("query", "holds definitions of a schema; only operations and fragments can be run")
    operations = [node for node in nodes.definitions if isinstance(node, OperationDefinitionNode)]
    names = [node.name.value if node.name else "" for node in operations]
    if name is not None:
        operations = [node for node, found in zip(operations, names, strict=True) if found == name]
    if len(operations) != 1:
        known = ", ".join(filter(None, names))[:300] or "none with a name"
        raise InvalidRequest.at(
            "query" if name is None else "operation_name",
            f"must leave exactly one operation to run, and {len(operations)} are left; in the document: {known}",
        )
    if operations[0].operation.value == "subscription":
        raise InvalidRequest.at("query", "is a subscription, which never ends; ask for the state with a query")
    return operations[0]


def _require_bounds(size: Size) -> None:
    for found, most, what in (
        (size.depth, MAX_DEPTH, "levels of fields"),
        (size.aliases, MAX_ALIASES, "aliases"),
        (size.fields, MAX_FIELDS, "fields"),
        (size.introspection, MAX_INTROSPECTION, "lists of the schema inside each other (use the operation schema)"),
    ):
        if found > most:
            raise InvalidRequest.at("query", f"asks for more than {most} {what}, fragments included; ask for less")


class _Measure:
    """Sizes of selections; each fragment is measured once, so that nested ones cost no more than their text."""

    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
        self._fragments = fragments
        self._known: dict[str, Size | None] = {}
        self.introspects = False

    @property
    def used(self) -> Iterator[str]:
        """The fragments met so far, in the order of the document."""
        return (name for name in self._fragments if name in self._known)

    def of(self, selections: SelectionSetNode) -> Size:
        """The size of a selection."""
        total = Size()
        for node in selections.selections:
            if isinstance(node, FieldNode):
                total = total.beside(self._field(node))
            elif isinstance(node, InlineFragmentNode):
                total = total.beside(self.of(node.selection_set))
            elif isinstance(node, FragmentSpreadNode):
                total = total.beside(self._fragment(node.name.value))
        return total

    def _field(self, node: FieldNode) -> Size:
        inner = self.of(node.selection_set) if node.selection_set else Size()
        name = node.name.value
        if name in _SCHEMA_FIELDS:
            self.introspects = True
        return Size(
            inner.depth + 1,
            inner.aliases + (node.alias is not None),
            inner.fields + 1,
            inner.introspection + (name in _SCHEMA_LISTS),
        )

    def _fragment(self, name: str) -> Size:
        if name not in self._fragments:
            raise InvalidRequest.at("query", f"uses a fragment that it does not define: {name[:100]}")
        if name not in self._known:
            self._known[name] = None
            self._known[name] = self.of(self._fragments[name].selection_set)
        size = self._known[name]
        if size is None:
            raise InvalidRequest.at("query", f"has a fragment that leads back to itself: {name[:100]}")
        return size
