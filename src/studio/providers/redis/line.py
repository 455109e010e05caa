"""Command lines with `:name` parameters: split like a shell, then bound, so that a value stays one argument.

`GET user::id` is the key `user:` followed by the value of `id`. A colon right after a letter, digit
or `_` is part of the text, since that is how Redis keys are written: `GET user:profile` has no
parameter. What stands in quotes, or after a backslash, is text too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from studio.contract import canonical
from studio.contract.bounds import Repeats
from studio.contract.sql import MAX_TEXT, Statement
from studio.errors import FieldError, InvalidRequest, StudioError

CACHED_TEXT = 4_096
"""Longer lines are split each time: a cache of them would hold megabytes."""
Part = bytes | str
"""Text as bytes, or the name of a parameter as str."""

_PARAMETER = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)")
_PLAIN = re.compile(r"[^\s'\"\\:]+")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.S)
_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "b": b"\b", "a": b"\a"}


@dataclass(frozen=True)
class Line:
    """A split command line: for each argument its parts, and the parameter names in order of use."""

    arguments: tuple[tuple[Part, ...], ...]
    names: tuple[str, ...]

    def word(self, at: int) -> str | None:
        """The argument at a place as lower-case text; None where it is missing or holds a parameter."""
        if at >= len(self.arguments):
            return None
        parts = self.arguments[at]
        if any(isinstance(part, str) for part in parts):
            return None
        return b"".join(part for part in parts if isinstance(part, bytes)).decode(errors="replace").lower()

    def bind(self, params: Mapping[str, Any] | None) -> list[bytes]:
        """The arguments with every value in its place.

        Raises:
            InvalidRequest: naming a parameter that is missing, extra, or not one text or number.
        """
        values = Statement("", self.names).bind(params)
        texts = {name: encoded(value, f"params.{name}") for name, value in zip(self.names, values, strict=True)}
        repeats = Repeats()
        for name in (part for parts in self.arguments for part in parts if isinstance(part, str)) if texts else ():
            repeats.place(name, texts[name])
        return [
            b"".join(part if isinstance(part, bytes) else texts[part] for part in parts) for parts in self.arguments
        ]


def encoded(value: Any, field: str) -> bytes:
    """One value as the bytes that Redis stores for it.

    Raises:
        InvalidRequest: it is not one text or number.
    """
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, (bool, Mapping, list, tuple, set, frozenset)):
        raise _unfit(field, "must be one text or number; Redis has no null, boolean, list or object to bind")
    if isinstance(value, float) and math.isnan(value):
        raise _unfit(field, "is NaN, which Redis does not take")
    text = repr(value) if isinstance(value, (int, float)) else str(canonical(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _unfit(field, "is not valid Unicode text") from None


def _unfit(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {message}", fields=[FieldError(field, message)])


def parse(text: str) -> Line:
    """Split a command line.

    Raises:
        InvalidRequest: it is empty, too long, or has a quote that does not end.
    """
    if len(text) > MAX_TEXT:
        raise InvalidRequest.at("query", f"must be at most {MAX_TEXT} characters")
    return _cached(text) if len(text) <= CACHED_TEXT else _parse(text)


def _parse(text: str) -> Line:
    try:
        arguments = _split(text)
    except UnicodeEncodeError:
        raise InvalidRequest.at("query", "is not valid Unicode text") from None
    if not arguments:
        raise InvalidRequest.at("query", "is empty; write a command line such as GET user::id")
    names = dict.fromkeys(part for parts in arguments for part in parts if isinstance(part, str))
    return Line(tuple(arguments), tuple(names))


_cached = lru_cache(maxsize=1024)(_parse)


def _split(text: str) -> list[tuple[Part, ...]]:
    arguments: list[tuple[Part, ...]] = []
    current: list[Part] | None = None
    at = 0
    while at < len(text):
        if text[at].isspace():
            if current is not None:
                arguments.append(tuple(current))
            current, at = None, at + 1
            continue
        part, end = _part(text, at, current is None)
        if current is None:
            current = []
        current.append(part)
        at = end
    if current is not None:
        arguments.append(tuple(current))
    return arguments


def _part(text: str, at: int, start: bool) -> tuple[Part, int]:
    """The piece of an argument that begins here, and where it ends."""
    mark = text[at]
    if mark == "'":
        end = text.find("'", at + 1)
        if end < 0:
            raise _unended()
        return text[at + 1 : end].encode(), end + 1
    if mark == '"':
        return _quoted(text, at + 1)
    if mark == "\\":
        if at + 1 == len(text):
            raise InvalidRequest.at("query", "ends with a backslash")
        return text[at + 1].encode(), at + 2
    if mark == ":":
        found = _PARAMETER.match(text, at)
        if found and (start or not (text[at - 1].isalnum() or text[at - 1] == "_")):
            return found[1], found.end()
        return b":", at + 1
    plain = _PLAIN.match(text, at)
    assert plain is not None  # every other character is plain
    return plain[0].encode(), plain.end()


def _quoted(text: str, at: int) -> tuple[bytes, int]:
    """The text of a double-quoted piece, with the escapes of redis-cli."""
    out = bytearray()
    while at < len(text):
        if text[at] == '"':
            return bytes(out), at + 1
        escape = _ESCAPE.match(text, at)
        if escape:
            digits, letter = escape.groups()
            out += bytes.fromhex(digits) if digits else _ESCAPES.get(letter, letter.encode())
            at = escape.end()
        else:
            out += text[at].encode()
            at += 1
    raise _unended()


def _unended() -> StudioError:
    return InvalidRequest.at("query", "has a quote that does not end")
