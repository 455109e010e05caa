"""An operation is read off a method's signature: name, schema, effect and validation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import pytest
from pydantic import Field

from studio.contract.operation import Batch, operation, operations_of
from studio.errors import InvalidRequest
from studio.models import Effect

CANARY = "c4n4ry-v4lu3"


def _by_command(arguments: Mapping[str, Any]) -> Effect:
    return Effect.DELETE if arguments["command"] == "DEL" else Effect.READ


class Parent:
    @operation(Effect.READ)
    def rows(
        self, table: Annotated[str, Field(min_length=1, max_length=5, description="A name.")], limit: int = 10
    ) -> AsyncIterator[Batch]:
        """Rows of
        one table.

        More words.
        """
        raise NotImplementedError

    @operation(Effect.WRITE, idempotent=True)
    async def put(self, key: str, value: Any = None) -> None:
        """Put."""

    @operation(_by_command)
    async def command(self, command: str) -> None:
        """Anything."""

    async def helper(self) -> None:
        """Not an operation."""


class Child(Parent):
    async def rows(self, table: str, limit: int = 5) -> AsyncIterator[Batch]:  # type: ignore[override]
        """Rows, in the child's own way."""
        yield Batch([], [])


OPERATIONS = operations_of(Child)


def wrong(name: str, given: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        OPERATIONS[name].parse(given)
    return caught.value


def test_operations_are_the_marked_methods_in_the_order_of_definition() -> None:
    assert list(OPERATIONS) == ["rows", "put", "command"]


def test_an_override_keeps_its_parents_effect_and_brings_its_own_body() -> None:
    found = OPERATIONS["rows"]
    assert (found.effect, found.method, found.rows) == (Effect.READ, Child.rows, True)
    assert found.description == "Rows, in the child's own way."
    assert operations_of(Parent)["rows"].description == "Rows of one table."


def test_the_schema_comes_from_the_signature() -> None:
    schema = operations_of(Parent)["rows"].schema()
    assert schema["required"] == ["table"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["table"] == {
        "type": "string", "minLength": 1, "maxLength": 5, "description": "A name."
    }  # fmt: skip
    assert schema["properties"]["limit"] == {"type": "integer", "default": 10}


def test_a_description_says_effect_idempotence_and_shape() -> None:
    shown = {name: found.describe() for name, found in OPERATIONS.items()}
    assert [shown[name]["effect"] for name in shown] == ["read", "write", "by_arguments"]
    assert [shown[name]["idempotent"] for name in shown] == [True, True, False]
    assert [shown[name]["returns_rows"] for name in shown] == [True, False, False]


def test_an_effect_may_depend_on_the_arguments() -> None:
    found = OPERATIONS["command"]
    assert found.effect_of(found.parse({"command": "DEL"})) is Effect.DELETE
    assert found.effect_of(found.parse({"command": "GET"})) is Effect.READ


def test_arguments_are_parsed_with_their_defaults() -> None:
    assert operations_of(Parent)["rows"].parse({"table": "t"}) == {"table": "t", "limit": 10}


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({}, ["key"]),
        ({"key": "k", "other": CANARY}, ["other"]),
        ({"key": 1}, ["key"]),
        ({"key": None}, ["key"]),
        ({"other": CANARY, "more": CANARY}, ["key", "other", "more"]),
    ],
)
def test_missing_unknown_and_wrong_arguments_are_named_without_their_values(given: Any, fields: list[str]) -> None:
    error = wrong("put", given)
    assert [entry.field for entry in error.fields] == fields
    assert CANARY not in f"{error.message} {error.fields}"
    assert error.message.startswith("operation put: ")


@pytest.mark.parametrize("limit", ["1", 1.0, True, None])
def test_arguments_are_not_converted(limit: Any) -> None:
    assert [entry.field for entry in wrong("rows", {"table": "t", "limit": limit}).fields] == ["limit"]
