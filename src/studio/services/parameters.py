"""The parameters of a saved operation: what an owner declares, and what a caller gives checked against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model, model_validator

from studio.contract import Text
from studio.contract.operation import Arguments
from studio.services.inputs import Body

Scalar = str | int | float | bool
Source = Literal["agent_id", "alias", "organization_id"]
ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
_TYPES: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}
_BOUNDS = {
    "minimum": ("ge", ("integer", "number")),
    "maximum": ("le", ("integer", "number")),
    "min_length": ("min_length", ("string",)),
    "max_length": ("max_length", ("string",)),
    "pattern": ("pattern", ("string",)),
}
"""JSON Schema's keyword, as a field here, to Pydantic's, and the types that it is for."""


class Parameter(Body):
    """One parameter, in JSON Schema's words. Without `default` it is required."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["string", "integer", "number", "boolean"]
    description: Text | None = None
    enum: list[Scalar] | None = Field(None, min_length=1, max_length=200)
    minimum: int | float | None = None
    maximum: int | float | None = None
    min_length: int | None = Field(None, alias="minLength", ge=0)
    max_length: int | None = Field(None, alias="maxLength", ge=0)
    pattern: str | None = Field(None, max_length=500, description="A regular expression, matched in linear time.")
    default: Scalar | None = None

    @model_validator(mode="after")
    def _fits(self) -> Parameter:
        for name, (_, types) in _BOUNDS.items():
            if getattr(self, name) is not None and self.type not in types:
                raise ValueError(f"{name} is not for type {self.type}")
        for value in self.enum or ():
            if type(value) is not _TYPES[self.type] and not (self.type == "number" and type(value) is int):
                raise ValueError(f"enum holds a value that is no {self.type}")
        return self

    @property
    def required(self) -> bool:
        """Whether a caller must give it."""
        return "default" not in self.model_fields_set

    def field(self) -> tuple[Any, Any]:
        """Annotation and default for a Pydantic model."""
        kind: Any = Literal[tuple(self.enum)] if self.enum else _TYPES[self.type]
        bounds = {word: getattr(self, name) for name, (word, _) in _BOUNDS.items() if getattr(self, name) is not None}
        # With an enum the values say everything; bounds beside it would say it twice.
        shown = Field(description=self.description, **({} if self.enum else bounds))
        annotation = Annotated[kind, shown]
        if self.required:
            return annotation, ...
        return (annotation if self.default is not None else annotation | None), self.default

    def example(self) -> Any:
        """A value of the type, to try a statement with."""
        if self.enum:
            return self.enum[0]
        if self.default is not None:
            return self.default
        return {"string": "x", "integer": 1, "number": 1.0, "boolean": True}[self.type]


class FromPlatform(Body):
    """A value that the platform knows of each call."""

    source: Source = Field(alias="from")


Parameters = dict[ParameterName, Parameter]
Bound = dict[ParameterName, Scalar | FromPlatform]


def arguments_model(name: str, parameters: Mapping[str, Parameter]) -> type[Arguments]:
    """A strict model of the parameters; unknown names are refused. Raises ValueError for an impossible pattern."""
    fields: dict[str, Any] = {one: parameter.field() for one, parameter in parameters.items()}
    return create_model(f"{name}_arguments", __base__=Arguments, **fields)
