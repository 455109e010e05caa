"""Operations in few words: all of them with their arguments, or one with the types that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zeep.xsd import ComplexType
from zeep.xsd.elements import Any as AnyElement
from zeep.xsd.elements import Choice
from zeep.xsd.elements import Element as Declared
from zeep.xsd.types.collection import ListType, UnionType

from studio.providers.soap.arguments import TEXT, attributes_of, children, is_text, particle_of
from studio.providers.soap.service import Call, Service
from studio.providers.soap.values import Enumerations

_MAX_TYPES = 40
_MAX_VALUES = 30
_MAX_INLINE = 3


def signature(call: Call, service: Service) -> str:
    """`Add(a: int, b?: int): int`: `?` may be left out, `[]` may come several times, `|` means one of them."""
    return _Words(service.enumerations).signature(call)


def detail(call: Call, service: Service) -> dict[str, Any]:
    """One operation: its signature, what the WSDL says of it, and the types that it takes and gives."""
    words = _Words(service.enumerations)
    shown: dict[str, Any] = {"signature": words.signature(call)}
    if call.documentation:
        shown["documentation"] = call.documentation
    types: dict[str, str] = {}
    while words.waiting and len(types) < _MAX_TYPES:
        kind = words.waiting.pop(0)
        if kind.name not in types:
            types[kind.name] = words.body(kind, 0)
    if types:
        shown["types"] = types
    return shown


class _Words:
    def __init__(self, enumerations: Enumerations) -> None:
        self._enumerations = enumerations
        self.waiting: list[Any] = []
        """Named types that were mentioned."""

    def signature(self, call: Call) -> str:
        taken = "" if call.input is None else self._message(call.input)
        given = "nothing" if call.output is None else self._given(call.output)
        return f"{call.name}({taken}): {given}"

    def _message(self, element: Any) -> str:
        if isinstance(element.type, ComplexType):
            return ", ".join(self._members(element.type, 0))
        return f"{element.name}: {self.name(element.type, 0)}"

    def _given(self, element: Any) -> str:
        if not isinstance(element.type, ComplexType):
            return self.name(element.type, 0)
        held = particle_of(element.type)
        parts = children(held) if held is not None and not isinstance(held, Declared) else []
        if len(parts) == 1 and isinstance(parts[0][1], Declared) and not attributes_of(element.type):
            only = parts[0][1]
            return self.name(only.type, 0) + ("[]" if only.accepts_multiple else "")
        return self.body(element.type, 0)

    def body(self, kind: Any, depth: int) -> str:
        """A type's members in braces."""
        members = "; ".join(self._members(kind, depth))
        return f"{{ {members} }}" if members else "nothing"

    def name(self, kind: Any, depth: int) -> str:
        """How a type is called where it is used."""
        if isinstance(kind, ComplexType):
            if kind.is_global and kind.name:
                self.waiting.append(kind)
                return str(kind.name)
            return self.body(kind, depth + 1) if depth < _MAX_INLINE else "{ … }"
        if isinstance(kind, ListType):
            return f"list of {self.name(kind.item_type, depth)}"
        if isinstance(kind, UnionType):
            return "text"
        values = self._enumerations.get(kind.qname.text) if getattr(kind, "qname", None) is not None else None
        if values:
            more = " | …" if len(values) > _MAX_VALUES else ""
            return " | ".join(f'"{value}"' for value in values[:_MAX_VALUES]) + more
        return _base(kind)

    def _members(self, kind: Any, depth: int) -> Iterator[str]:
        held = particle_of(kind)
        if is_text(kind):
            yield f"{TEXT}: {self.name(held.type, depth)}"  # type: ignore[union-attr]
        elif held is not None and held.accepts_multiple:
            yield self._turns(TEXT, held, depth)
        elif held is not None:
            yield from self._parts(held, depth)
        for key, found in attributes_of(kind):
            yield f"{key}{'' if found.required else '?'}: {self.name(found.type, depth)}"

    def _parts(self, held: Any, depth: int) -> Iterator[str]:
        if isinstance(held, Choice):
            options = (", ".join(self._part(key, part, depth, chosen=True)) for key, part in children(held))
            yield "(" + " | ".join(options) + ")" + ("" if held.min_occurs else "?")
            return
        for key, part in children(held):
            yield from self._part(key, part, depth)

    def _part(self, key: str | None, part: Any, depth: int, *, chosen: bool = False) -> Iterator[str]:
        if key is None:
            yield from self._parts(part, depth)
        elif isinstance(part, AnyElement):
            return
        elif isinstance(part, Declared):
            needed = chosen or (part.min_occurs and part.default is None)
            name = self.name(part.type, depth)
            several = f"({name})[]" if " | " in name else f"{name}[]"
            yield f"{key}{'' if needed else '?'}: {several if part.accepts_multiple else name}"
        else:
            yield self._turns(key, part, depth)

    def _turns(self, key: str, part: Any, depth: int) -> str:
        return f"{key}{'' if part.min_occurs else '?'}: {{ {'; '.join(self._parts(part, depth))} }}[]"


def _base(kind: Any) -> str:
    """The name of a simple type, or of the built-in one that it restricts."""
    for base in type(kind).__mro__:
        qname = vars(base).get("_default_qname")
        if qname is not None and base.__module__ == "zeep.xsd.types.builtins":
            return str(qname.localname)
    return "any"
