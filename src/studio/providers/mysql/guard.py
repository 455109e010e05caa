"""Which SQL may run as a read and which as a write, judged on tokens as the server's own lexer makes them.

Three things make the tokens the server's: every session has the same `sql_mode` (no ANSI_QUOTES, no
NO_BACKSLASH_ESCAPES) and character set (`pool.py`), executable comments (`/*!`, `/*M!`) are
refused wherever they stand, and where the lexer has special cases (`1e5INTO`, `1.INTO`) these tokens
split rather than join, so that a keyword may be seen too often but never too seldom.

That a read changes nothing is the server's doing, in a read-only session. MariaDB leaves gaps
there (`SET STATEMENT tx_read_only=0 FOR`, `HANDLER`, `ANALYZE TABLE`, locks); they end here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from studio.errors import InvalidRequest, ReadOnly
from studio.providers._sql.server import CACHED_TEXT
from studio.providers.mysql.words import (
    NOT_EXECUTED,
    PLAIN,
    REFUSED,
    REFUSED_PREFIXES,
    ROW_CHANGES,
    WRITES,
)

MAX_SLEEP_S = 60

_NAME = r"A-Za-z_$\x80-\U0010ffff"
_TOKEN = re.compile(
    rf"""(?P<blank>[ \t\n\v\f\r]+ | \#[^\n]* | --(?=[\x00-\x20\x7f]|\Z)[^\n]* | /\*.*?\*/)
    | (?P<string>'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*")
    | (?P<quoted>`(?:[^`]|``)*`)
    | (?P<word>[{_NAME}][{_NAME}0-9]*)
    | (?P<number>[0-9]+(?:\.[0-9]+)?)
    | (?P<mark>:=|.)
    """,
    re.X | re.S,
)
_EXECUTABLE = re.compile(r"/\*M?!", re.I)
_HINT = re.compile(r"set_var|max_execution_time|resource_group", re.I)

_ROWS = {"select", "values", "table", "with"}
_LOOKS = {"show", "describe", "desc", "explain"}
_NO_READ = {
    "into": "INTO writes to a file or a variable",
    "update": "UPDATE changes or locks rows",
    "delete": "DELETE changes rows",
    "lock": "LOCK takes locks",
    "call": "CALL runs a procedure",
    "outfile": "OUTFILE writes a file",
    "dumpfile": "DUMPFILE writes a file",
}
_FILES = {"outfile", "dumpfile", "soname"}


@dataclass(frozen=True)
class Verdict:
    """What the tokens of one statement say.

    `root` is its first word. `reading` is why it may not run as a read, None where it may; `refused`
    why it may not run at all; `unknown` that it does not begin like any statement. `plain` says that
    it calls none but well-known functions, so that nothing of it stays in the session.
    """

    root: str
    reading: str | None
    refused: str | None
    unknown: bool
    plain: bool
    marks: int

    @property
    def rows_only(self) -> bool:
        """Whether it only changes rows, and leaves nothing in the session."""
        return self.root in ROW_CHANGES and self.plain

    def must_read(self) -> None:
        """Raise ReadOnly unless this may run as a read; InvalidRequest if it is no statement at all."""
        self._must_be_known()
        if self.reading:
            raise ReadOnly(f"query takes reads only: {self.reading}; what is meant to write goes to execute")

    def must_write(self) -> None:
        """Raise InvalidRequest unless this may run as a write."""
        self._must_be_known()
        if self.refused:
            raise InvalidRequest.at("query", f"execute does not take {self.refused}")

    def must_change_rows(self) -> None:
        """Raise InvalidRequest for what commits the transaction that it stands in, or may."""
        self.must_write()
        if self.root not in ROW_CHANGES | _ROWS:
            raise InvalidRequest.at("query", f"{self.root.upper()} commits at once, so it cannot be in a transaction")

    def must_explain(self) -> None:
        """Raise InvalidRequest unless EXPLAIN can be put before this."""
        self._must_be_known()
        if self.root not in _ROWS or self.reading:
            raise InvalidRequest.at("query", "only a query that reads can be explained")

    def _must_be_known(self) -> None:
        if self.unknown:
            raise InvalidRequest.at("query", "does not begin like an SQL statement")


class _Token(NamedTuple):
    kind: str
    text: str
    """Words in lower case; quoted names without their quotes."""


def judge(text: str) -> Verdict:
    """The verdict on one statement with `?` placeholders.

    Raises:
        InvalidRequest: no statement, several, or text that the server may read otherwise than we do.
    """
    return _judge_cached(text) if len(text) <= CACHED_TEXT else _judge(text)


def writes(text: str) -> bool:
    """Whether `execute_query` means the write operation by this text. No guard: both paths judge for themselves."""
    if len(text) > CACHED_TEXT:  # this is asked on the event loop
        return next((token.text in WRITES for token in _tokens(text) if token.kind == "word"), False)
    try:
        verdict = judge(text)
    except InvalidRequest:
        return False
    return verdict.reading is not None and not verdict.unknown


def _judge(text: str) -> Verdict:
    if _EXECUTABLE.search(text):
        raise InvalidRequest.at("query", "must not hold executable comments (/*! or /*M!); write the SQL plainly")
    if "/*+" in text and _HINT.search(text):
        raise InvalidRequest.at("query", "must not change settings or limits in a hint")
    tokens = _checked(text)
    root = next((token.text for token in tokens if token.text != "("), "")
    reading = _not_reading(root, tokens) or next(_objections(root, tokens), None)
    return Verdict(
        root=root,
        reading=reading,
        refused=_refused(root, tokens),
        unknown=not (root in _ROWS | _LOOKS | WRITES or root in NOT_EXECUTED),
        plain=all(name in PLAIN for name in _calls(tokens, called=True)) and _Token("mark", ":=") not in tokens,
        marks=tokens.count(_Token("mark", "?")),
    )


_judge_cached = lru_cache(maxsize=1024)(_judge)


def _tokens(text: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(text):
        kind, part = str(found.lastgroup), found[0]
        if kind == "word":
            yield _Token(kind, part.lower())
        elif kind == "quoted":
            yield _Token(kind, part[1:-1].replace("``", "`").lower())
        elif kind != "blank":
            yield _Token(kind, part if kind != "string" else "")


def _checked(text: str) -> list[_Token]:
    """The tokens of the one statement, without the semicolons at its end."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest.at("query", "holds half of a surrogate pair") from None
    tokens = list(_tokens(text))
    for token in tokens:
        # Some versions read $$ ... $$ as a string, so that its quotes would be no quotes.
        if (token.kind == "word" and token.text[0] == "$") or (token.kind == "mark" and token.text in "'\"`"):
            raise InvalidRequest.at("query", "holds a name that begins with $, or a string that does not end")
    while tokens and tokens[-1] == _Token("mark", ";"):
        tokens.pop()
    if not tokens:
        raise InvalidRequest.at("query", "holds no statement")
    if _Token("mark", ";") in tokens and tokens[0].text not in {"create", "alter", "begin"}:  # a body has them
        raise InvalidRequest.at("query", "holds several statements; give one, or use transaction")
    return tokens


def _not_reading(root: str, tokens: list[_Token]) -> str | None:
    """Why a statement with this root is no read."""
    if root not in _ROWS | _LOOKS:
        return f"{root[:32].upper()} is not a read"
    words = {token.text for token in tokens if token.kind == "word"}
    if root in _LOOKS - {"show"} and "analyze" in words:
        return "EXPLAIN ANALYZE runs the statement"
    if root != "show" and "procedure" in words:
        return "PROCEDURE runs a procedure on the rows"
    return None


def _objections(root: str, tokens: list[_Token]) -> Iterator[str]:
    texts = [token.text if token.kind == "word" else token.kind + token.text for token in tokens]
    for at, text in enumerate(texts):
        after = texts[at + 1 : at + 3]
        if (text in _NO_READ and root != "show") or text in {"into", "call"}:
            yield _NO_READ[text]
        elif text in {"insert", "replace"} and after[:1] != ["mark("]:
            yield f"{text.upper()} changes rows"
        elif text == "for" and after[:1] == ["share"]:
            yield "FOR SHARE locks rows"
        elif text in {"next", "previous"} and after == ["value", "for"]:
            yield "a sequence's value is taken"
    for name in _calls(tokens):
        if name in REFUSED or name.startswith(REFUSED_PREFIXES):
            yield f"the function {name[:64]} acts outside of the query"
    if _long_sleep(tokens):
        yield f"it sleeps for more than {MAX_SLEEP_S} s"


def _calls(tokens: list[_Token], *, called: bool = False) -> Iterator[str]:
    """Names in front of a parenthesis, quoted or not. `called` leaves out a table's name before its columns."""
    for at in range(len(tokens) - 1):
        token = tokens[at]
        if token.kind in {"word", "quoted"} and tokens[at + 1] == _Token("mark", "("):
            if called and at and tokens[at - 1].text in {"into", "with", "recursive"}:
                continue
            qualified = called and at and tokens[at - 1].text == "."
            yield "?" if qualified else token.text


def _long_sleep(tokens: list[_Token]) -> bool:
    """A constant that only the time limit would end; it is refused before it holds a session."""
    calls = zip(tokens, tokens[1:], tokens[2:], strict=False)
    return any(
        name.text == "sleep" and mark.text == "(" and given.kind == "number" and float(given.text) > MAX_SLEEP_S
        for name, mark, given in calls
    )


def _refused(root: str, tokens: list[_Token]) -> str | None:
    """Why this may not run at all."""
    if root in NOT_EXECUTED:
        return NOT_EXECUTED[root]
    words = {token.text for token in tokens if token.kind == "word"}
    if words & _FILES or "load_file" in _calls(tokens):
        return "statements that read or write files of the server"
    return None
