"""Arguments as the XML that a WSDL's types describe. Every name is looked up; none is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from lxml import etree
from zeep.xsd import ComplexType
from zeep.xsd.elements import Any as AnyElement
from zeep.xsd.elements import AnyAttribute, Choice, Group
from zeep.xsd.elements import Element as Declared
from zeep.xsd.types.simple import AnySimpleType

from studio.providers.soap.service import Call
from studio.providers.soap.values import Enumerations, text_of, wrong
from studio.providers.soap.xml import Element

MAX_DEPTH = 50
TEXT = "_value_1"
"""The key of an element's own text where it has attributes too, and of a part without a name that may repeat."""
_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"


def particle_of(kind: Any) -> Any | None:
    """What a complex type holds: a sequence, choice, … or its own text as an element named `TEXT`."""
    nested = kind.elements_nested if isinstance(kind, ComplexType) else ()
    return nested[0][1] if nested else None


def is_text(kind: Any) -> bool:
    """Whether a complex type is text with attributes (`xsd:simpleContent`)."""
    held = particle_of(kind)
    return isinstance(held, Declared) and held.attr_name == TEXT


def children(particle: Any) -> list[tuple[str | None, Any]]:
    """The parts of a particle: elements by their keys, nested particles without one unless they repeat."""
    if isinstance(particle, Group):
        inner = particle.child
        return [(TEXT if inner.accepts_multiple else None, inner)]
    return list(particle.elements_nested)


def keys_of(particle: Any) -> Iterator[str]:
    """All keys that a particle takes."""
    for key, part in children(particle):
        if key is not None:
            yield key
        else:
            yield from keys_of(part)


def attributes_of(kind: ComplexType) -> list[tuple[str, Any]]:
    """The named attributes of a type, by their keys."""
    return [(key, found) for key, found in kind.attributes if not isinstance(found, AnyAttribute)]


def write_body(body: Element, call: Call, arguments: dict[str, Any], enumerations: Enumerations) -> None:
    """Put a call's message into the body.

    Raises:
        InvalidRequest: an argument is unknown, missing or does not fit.
    """
    writer = _Writer(enumerations)
    if call.input is None:
        if arguments:
            raise wrong(next(iter(arguments)), "is not known: this operation takes no arguments")
        return
    if call.wrapped:
        writer.complex(body, call.input.type, arguments, "", 0)
        return
    node = etree.SubElement(body, call.input.qname)
    if isinstance(call.input.type, ComplexType):
        writer.complex(node, call.input.type, arguments, "", 0)
    else:
        # The message is a single value: it goes by the name of its element.
        key = call.input.name
        writer.known("", arguments, {key})
        if key not in arguments:
            raise wrong(key, "is missing")
        writer.value(node, call.input, arguments[key], key, 0)


class _Writer:
    def __init__(self, enumerations: Enumerations) -> None:
        self._enumerations = enumerations

    def known(self, where: str, value: dict[str, Any], keys: set[str]) -> None:
        """Refuse a key that stands for nothing."""
        for key in value:
            if key not in keys:
                near = get_close_matches(str(key), keys, 1)
                meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(keys)) or 'none'}"[:500]
                raise wrong(_below(where, str(key)), f"is not known; {meant}")

    def complex(self, node: Element, kind: ComplexType, value: Any, where: str, depth: int) -> None:
        """Fill an element of a complex type."""
        if depth > MAX_DEPTH:
            raise wrong(where, "is nested too deeply")
        if getattr(kind, "_array_type", None) is not None:
            raise wrong(where, "is a SOAP-encoded array, which is not supported")
        if is_text(kind) and not isinstance(value, dict):
            value = {TEXT: value}
        if not isinstance(value, dict):
            raise wrong(where, "must be an object")
        held, attributes = particle_of(kind), attributes_of(kind)
        self.known(where, value, {key for key, _ in attributes} | set(_held_keys(held)))
        for key, found in attributes:
            if value.get(key) is not None:
                node.set(found.qname, text_of(found.type, value[key], _below(where, key), self._enumerations))
            elif found.required:
                raise wrong(_below(where, key), "is missing")
        if is_text(kind):
            self.value(node, held, value.get(TEXT), _below(where, TEXT), depth)
        elif held is not None:
            self.top(node, held, value, where, depth)

    def top(self, node: Element, held: Any, value: dict[str, Any], where: str, depth: int) -> None:
        """A type's own particle: where that may repeat as a whole, its turns stand under `TEXT`."""
        if held.accepts_multiple:
            self.repeated(node, TEXT, held, value, where, depth)
        else:
            self.particle(node, held, value, where, depth)

    def repeated(self, node: Element, key: str, part: Any, value: dict[str, Any], where: str, depth: int) -> None:
        """A particle that may repeat: a list of objects."""
        path = _below(where, key)
        for at, turn in enumerate(_items(part, value.get(key), path)):
            if not isinstance(turn, dict):
                raise wrong(f"{path}.{at}", "must be an object")
            self.known(f"{path}.{at}", turn, set(keys_of(part)))
            self.particle(node, part, turn, f"{path}.{at}", depth + 1)

    def particle(self, node: Element, held: Any, value: dict[str, Any], where: str, depth: int) -> None:
        """One turn of a sequence, a choice or a group."""
        if isinstance(held, Choice):
            self.choice(node, held, value, where, depth)
        elif held.min_occurs or any(value.get(key) is not None for key in keys_of(held)):
            for key, part in children(held):
                self.part(node, key, part, value, where, depth)

    def choice(self, node: Element, held: Choice, value: dict[str, Any], where: str, depth: int) -> None:
        """The one alternative that all given keys belong to."""
        options = [(key, part, {key} if key is not None else set(keys_of(part))) for key, part in children(held)]
        given = {key for key in keys_of(held) if key in value}
        fits = [(key, part) for key, part, keys in options if given <= keys]
        if given and not fits:
            raise wrong(where, f"takes only one of: {', '.join(sorted(given))}"[:500])
        if given:
            self.part(node, *fits[0], value, where, depth)
        elif held.min_occurs:
            # Whether an alternative is itself optional is not kept by the library: null chooses one and leaves it out.
            raise wrong(where, f"needs one of: {', '.join(keys_of(held))}"[:500])

    def part(self, node: Element, key: str | None, part: Any, value: dict[str, Any], where: str, depth: int) -> None:
        """One part of a particle."""
        if key is None:
            self.particle(node, part, value, where, depth)
        elif isinstance(part, AnyElement):
            if value.get(key) is not None:
                raise wrong(_below(where, key), "stands for free XML, which is not taken")
        elif isinstance(part, Declared):
            self.element(node, key, part, value, where, depth)
        else:
            self.repeated(node, key, part, value, where, depth)

    def element(self, node: Element, key: str, part: Any, value: dict[str, Any], where: str, depth: int) -> None:
        """A declared element: absent, null, single or several."""
        path, given = _below(where, key), value.get(key)
        if given is None and not (key in value and part.nillable):
            if part.min_occurs and part.default is None:
                raise wrong(path, "is missing")
            return
        many = part.accepts_multiple
        for at, item in enumerate(_items(part, given, path) if many else [given]):
            child = etree.SubElement(node, part.qname)
            self.value(child, part, item, f"{path}.{at}" if many else path, depth + 1)

    def value(self, node: Element, part: Any, item: Any, path: str, depth: int) -> None:
        """The content of an element."""
        if item is None:
            if not part.nillable:
                raise wrong(path, "must not be null")
            node.set(_NIL, "true")
        elif isinstance(part.type, ComplexType):
            self.complex(node, part.type, item, path, depth)
        elif isinstance(part.type, AnySimpleType) or not isinstance(item, dict | list):
            node.text = text_of(part.type, item, path, self._enumerations)
        else:
            raise wrong(path, "may be of any type in the WSDL; only single values are taken")


def _held_keys(held: Any | None) -> list[str]:
    if held is None:
        return []
    if isinstance(held, Declared) or held.accepts_multiple:
        return [TEXT]
    return list(keys_of(held))


def _items(part: Any, given: Any, path: str) -> list[Any]:
    """The turns of what may repeat, within its bounds. A single one need not be a list."""
    items = given if isinstance(given, list) else [] if given is None else [given]
    if len(items) < part.min_occurs:
        raise wrong(path, f"must have at least {part.min_occurs} items" if items else "is missing")
    if isinstance(part.max_occurs, int) and len(items) > part.max_occurs:
        raise wrong(path, f"must have at most {part.max_occurs} items")
    return items


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
