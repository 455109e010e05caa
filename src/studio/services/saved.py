"""A saved operation at work: a caller's arguments in, a call of one of the provider's own operations out."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaError

from studio.contract import Effect, Operation
from studio.contract.config import field_errors
from studio.contract.operation import Arguments
from studio.contract.sql import MYSQL, POSTGRESQL, SQLITE, parse
from studio.errors import InvalidRequest, StudioError
from studio.models import Connector, ConnectorInstance, SavedOperation
from studio.services.configs import Effective
from studio.services.parameters import Bound, FromPlatform, Parameters, arguments_model

BY_ARGUMENTS = "by_arguments"
"""What is shown in place of an effect that hangs on the arguments."""
_DIALECTS = {dialect.name: dialect for dialect in (POSTGRESQL, MYSQL, SQLITE)}
_PARAMETERS: TypeAdapter[Parameters] = TypeAdapter(Parameters)
_BOUND: TypeAdapter[Bound] = TypeAdapter(Bound)


@dataclass(frozen=True)
class Saved:
    """One row, ready to run. Made by `of`, which keeps the compiled ones."""

    row: SavedOperation

    @property
    def name(self) -> str:
        """Its name among the connector's operations."""
        return self.row.name

    @cached_property
    def parameters(self) -> Parameters:
        """What a caller gives."""
        return _PARAMETERS.validate_json(self.row.parameters)

    @cached_property
    def bound(self) -> Bound:
        """What the platform fills in; a caller neither sees nor gives it."""
        return _BOUND.validate_json(self.row.bound)

    @cached_property
    def arguments(self) -> type[Arguments]:
        """The parameters as a strict model."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Field name .* shadows an attribute", UserWarning)
            return arguments_model(self.name, self.parameters)

    def call(
        self, effective: Effective, connector: Connector, instance: ConnectorInstance | None, given: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """The provider's operation and its arguments. Raises InvalidRequest for arguments that do not fit."""
        try:
            model = self.arguments.model_validate(given)
        except ValidationError as exc:
            fields = field_errors(exc, "")
            said = "; ".join(f"{error.field}: {error.message}" for error in fields)
            raise InvalidRequest(f"operation {self.name}: {said}", fields=fields) from None
        values = {name: getattr(model, name) for name in self.parameters}
        values |= {name: _filled(value, connector, instance) for name, value in self.bound.items()}
        return effective.kind.native(self.row.query, values or None)

    def describe(self, effective: Effective) -> dict[str, Any]:
        """What callers see: as an operation of the provider's own, and never the statement or what is bound."""
        operation, effect = self.operation(effective)
        return {
            "name": self.name,
            "description": self.row.description,
            "effect": effect.value if effect else BY_ARGUMENTS,
            "idempotent": operation.idempotent or effect is Effect.READ,
            "returns_rows": operation.rows,
            "parameters": self._schema(),
        }

    def operation(self, effective: Effective) -> tuple[Operation, Effect | None]:
        """The provider's operation behind it, and its effect; None where that hangs on the arguments."""
        name, arguments = effective.kind.native(self.row.query, self._examples() or None)
        operation = effective.kind.operation(name, effective.operations)
        try:
            return operation, operation.effect_of(operation.parse(arguments))
        except StudioError:
            return operation, None

    def check(self, effective: Effective) -> None:
        """Raises InvalidRequest where the statement cannot take its parameters."""
        both = set(self.parameters) & set(self.bound)
        if both:
            raise InvalidRequest.at(f"bound.{min(both)}", "is a parameter too; it is either given or bound")
        try:
            self.arguments.model_validate(
                {name: one.example() for name, one in self.parameters.items() if one.required}
            )
        except SchemaError as exc:
            raise InvalidRequest.at("parameters", "hold a pattern that is no regular expression") from exc
        except ValidationError:
            pass  # an example of ours that is out of bounds says nothing about the declaration
        self._check_defaults()
        dialect = _DIALECTS.get(effective.kind.kind)
        if dialect is not None:
            parse(self.row.query, dialect).bind(self._examples())
        name, arguments = effective.kind.native(self.row.query, self._examples() or None)
        effective.kind.operation(name, effective.operations).parse(arguments)

    def _check_defaults(self) -> None:
        for name, parameter in self.parameters.items():
            if parameter.default is None:
                continue
            alone = arguments_model(self.name, {name: parameter})
            try:
                alone.model_validate({name: parameter.default})
            except ValidationError:
                raise InvalidRequest.at(f"parameters.{name}.default", "does not fit its own parameter") from None

    def _examples(self) -> dict[str, Any]:
        bound = {name: "x" if isinstance(value, FromPlatform) else value for name, value in self.bound.items()}
        return {name: parameter.example() for name, parameter in self.parameters.items()} | bound

    def _schema(self) -> dict[str, Any]:
        schema = self.arguments.model_json_schema()
        schema.pop("title", None)
        for entry in schema.get("properties", {}).values():
            entry.pop("title", None)
        return schema


def _filled(value: Any, connector: Connector, instance: ConnectorInstance | None) -> Any:
    if not isinstance(value, FromPlatform):
        return value
    if value.source == "organization_id":
        return connector.organization_id
    if instance is None:
        raise InvalidRequest(
            f"this saved operation is bound to its caller's {value.source}: run it through an agent's alias"
        )
    return instance.agent_id if value.source == "agent_id" else instance.alias


def described(rows: Iterable[SavedOperation], effective: Effective) -> list[dict[str, Any]]:
    """What callers see of them. One that its provider cannot take any more is left out: nobody can run it."""
    found = []
    for row in rows:
        with contextlib.suppress(StudioError):
            found.append(of(row).describe(effective))
    return found


@lru_cache(maxsize=2048)
def of(row: SavedOperation) -> Saved:
    """The saved operation of a row; its model is made once."""
    return Saved(row)


def as_json(value: Any) -> str:
    """The one text form of what is stored."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
