"""Keys of objects: which ones are safe below a prefix, and the query language `verb key` with bound values."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from studio.contract.bounds import Repeats
from studio.errors import InvalidRequest

MAX_KEY_BYTES = 1024
"""UTF-8 bytes of a whole name, prefix included: the bound of S3, GCS and Azure alike."""
_READINGS = 8
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_SLASHES = str.maketrans(dict.fromkeys("\\\u2044\u2215\u2216\u29f5\u29f8\u29f9", "/"))
_OVERLONG = re.compile(r"%c0%ae|%e0%80%ae|(%c0%af|%e0%80%af)", re.I)


def readings(text: str) -> Iterator[str]:
    """`text`, then what a gateway, a server or a file system on the way could take it for.

    That is: percent-decoded, with lookalikes folded (NFKC, and every sort of slash), again
    and again while it changes.

    Raises:
        ValueError: it still changes after many rounds, which no honest name does.
    """
    for _ in range(_READINGS):
        yield text
        decoded = unquote(_OVERLONG.sub(lambda found: "/" if found[1] else ".", text), errors="replace")
        read = unicodedata.normalize("NFKC", decoded).translate(_SLASHES)
        if read == text:
            return
        text = read
    raise ValueError("is escaped too many times over")


def _dots(segment: str) -> bool:
    return segment.partition(";")[0].strip() in {".", ".."}


def checked_key(key: str) -> str:
    """A key that stays below the prefix for everybody who reads it.

    Raises:
        ValueError: it is absolute, has a `.` or `..` segment in any reading, or characters that no
            XML answer can carry.
    """
    if key.startswith("/"):
        raise ValueError("must not begin with a slash: keys are relative to the connector's prefix")
    for read in readings(key):
        if _CONTROL.search(read):
            raise ValueError("must not contain control characters")
        if any(map(_dots, read.split("/"))):
            raise ValueError("must not have a segment . or .., however it is spelled")
    return key


PLACES: Mapping[str, str] = {
    "list": "prefix", "head": "key", "get": "key", "rows": "key", "put": "key", "delete": "key", "presign": "key",
    "copy": "source",
}  # fmt: skip
"""The verbs of a query, and the argument that the text after each stands for."""
_PARAMETER = re.compile(r"::|:([A-Za-z_][A-Za-z0-9_]*)")


def verb_and_key(query: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read `verb key`, where `:name` in the key takes a value from `params` and `::` is a colon.

    A value fills one segment and can hold no slash in any reading, unless it is the whole key. What
    the key does not use of `params` are the operation's other arguments.

    Raises:
        InvalidRequest: no such verb, a missing parameter, or a value that does not fit its place.
    """
    verb, _, template = query.strip().partition(" ")
    place = PLACES.get(verb.lower())
    if place is None:
        raise InvalidRequest.at("query", f"must be a verb and a key; the verbs are {', '.join(PLACES)}")
    template = template.strip()
    used: set[str] = set()
    key = _PARAMETER.sub(_filling(template, params, used), template)
    rest = {name: value for name, value in params.items() if name not in used}
    if template:
        if place in rest:
            raise InvalidRequest.at(f"params.{place}", "is given by the query already")
        rest[place] = key
    return verb.lower(), rest


def _filling(template: str, params: Mapping[str, Any], used: set[str]) -> Callable[[re.Match[str]], str]:
    repeats = Repeats()

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return ":"
        if name not in params:
            raise InvalidRequest.at(f"params.{name}", "is missing: the query uses it")
        used.add(name)
        value = params[name]
        repeats.place(name, value)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise InvalidRequest.at(f"params.{name}", "must be a text or a whole number, and not empty")
        if found[0] != template and not _one_segment(str(value)):
            raise InvalidRequest.at(
                f"params.{name}", "must not hold a slash: it fills one segment. Only a key of its own may (get :key)"
            )
        return str(value)

    return fill


def _one_segment(value: str) -> bool:
    try:
        return not any("/" in read or _dots(read) for read in readings(value))
    except ValueError:
        return False
