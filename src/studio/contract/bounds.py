"""How many values a body may hold: decoded, a value takes up to a hundred times the bytes that it has on the wire.

What opens or separates values is counted before a parser sees the body, at the speed of `memchr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from sys import getsizeof
from typing import Any

from studio.errors import InvalidRequest

MAX_VALUES = 100_000
"""A thousand rows of a hundred columns."""
MAX_LISTED = 50_000
"""Elements of XML, and values of a service's own lists: a thousand rows have 30,000 at most, and drivers keep several
forms of each."""
MAX_REPEATED = 1 << 20
"""Bytes that parameters may add to an operation beyond the first place of each."""
MOST_OF_TEXT = 10 << 20
"""Bytes that a text may take in memory and still be parsed."""
_VALUE = 25
"""Bytes that any value counts, beside those of its text."""
_FEW = 1_000
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARK = re.compile(rb"[,\[{]")


def too_many(body: bytes, most: int | None = None) -> bool:
    """Whether JSON holds more values than `most` (`MAX_VALUES`), or XML more elements than `MAX_LISTED`.

    Commas inside of texts do not count, unless there are as many texts.
    """
    if body.count(b"<") > 2 * MAX_LISTED and body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return True
    count, most = marks(body), MAX_VALUES if most is None else most
    if count <= most:
        return False
    if body.count(b'"') > 3 * most:
        return True
    return count - _in_texts(body) > most


def stays_text(text: str) -> bool:
    """Whether a column's text is given as it is, and not as the JSON or the array that it says.

    There may be `too_many` values in it; or it takes so much memory, for the sake of a character beyond U+FFFF, that
    as much again would be too much.
    """
    return getsizeof(text) > MOST_OF_TEXT or too_many_in(text)


def too_many_in(text: str) -> bool:
    """`too_many` for JSON that is text already."""
    if text.count(",") + text.count("[") + text.count("{") <= MAX_VALUES:
        return False
    return too_many(text.encode())


def most_values(max_bytes: int) -> int:
    """How many values the rows of one answer may hold that is kept as a whole: 209,715 at the default cap."""
    return max(MAX_VALUES, max_bytes // 20)


def values_of(row: bytes) -> int:
    """How many values one row has, as JSON. A few commas of its texts may count."""
    count = marks(row)
    return count if count < _FEW else count - _in_texts(row)


def first_values(body: bytes) -> bytes:
    """The beginning of a body, with `MAX_VALUES` values at most."""
    last = next(islice(_MARK.finditer(body), MAX_VALUES, None), None)
    return body if last is None else body[: last.start()]


def marks(body: bytes) -> int:
    """How often something opens or separates values, commas of texts included."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _in_texts(body: bytes) -> int:
    # Counted in place: a text may be all of the body, and a copy of it memory for nothing.
    return sum(body.count(mark, *found.span()) for found in _TEXT.finditer(body) for mark in (b",", b"[", b"{"))


class Repeats:
    """Counts what parameters add beyond the first place of each.

    A text of 100,000 characters could have a value of a megabyte stand in it thousands of times.
    """

    def __init__(self) -> None:
        self._costs: dict[str, int] = {}
        self._total = 0

    def place(self, name: str, value: Any) -> None:
        """One more place for a parameter. Raises InvalidRequest beyond `MAX_REPEATED`."""
        known = self._costs.get(name)
        if known is None:
            self._costs[name] = 0
            return
        if not known:
            self._costs[name] = known = _cost(value)
        self._total += known
        if self._total > MAX_REPEATED:
            raise InvalidRequest.at(f"params.{name[:64]}", "is too large for a value that stands in so many places")


def _cost(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return _VALUE + len(value)
    if isinstance(value, Mapping):
        return _VALUE + sum(len(key) + _cost(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return _VALUE + sum(map(_cost, value))
    return _VALUE
