"""Paths that mean one thing only: templates that values fill, and patterns that bound them.

A value never leaves its segment and a pattern holds whatever the spelling, because a segment that
some server could read as a dot segment, a slash or a parameter is refused, not repaired.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from studio.errors import InvalidRequest

_PIECE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_LITERAL_SAFE = "!$&'()*+,=:@"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ONLY_DOTS = re.compile(r"[. ]*")
_DECODINGS = 3
"""A server may decode more than once behind a proxy; a text that still changes after these is refused."""


@dataclass(frozen=True)
class Path:
    """A path ready to be sent: `raw` is percent-encoded, `parts` are its decoded segments."""

    raw: str
    parts: tuple[str, ...]

    def __add__(self, other: Path) -> Path:
        """This path with `other` below it."""
        return Path(self.raw.rstrip("/") + other.raw, tuple(part for part in self.parts if part) + other.parts)


@dataclass(frozen=True)
class Template:
    """A path with `{name}` places. Each segment is a tuple of literals (str) and names (1-tuples)."""

    segments: tuple[tuple[str | tuple[str], ...], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read `/users/{id}/posts`.

        Raises:
            InvalidRequest: it is not such a path.
        """
        return _parse(text)

    @property
    def names(self) -> list[str]:
        """The names to fill, in order."""
        return [piece[0] for segment in self.segments for piece in segment if isinstance(piece, tuple)]

    def fill(self, values: Mapping[str, Any]) -> Path:
        """The path with its values, each inside its segment.

        Raises:
            InvalidRequest: a value is missing, or would not stay a single segment.
        """
        raw, parts = [], []
        for segment, known in zip(self.segments, self.literals, strict=True):
            sent, meant = (quote(known, safe=_LITERAL_SAFE), known) if known is not None else _filled(segment, values)
            raw.append(sent)
            parts.append(meant)
        return Path("/" + "/".join(raw), tuple(parts))

    @cached_property
    def literals(self) -> tuple[str | None, ...]:
        """The segments as text, or None where a value goes."""
        return tuple(
            None if any(isinstance(piece, tuple) for piece in segment) else "".join(map(str, segment))
            for segment in self.segments
        )


@lru_cache(maxsize=1024)
def _parse(text: str) -> Template:
    if not text.startswith("/"):
        raise InvalidRequest.at("path", "must begin with a slash, such as /users/{id}")
    if "?" in text or "#" in text:
        raise InvalidRequest.at("path", "must not hold ? or #; give query parameters in query")
    template = Template(tuple(tuple(_pieces(segment)) for segment in text[1:].split("/")))
    for at, known in enumerate(template.literals):
        if known is not None and (known or at < len(template.segments) - 1):
            _check(known, None)
    return template


def _filled(segment: tuple[str | tuple[str], ...], values: Mapping[str, Any]) -> tuple[str, str]:
    """A segment with its values, as it is sent and as it is meant."""
    sent, meant = "", ""
    for piece in segment:
        text = piece if isinstance(piece, str) else _text_of(piece[0], values)
        sent += quote(text, safe=_LITERAL_SAFE if isinstance(piece, str) else "")
        meant += text
    _check(meant, next(piece[0] for piece in segment if isinstance(piece, tuple)))
    return sent, meant


def _pieces(segment: str) -> Iterator[str | tuple[str]]:
    at = 0
    for place in _PIECE.finditer(segment):
        if place.start() > at:
            yield _decoded(segment[at : place.start()])
        yield (place[1],)
        at = place.end()
    if at < len(segment):
        yield _decoded(segment[at:])


def _decoded(literal: str) -> str:
    if "{" in literal or "}" in literal:
        raise InvalidRequest.at("path", "has a brace that is not part of a {name}")
    try:
        return unquote_to_bytes(literal).decode()
    except UnicodeError:
        raise InvalidRequest.at("path", "has characters or percent-encoded bytes that are not UTF-8") from None


def literal(text: str) -> Path:
    """A path without places, in canonical form. Raises InvalidRequest."""
    return Template.parse(text).fill({})


def _text_of(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        raise InvalidRequest.at(name, "is missing: the path needs it")
    return scalar(name, values[name])


def scalar(name: str, value: Any) -> str:
    """A parameter's value as text. Raises InvalidRequest for what is not text, number or boolean."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise InvalidRequest.at(name, "must be text, a number or a boolean")
    return whole(name, str(value))


def whole(name: str, text: str) -> str:
    """The text, if UTF-8 can hold it. Raises InvalidRequest for halves of surrogate pairs."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequest.at(name[:200].encode("ascii", "replace").decode(), "holds half of a surrogate pair")
    return text


def _check(meant: str, name: str | None) -> None:
    """Refuse a segment that some server might read as something else than one segment."""
    why = _doubt(meant)
    if why and name:
        raise InvalidRequest.at(name, f"{why}; a value fills one segment of the path")
    if why:
        raise InvalidRequest.at("path", f"has a segment that {why}")


def _doubt(meant: str) -> str | None:
    if not meant:
        return "is empty"
    if _CONTROL.search(meant):
        return "holds control characters"
    for _ in range(_DECODINGS):
        # Some servers read look-alikes (NFKC) as the real thing, and `..;x` as a dot segment.
        plain = unicodedata.normalize("NFKC", meant)
        if "/" in plain or "\\" in plain:
            return "holds a slash"
        if _ONLY_DOTS.fullmatch(plain.split(";")[0]):
            return "is nothing but dots or spaces"
        try:
            before, meant = meant, unquote(meant, errors="strict")
        except UnicodeDecodeError:
            return "holds percent-encoded bytes that are not UTF-8"
        if meant == before:
            return None
    return "is percent-encoded too often"


@dataclass(frozen=True)
class Pattern:
    """`/users/*` (one segment) or `/users/**` (everything below, and `/users` itself)."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern. Raises ValueError."""
        try:
            parts = literal(text).parts
        except InvalidRequest as exc:
            raise ValueError(exc.message) from None
        if any("*" in part and part != "*" for part in parts[:-1]) or (
            "*" in parts[-1] and parts[-1] not in {"*", "**"}
        ):
            raise ValueError("* stands for a whole segment, and ** for all the last ones")
        return cls(parts)

    def matches(self, parts: Sequence[str | None]) -> bool:
        """Whether a path lies inside; None in `parts` is a segment that may become anything."""
        head = self.parts[:-1] if self.parts[-1] == "**" else self.parts
        if len(parts) < len(head) or (head is self.parts and len(parts) > len(head)):
            return False
        return all(_fits(mine, theirs) for mine, theirs in zip(head, parts, strict=False))

    def covers(self, other: Pattern) -> bool:
        """Whether every path inside `other` lies inside this one."""
        mine, theirs = self.parts, other.parts
        if mine[-1] == "**":
            head = mine[:-1]
            return len(theirs) >= len(head) and all(_within(m, t) for m, t in zip(head, theirs, strict=False))
        return len(mine) == len(theirs) and all(_within(m, t) for m, t in zip(mine, theirs, strict=True))


def _fits(mine: str, theirs: str | None) -> bool:
    return theirs is None or mine == theirs or (mine == "*" and theirs != "")


def _within(mine: str, theirs: str) -> bool:
    return theirs != "**" and (mine == theirs or (mine == "*" and theirs != ""))


def allowed(patterns: Sequence[Pattern], parts: Sequence[str | None]) -> bool:
    """Whether some pattern lets the path through; no patterns let all through."""
    return not patterns or any(pattern.matches(parts) for pattern in patterns)
