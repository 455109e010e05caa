"""What takes many times its bytes: how much of it comes at once, and large arrays as the server's text.

The driver decodes an array in C as it comes, each element into an object of its own, so that 4 MB become 20 or more.
As text the array is there first, and can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from studio.contract.bounds import MAX_VALUES, stays_text
from studio.contract.values import canonical

HOLDING = {"array", "composite"}
"""Kinds of types that hold other values."""


class Weight(NamedTuple):
    """How much of a statement's rows may come at once."""

    share: int = 1
    """What part of the room for an answer is left to several rows: one in so many."""
    of_one: int = 1
    """The same for a row alone."""
    batch: int = 1 << 20
    """Bytes that are asked for at a time."""
    first: int = 1 << 30
    """Rows that are asked for at first, at most."""

    @classmethod
    def of(cls, types: Iterable[Any], texts: Container[str]) -> Weight:
        """That of a statement with columns of these types. `texts` are types that travel as text."""
        found = PLAIN
        for kind in types:
            if (one := _weight(kind, texts)) is not PLAIN:
                found = Weight(
                    max(found.share, one.share), max(found.of_one, one.of_one), min(found.batch, one.batch),
                    min(found.first, one.first),
                )  # fmt: skip
        return found


PLAIN = Weight()
_DOCUMENTS = Weight(share=8, batch=1 << 18, first=32)
_NESTED = Weight(share=5, of_one=5, batch=1 << 16, first=32)
_PARSED = Weight(share=10, of_one=10, batch=1 << 16, first=32)


def _weight(kind: Any, texts: Container[str]) -> Weight:
    if kind.kind in HOLDING:  # of elements that come as text all of it does, with as little as two bytes for each
        return _PARSED if kind.name.removesuffix("[]") in texts else _NESTED
    return _DOCUMENTS if kind.name in {"json", "jsonb"} or kind.name.endswith("[]") else PLAIN


_QUOTED = r'"((?:[^"\\]|\\.)*)"|[{}]|'
_TOKENS = {mark: re.compile(_QUOTED + f'[^{{}}"{mark}]+', re.DOTALL) for mark in ",;"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _integer(text: str) -> Any:
    return canonical(int(text))


def _float(text: str) -> Any:
    return canonical(float(text))


_ELEMENTS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid", "xid", "xid8", "cid"), _integer),
    **dict.fromkeys(("float4", "float8"), _float),
    "bool": lambda text: text == "t",
}
_BOXES = "box[]"
"""The one type whose elements a semicolon separates."""


def decoder(name: str, element: Callable[[str], Any] | None) -> Callable[[str], Any]:
    """Of the text of a type, arrays of at most `MAX_VALUES` elements as lists; anything else stays the text.

    Args:
        name: the type's, `int4[]` for an array.
        element: what an element's text becomes, where that is not a number or a boolean.

    Source: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
    """
    if not name.endswith("[]"):
        return str
    form = _ELEMENTS.get(name[:-2]) or element or str

    def decode(text: str) -> Any:
        if text.count(",") >= MAX_VALUES or stays_text(text):
            return text
        return parse(text, form, ";" if name == _BOXES else ",")

    return decode


def parse(text: str, element: Callable[[str], Any], separator: str = ",") -> list[Any]:
    """An array's text as lists; bounds that do not begin with 1 are left out, as the driver does."""
    found: list[Any] = []
    stack = [found]
    for token in _TOKENS[separator].finditer(text, text.index("{")):
        part = token[0]
        if part == "{":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif part == "}":
            stack.pop()
        elif part == "NULL":
            stack[-1].append(None)
        else:
            stack[-1].append(element(part if token[1] is None else _ESCAPED.sub(r"\1", token[1])))
    whole: list[Any] = found[0]
    return whole
