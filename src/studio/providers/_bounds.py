"""How many values a body may hold: decoded, a value takes up to a hundred times the bytes that it has on the wire.

What opens or separates values is counted before a parser sees the body, at the speed of `memchr`.
"""

from __future__ import annotations

import re
from itertools import islice

MAX_VALUES = 100_000
"""A thousand rows of a hundred columns."""
MAX_LISTED = 50_000
"""Elements of XML, and values of a service's own lists: a thousand rows have 30,000 at most, and drivers keep several
forms of each."""
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARK = re.compile(rb"[,\[{]")


def too_many(body: bytes, most: int = MAX_VALUES) -> bool:
    """Whether JSON holds more values than `most`, or XML more elements than `MAX_LISTED`.

    Commas inside of texts do not count, unless there are as many texts.
    """
    if body.count(b"<") > 2 * MAX_LISTED and body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return True
    count = _marks(body)
    if count <= most:
        return False
    if body.count(b'"') > 4 * most:
        return True
    return count - sum(_marks(found[0]) for found in _TEXT.finditer(body)) > most


def first_values(body: bytes) -> bytes:
    """The beginning of a body, with `MAX_VALUES` values at most."""
    last = next(islice(_MARK.finditer(body), MAX_VALUES, None), None)
    return body if last is None else body[: last.start()]


def _marks(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")
