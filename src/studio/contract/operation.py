"""What a provider can do: typed methods with an effect, read off their signatures.

    class Postgres(DatabaseProvider):
        @operation(Effect.READ)
        async def query(self, query: str, params: Params = None) -> AsyncIterator[Batch]:
            \"\"\"Run one SQL query and return its rows.\"\"\"

From this one declaration come the operation's name, its description (the first line of the
docstring), its JSON Schema (the parameters' annotations), its policy (the effect) and its shape:

* an async generator returns rows: it yields a `Batch` at least once (an empty one tells the
  columns), and the house stops it at the caps, collects it or streams it;
* a coroutine returns any value of canonical form, or a ready `Result`.

`effect` may be a function of the arguments where one verb covers several (a Redis command).

An operation about one object's content can have a second form that moves raw bytes in constant
memory: see `byte_form`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from studio.contract.config import field_errors
from studio.errors import InvalidRequest
from studio.models import Column, Effect

Method = TypeVar("Method", bound=Callable[..., Any])
EffectOf = Callable[[Mapping[str, Any]], Effect]
_MARK = "__studio_operation__"
_BYTES_MARK = "__studio_byte_form__"
CHUNKS = "chunks"
"""The parameter of a byte form that is the content itself, and no argument."""


@dataclass(slots=True)
class Batch:
    """Some rows of a result, values in canonical form: a list of tuples in the order of `columns`, or a `Table`.

    With `documents` they are objects, each with members of its own, and there are no columns.
    `more` on the last one says that rows were there which the source did not read: the result is truncated.
    """

    columns: list[Column]
    rows: Sequence[Any]
    documents: bool = False
    more: bool = False


@dataclass(slots=True)
class Download:
    """Raw bytes on their way out: what is known before the first one, then the chunks.

    `length` counts the bytes that `chunks` holds in all, which may be a range of the `size` that the
    whole has. `name` is what a file of it could be called; `etag` is an opaque mark of the whole's
    content. `details` is in canonical form, and goes where a surface has room for it.
    """

    chunks: AsyncIterator[bytes]
    length: int
    offset: int = 0
    size: int | None = None
    content_type: str = "application/octet-stream"
    name: str | None = None
    etag: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


class Arguments(BaseModel):
    """Base of every operation's parameter model: strict, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class _Mark:
    effect: Effect | EffectOf
    idempotent: bool


def operation(effect: Effect | EffectOf, *, idempotent: bool = False) -> Callable[[Method], Method]:
    """Declare a provider's method as an operation.

    Args:
        effect: what it does upstream, or a function of its arguments that tells.
        idempotent: running it twice leaves the same state as once. Reads always are.
    """

    def mark(method: Method) -> Method:
        setattr(method, _MARK, _Mark(effect, idempotent or effect is Effect.READ))
        return method

    return mark


def byte_form(of: str) -> Callable[[Method], Method]:
    """Declare a method as the form of operation `of` that moves raw bytes: same name, same effect.

    * A method without a parameter `chunks` gives them: it returns an asynchronous context manager
      of a `Download`.
    * A method whose first parameter is `chunks` takes them (an asynchronous iterator of bytes, of
      any sizes), and returns what a coroutine operation does.

    The other parameters are the form's own, and are validated like an operation's.
    """

    def mark(method: Method) -> Method:
        setattr(method, _BYTES_MARK, of)
        return method

    return mark


@dataclass(frozen=True)
class Operation:
    """One verb of a provider class."""

    name: str
    method: Callable[..., Any]
    effect: Effect | EffectOf
    idempotent: bool

    @cached_property
    def rows(self) -> bool:
        """Whether it answers rows (and so can be streamed)."""
        return inspect.isasyncgenfunction(self.method)

    @property
    def takes_bytes(self) -> bool:
        """For a byte form: whether bytes go in rather than come out."""
        return CHUNKS in inspect.signature(self.method).parameters

    @property
    def description(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(self.method) or self.name).split("\n\n")[0].split())

    @cached_property
    def arguments(self) -> type[Arguments]:
        """The parameters as a Pydantic model; made on first use."""
        hints = get_type_hints(self.method, include_extras=True)
        fields: dict[str, Any] = {}
        for name, parameter in list(inspect.signature(self.method).parameters.items())[1:]:
            if name == CHUNKS:
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints[name], default)
        with warnings.catch_warnings():
            # A parameter may have the name of something that Pydantic's models have too (`schema`, `json`).
            warnings.filterwarnings("ignore", "Field name .* shadows an attribute", UserWarning)
            return create_model(f"{self.name}_arguments", __base__=Arguments, **fields)

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the parameters."""
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        for entry in schema.get("properties", {}).values():
            entry.pop("title", None)
        return schema

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Validated keyword arguments for the method.

        Raises:
            InvalidRequest: naming each wrong, missing or unknown parameter.
        """
        try:
            model = self.arguments.model_validate(given)
        except ValidationError as exc:
            fields = field_errors(exc, "")
            said = "; ".join(f"{error.field}: {error.message}" for error in fields)
            raise InvalidRequest(f"operation {self.name}: {said}", fields=fields) from None
        return {name: getattr(model, name) for name in type(model).model_fields}

    def effect_of(self, arguments: Mapping[str, Any]) -> Effect:
        """The effect of this call."""
        return self.effect if isinstance(self.effect, Effect) else self.effect(arguments)

    def describe(self) -> dict[str, Any]:
        """What callers see: name, description, effect, schema. A dynamic effect reads `by_arguments`."""
        return {
            "name": self.name,
            "description": self.description,
            "effect": self.effect.value if isinstance(self.effect, Effect) else "by_arguments",
            "idempotent": self.idempotent,
            "returns_rows": self.rows,
            "parameters": self.schema(),
        }


def operations_of(cls: type) -> dict[str, Operation]:
    """All operations of a provider class, in the order of definition, parents first."""
    found: dict[str, Operation] = {}
    for parent in reversed(cls.__mro__):
        for name, member in vars(parent).items():
            mark = getattr(member, _MARK, None)
            if mark is None and name in found:
                mark = _Mark(found[name].effect, found[name].idempotent)  # an override keeps its parent's effect
            if mark is not None:
                found[name] = Operation(name, member, mark.effect, mark.idempotent)
    return found


def byte_forms_of(cls: type, operations: Mapping[str, Operation]) -> dict[str, Operation]:
    """The byte forms of a provider class, by the name of the operation that each belongs to."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        found |= {name: getattr(m, _BYTES_MARK) for name, m in vars(parent).items() if hasattr(m, _BYTES_MARK)}
    forms = {}
    for method, name in found.items():
        base = operations[name]
        forms[name] = Operation(name, getattr(cls, method), base.effect, base.idempotent)
    return forms
