"""`{"$param": "name"}` in a command, replaced by a value that stays a value.

A value can become neither an operator nor a field path: an object with keys that begin with `$` is
refused (but for Extended JSON values such as `{"$oid": …}`), and where MongoDB evaluates
expressions, a value that it could read as one is wrapped in `$literal`. Where a whole condition, stage
or update stands, no parameter is taken at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.contract.bounds import Repeats
from studio.errors import FieldError, InvalidRequest
from studio.providers.mongodb.guard import MAX_DEPTH, check

VALUE_TYPES = frozenset(
    {
        "$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$binary", "$uuid",
        "$timestamp", "$minKey", "$maxKey",
    }
)  # fmt: skip
"""Keys of Extended JSON that stand for a plain value."""
TEXT_TYPES = VALUE_TYPES | {"$regularExpression"}
"""Those that a command's own text may hold: a regular expression is a condition, so no value may be one."""
_CONDITIONS = frozenset({"$and", "$or", "$nor"})
_CONDITION = frozenset({"$elemMatch", "$not", "$jsonSchema"})
_NAMING_STAGES = frozenset({"$unionWith", "$count", "$unset"})
_NAMES = frozenset(
    {
        "from", "coll", "as", "localField", "foreignField", "connectFromField", "connectToField", "depthField", "path",
        "includeArrayIndex", "distanceField", "includeLocs", "field",
    }
)  # fmt: skip
"""Parts of stages that name collections and fields."""


class Binder:
    """Turns parts of one command from JSON into BSON with the values in place.

    Args:
        params: the values by name.
    """

    def __init__(self, params: Mapping[str, Any] | None) -> None:
        self._params = params or {}
        self._bound: dict[str, Any] = {}
        self._repeats = Repeats()

    def finish(self, hint: Any = None, collation: Any = None) -> dict[str, Any]:
        """The last parts of a command: an index and a language's order, in which no value stands.

        Raises:
            InvalidRequest: naming each parameter that was given and not used.
        """
        extra = [str(name)[:64] for name in self._params if name not in self._bound]
        if extra:
            fields = [FieldError(f"params.{name}", "is not used by the command") for name in extra]
            raise InvalidRequest("; ".join(f"{one.field} {one.message}" for one in fields), fields=fields)
        given = {"hint": hint, "collation": collation}
        return {name: check(self.fixed(value, name), field=name) for name, value in given.items() if value is not None}

    def query(self, node: Any, field: str, depth: int = 1) -> dict[str, Any]:
        """A condition, as `find` takes it: values stand where fields and operators are compared with them."""
        if not isinstance(node, Mapping) or "$param" in node:
            raise InvalidRequest.at(field, "must be an object of conditions; parameters may stand for their values")
        _shallow(depth, field)
        return {key: self._condition(str(key), value, field, depth + 1) for key, value in node.items()}

    def _condition(self, key: str, value: Any, field: str, depth: int) -> Any:
        if key == "$expr":
            return self.expression(value, field, depth)
        if key in _CONDITIONS and isinstance(value, list):
            return [self.query(item, field, depth + 1) for item in value]
        if key in _CONDITION and isinstance(value, Mapping) and not _is_extended(value):
            return self.query(value, field, depth)
        return self._compared(value, field, depth)

    def _compared(self, value: Any, field: str, depth: int) -> Any:
        """What a field is compared with: a value, or operators with their values."""
        _shallow(depth, field)
        if isinstance(value, list):
            return [self._compared(item, field, depth + 1) for item in value]
        if not isinstance(value, Mapping):
            return value
        if "$param" in value:
            return self._value(value, field)
        if _is_extended(value):
            return _extended(value, field)
        return {key: self._condition(str(key), item, field, depth + 1) for key, item in value.items()}

    def data(self, node: Any, field: str, depth: int = 1) -> Any:
        """A document to store, or the operand of an update operator."""
        _shallow(depth, field)
        if isinstance(node, list):
            return [self.data(item, field, depth + 1) for item in node]
        if not isinstance(node, Mapping):
            return node
        if "$param" in node:
            return self._value(node, field)
        if _is_extended(node):
            return _extended(node, field)
        return {key: self.data(item, field, depth + 1) for key, item in node.items()}

    def changes(self, node: Any, field: str) -> Any:
        """What an update does: operators with their operands, or a whole new document."""
        if not isinstance(node, Mapping) or "$param" in node:
            raise InvalidRequest.at(field, "must be an object of update operators; parameters may stand for values")
        return self.data(node, field)

    def expression(self, node: Any, field: str, depth: int = 1) -> Any:
        """An aggregation expression, or the operand of a stage."""
        _shallow(depth, field)
        if isinstance(node, list):
            return [self.expression(item, field, depth + 1) for item in node]
        if not isinstance(node, Mapping):
            return node
        if "$param" in node:
            value = self._value(node, field)
            evaluated = isinstance(value, (dict, list)) or (isinstance(value, str) and value.startswith("$"))
            return {"$literal": value} if evaluated else value
        if _is_extended(node):
            return _extended(node, field)
        inside = {key: self.data if key == "$literal" else self.expression for key in node}
        return {key: inside[key](item, field, depth + 1) for key, item in node.items()}

    def fixed(self, node: Any, field: str) -> Any:
        """A name or an option, which no parameter may stand for."""
        if isinstance(node, (Mapping, list)) and "$param" in repr(node):
            raise InvalidRequest.at(field, "a parameter cannot stand for the name of a collection or field here")
        return node

    def pipeline(self, node: Any, field: str, depth: int = 1) -> list[Any]:
        """A list of stages."""
        _shallow(depth, field)
        if not isinstance(node, list):
            raise InvalidRequest.at(field, "must be a list of stages")
        return [self._stage(stage, field, depth + 1) for stage in node]

    def _stage(self, stage: Any, field: str, depth: int) -> dict[str, Any]:
        if not isinstance(stage, Mapping) or "$param" in stage:
            raise InvalidRequest.at(field, "must be a list of stages; parameters may stand for values in them")
        return {str(name): self._operand(str(name), value, field, depth + 1) for name, value in stage.items()}

    def _operand(self, name: str, value: Any, field: str, depth: int) -> Any:
        if name == "$match":
            return self.query(value, field, depth)
        if name in _NAMING_STAGES and not (isinstance(value, Mapping) and "$param" not in value):
            return self.fixed(value, field)
        if name == "$facet" and isinstance(value, Mapping):
            return {key: self.pipeline(item, field, depth + 1) for key, item in value.items()}
        if not isinstance(value, Mapping) or "$param" in value:
            return self.expression(value, field, depth)
        return {key: self._part(name, str(key), item, field, depth + 1) for key, item in value.items()}

    def _part(self, stage: str, key: str, value: Any, field: str, depth: int) -> Any:
        """A named part of a stage that has conditions or pipelines inside."""
        if key in _NAMES:
            return self.fixed(value, field)
        if stage in {"$lookup", "$unionWith"} and key == "pipeline":
            return self.pipeline(value, field, depth)
        if (stage, key) in {("$geoNear", "query"), ("$graphLookup", "restrictSearchWithMatch")}:
            return self.query(value, field, depth)
        return self.expression(value, field, depth)

    def _value(self, node: Mapping[str, Any], field: str) -> Any:
        name = node["$param"]
        if len(node) != 1 or not isinstance(name, str):
            raise InvalidRequest.at(field, 'a parameter must read {"$param": "name"} and nothing else')
        if name not in self._params:
            raise InvalidRequest(
                f"params.{name[:64]} is missing: the command uses it",
                fields=[FieldError(f"params.{name[:64]}", "is missing: the command uses it")],
            )
        if name not in self._bound:
            self._bound[name] = _literal(self._params[name], f"params.{name}", 1)
        self._repeats.place(name, self._bound[name])
        return self._bound[name]


def _literal(value: Any, field: str, depth: int) -> Any:
    """A value of a caller's."""
    _shallow(depth, field)
    if isinstance(value, (list, tuple)):
        return [_literal(item, field, depth + 1) for item in value]
    if not isinstance(value, Mapping):
        return value
    if any(str(key).startswith("$") for key in value):
        if next(iter(value)) in VALUE_TYPES:
            return _extended(value, field)
        raise InvalidRequest.at(field, "holds a key that begins with $; a value cannot be an operator")
    return {str(key): _literal(item, field, depth + 1) for key, item in value.items()}


def _extended(node: Mapping[str, Any], field: str) -> Any:
    from studio.providers.mongodb.values import extended

    return extended(node, field)


def _is_extended(node: Mapping[str, Any]) -> bool:
    return next(iter(node), None) in TEXT_TYPES


def _shallow(depth: int, field: str) -> None:
    if depth > MAX_DEPTH:
        raise InvalidRequest.at(field, "is nested too deeply")
