"""`:name` parameters in SQL: found outside of strings, comments and casts, then bound, never pasted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from studio.contract.bounds import Repeats
from studio.errors import FieldError, InvalidRequest

MAX_TEXT = 100_000
"""Characters in one statement; longer text is refused before anything parses it."""


@dataclass(frozen=True)
class Dialect:
    """Where a dialect hides text that is not SQL.

    `skip` matches one string, quoted name, comment, cast or other place in which a colon means
    nothing to us. `placeholder` gives the driver's mark for the parameter of a 1-based number.
    Where marks have no numbers (`positional`), a name that stands twice is bound twice.
    """

    name: str
    skip: re.Pattern[str]
    placeholder: Callable[[int], str]
    nested_comments: bool = False
    dollar_quotes: bool = False
    positional: bool = False
    quotes: str = "'\""
    """What opens a string or a quoted name: where one does not end, the text is refused at once."""
    marks: re.Pattern[str] | None = None
    """The driver's own placeholders: in the text they would take the value of one of ours."""


_PARAMETER = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)")
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\x80-\uffff][A-Za-z0-9_\x80-\uffff]*)?\$")
_WORD = re.compile(r"[A-Za-z_\x80-\uffff][A-Za-z0-9_$\x80-\uffff]*")
_DULL = re.compile(rf"(?:(?>{_WORD.pattern})(?!['\"`&])|[\s(),.*=<>+;%0-9])+")
"""What means nothing to us in any dialect, as much of it as there is: words, numbers and simple punctuation.

A word before a quote may be part of the string (`e'…'`), so it is left to the dialect.
"""

POSTGRESQL = Dialect(
    "postgresql",
    re.compile(
        r"""[eE]'(?:[^'\\]|\\.|'')*'    # escape string
        | '(?:[^']|'')*'                # string
        | "(?:[^"]|"")*"                # quoted name
        | --[^\r\n]*                    # comment
        | ::                            # cast
        | :=                            # named argument
        """,
        re.X | re.S,
    ),
    lambda number: f"${number}",
    nested_comments=True,
    dollar_quotes=True,
    marks=re.compile(r"\$\d+"),
)
SQLITE = Dialect(
    "sqlite",
    re.compile(
        r"""'(?:[^']|'')*'              # string
        | "(?:[^"]|"")*"                # quoted name
        | `(?:[^`]|``)*`                # quoted name (MySQL's way)
        | \[[^\]]*\]                    # quoted name (SQL Server's way)
        | --[^\n]*                      # comment
        """,
        re.X | re.S,
    ),
    lambda number: f"?{number}",
    quotes="'\"`[",
)
MYSQL = Dialect(
    "mysql",
    re.compile(
        r"""'(?:[^'\\]|\\.|'')*'              # string, as without NO_BACKSLASH_ESCAPES
        | "(?:[^"\\]|\\.|"")*"              # string too, as without ANSI_QUOTES
        | `(?:[^`]|``)*`                    # quoted name
        | \#[^\n]*                          # comment
        | --(?=[\x00-\x20\x7f]|\Z)[^\n]*    # comment, only before a blank or the end
        """,
        re.X | re.S,
    ),
    lambda number: "?",
    positional=True,
    quotes="'\"`",
)


@dataclass(frozen=True)
class Statement:
    """SQL with the driver's placeholders, and the parameter names in the order of the values to bind."""

    text: str
    names: tuple[str, ...]

    def bind(self, params: Mapping[str, Any] | None) -> list[Any]:
        """The values in order.

        Raises:
            InvalidRequest: naming a parameter that is missing, that the statement does not have, or that is large and
                stands in many places.
        """
        given = params or {}
        missing = [name for name in dict.fromkeys(self.names) if name not in given]
        extra = [str(name)[:64] for name in given if name not in self.names]
        if missing or extra:
            fields = [FieldError(f"params.{name}", "is missing: the statement uses it") for name in missing]
            fields += [FieldError(f"params.{name}", "is not used by the statement") for name in extra]
            raise InvalidRequest("; ".join(f"{f.field} {f.message}" for f in fields), fields=fields)
        if len(self.names) > len(given):  # some stand in several places
            repeats = Repeats()
            for name in self.names:
                repeats.place(name, given[name])
        return [given[name] for name in self.names]


@lru_cache(maxsize=1024)
def parse(text: str, dialect: Dialect) -> Statement:
    """Replace each `:name` by the dialect's placeholder; the same name gets the same number, if there are numbers.

    Raises:
        InvalidRequest: the text is empty, too long, or holds a NUL or an unfinished string or comment.
    """
    if not text.strip():
        raise InvalidRequest("query: is empty", fields=[FieldError("query", "is empty")])
    if len(text) > MAX_TEXT or "\x00" in text:
        raise InvalidRequest.at("query", f"must be at most {MAX_TEXT} characters, without NUL")
    parts: list[str] = []
    numbers: dict[str, int] = {}
    marks: list[str] = []
    at = 0
    while at < len(text):
        if dull := _DULL.match(text, at):
            parts.append(dull[0])
            at = dull.end()
            continue
        end = _skip(text, at, dialect)
        if end is None and dialect.marks and dialect.marks.match(text, at):
            raise InvalidRequest.at("query", "holds a placeholder of the driver; write parameters as :name")
        if end is None:
            found = _PARAMETER.match(text, at) if text[at] == ":" else None
            if found and not (at and (text[at - 1].isalnum() or text[at - 1] in "_:")):
                number = numbers.setdefault(found[1], len(numbers) + 1)
                marks.append(found[1])
                parts.append(dialect.placeholder(number))
                at = found.end()
                continue
            end = at + 1
        parts.append(text[at:end])
        at = end
    return Statement("".join(parts), tuple(marks if dialect.positional else numbers))


_LEADING = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|[(;])*+([A-Za-z]+)", re.S)


def first_word(text: str) -> str:
    """The first keyword, in capitals, behind space, comments and parentheses; empty where there is none.

    It tells which operation a caller means. It is no guard: each operation judges for itself.
    """
    found = _LEADING.match(text)
    return found[1].upper() if found else ""


def _skip(text: str, at: int, dialect: Dialect) -> int | None:
    """The end of the string, name, comment or word that starts here; None where none does."""
    if text.startswith("/*", at):
        return _comment_end(text, at, dialect.nested_comments)
    if dialect.dollar_quotes and text[at] == "$" and (tag := _DOLLAR.match(text, at)):
        close = text.find(tag[0], tag.end())
        if close < 0:
            raise InvalidRequest.at("query", "has a dollar-quoted string that does not end")
        return close + len(tag[0])
    found = dialect.skip.match(text, at) or _WORD.match(text, at)
    if found:
        return found.end()
    if text[at] in dialect.quotes:
        raise InvalidRequest.at("query", "has a string or quoted name that does not end")
    return None


def _comment_end(text: str, at: int, nested: bool) -> int:
    depth, at = 1, at + 2
    while at < len(text):
        if text.startswith("*/", at):
            depth, at = depth - 1, at + 2
            if depth == 0 or not nested:
                return at
        elif text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        else:
            at += 1
    raise InvalidRequest.at("query", "has a comment that does not end")


def unique_names(names: Iterable[str]) -> list[str]:
    """Column names that can be the keys of one object: a second `a` becomes `a_2`."""
    given = list(names)
    if len(set(given)) == len(given):
        return given
    taken, numbers = set(given), dict[str, int]()
    unique = []
    for name in given:
        number = numbers.get(name, 0) + 1
        candidate = name
        while number > 1 and (candidate := f"{name}_{number}") in taken:
            number += 1
        numbers[name] = number
        taken.add(candidate)
        unique.append(candidate)
    return unique
