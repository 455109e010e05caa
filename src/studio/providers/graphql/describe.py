"""A schema in few words: names first, then one type, then one field with what its arguments need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    get_named_type,
    is_introspection_type,
    is_specified_scalar_type,
)
from graphql.pyutils import did_you_mean, suggestion_list
from graphql.utilities.print_schema import print_input_value

from studio.errors import InvalidRequest

_WORDS = {
    GraphQLObjectType: ("type", "objects"),
    GraphQLInterfaceType: ("interface", "interfaces"),
    GraphQLInputObjectType: ("input", "inputs"),
    GraphQLEnumType: ("enum", "enums"),
    GraphQLUnionType: ("union", "unions"),
}
_NOTE = 120
_WIDE = 100
_MAX_NEEDED = 12


def names(schema: GraphQLSchema, search: str | None = None) -> dict[str, Any]:
    """Names of queries, mutations and types; only those that hold `search`, where it is given."""

    def fits(name: str) -> bool:
        return search is None or search.lower() in name.lower()

    roots = {"queries": schema.query_type, "mutations": schema.mutation_type}
    found: dict[str, Any] = {
        word: [name for name in root.fields if fits(name)] for word, root in roots.items() if root is not None
    }
    types: dict[str, list[str]] = {}
    for name, kind in schema.type_map.items():
        own = is_introspection_type(kind) or is_specified_scalar_type(kind) or kind in roots.values()
        if not own and fits(name):
            types.setdefault(_WORDS.get(type(kind), ("scalar", "scalars"))[1], []).append(name)
    return {**found, "types": types}


def one(schema: GraphQLSchema, name: str) -> str:
    """A type (`User`), or a field of one (`User.posts`, `Query.user`), in the schema language.

    Raises:
        InvalidRequest: there is none of that name; similar ones are named.
    """
    owner, _, member = name.partition(".")
    kind = schema.type_map.get(owner)
    if kind is None and not member:
        for root in (schema.query_type, schema.mutation_type):
            if root is not None and owner in root.fields:
                return _field(schema, root, owner)
    if kind is None:
        raise _unknown("no type or query has this name", owner, schema.type_map)
    return _field(schema, kind, member) if member else _type(kind)


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> InvalidRequest:
    meant = did_you_mean(suggestion_list(name[:100], known))
    return InvalidRequest.at("name", what + (f";{meant}" if meant else ""))  # type: ignore[return-value]


def _type(kind: GraphQLNamedType) -> str:
    return "\n".join([*_note(kind.description, 400), *_body(kind)])


def _body(kind: GraphQLNamedType) -> Iterator[str]:
    word = _WORDS.get(type(kind), ("scalar", ""))[0]
    if isinstance(kind, GraphQLUnionType):
        yield f"union {kind.name} = " + " | ".join(member.name for member in kind.types)
    elif isinstance(kind, GraphQLEnumType):
        yield f"enum {kind.name} {{ {' '.join(kind.values)} }}"
    elif isinstance(kind, GraphQLInputObjectType):
        yield f"input {kind.name} {{"
        yield from (_line(print_input_value(name, field), field) for name, field in kind.fields.items())
        yield "}"
    elif isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        also = " & ".join(parent.name for parent in kind.interfaces)
        yield f"{word} {kind.name}" + (f" implements {also}" if also else "") + " {"
        yield from (_line(_signature(name, field), field) for name, field in kind.fields.items())
        yield "}"
    else:
        yield f"scalar {kind.name}"


def _signature(name: str, field: GraphQLField) -> str:
    arguments = ", ".join(print_input_value(name, argument) for name, argument in field.args.items())
    return f"{name}({arguments}): {field.type}" if arguments else f"{name}: {field.type}"


def _line(text: str, field: GraphQLField | GraphQLInputField) -> str:
    notes = [*_note(field.description, _NOTE), *(["# deprecated"] if field.deprecation_reason else [])]
    return "  " + "  ".join([text, *notes])


def _note(description: str | None, most: int) -> list[str]:
    text = " ".join((description or "").split())
    return [f"# {text[:most]}" + ("…" if len(text) > most else "")] if text else []


def _field(schema: GraphQLSchema, owner: GraphQLNamedType, name: str) -> str:
    """One field, what is said of it and of its arguments, and the types that it takes and gives."""
    fields: Mapping[str, Any] = getattr(owner, "fields", {})
    if name not in fields:
        raise _unknown(f"{owner.name} has no such field", name, fields)
    field = fields[name]
    lines = _note(field.description, 2000)
    if field.deprecation_reason:
        lines.append(f"# deprecated: {field.deprecation_reason[:200]}")
    arguments: Mapping[str, GraphQLArgument] = getattr(field, "args", {})
    text = _signature(name, field) if isinstance(field, GraphQLField) else print_input_value(name, field)
    lines.append(f"{owner.name}.{text}")
    lines += [f"# ${key}: {note[2:]}" for key, given in arguments.items() for note in _note(given.description, 300)]
    needed = _needed([get_named_type(given.type) for given in arguments.values()])
    answers = get_named_type(field.type)
    for kind in dict.fromkeys([*needed, answers]):
        if not is_specified_scalar_type(kind):
            lines += _body(kind)
    return "\n".join(lines)


def _needed(kinds: list[GraphQLNamedType]) -> list[GraphQLNamedType]:
    """Input types and enums that a caller must know to fill the arguments, from the outside in."""
    found: dict[str, GraphQLNamedType] = {}
    while kinds and len(found) < _MAX_NEEDED:
        kind = kinds.pop(0)
        if kind.name in found or is_specified_scalar_type(kind):
            continue
        found[kind.name] = kind
        if isinstance(kind, GraphQLInputObjectType):
            kinds += [get_named_type(field.type) for field in kind.fields.values()]
    return list(found.values())
