"""Answers as results: JSON, text and binary, within the caps, and pages put together."""

from __future__ import annotations

import base64
import codecs
import json
import math
import re
from typing import Any

from studio.contract.bounds import MAX_VALUES, first_values, too_many
from studio.contract.values import EXACT_INTEGER
from studio.errors import ResultBlocked, UpstreamError
from studio.models import Result
from studio.providers._http.body import Answer
from studio.providers._http.redact import Redactor, mapped

_SHOWN_HEADERS = frozenset({
    "accept-ranges", "allow", "cache-control", "content-disposition", "content-language", "content-length",
    "content-range", "content-type", "date", "deprecation", "etag", "expires", "last-modified", "link", "location",
    "retry-after", "sunset", "vary", "x-next-page", "x-page", "x-per-page", "x-prev-page", "x-request-id",
    "x-total", "x-total-count", "x-total-pages",
})  # fmt: skip
_SHOWN_PREFIXES = ("ratelimit", "x-ratelimit-")
_CHARSETS = frozenset({
    "ascii", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso8859-1", "iso8859-2", "iso8859-15",
    "cp1250", "cp1251", "cp1252", "koi8-r", "shift_jis", "euc_jp", "euc_kr", "gbk", "gb18030", "big5",
})  # fmt: skip
_TEXT_TYPES = re.compile(r"text/.*|application/(?:.*\+xml|xml|x-www-form-urlencoded|javascript|yaml|x-ndjson|graphql)")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\r\n]*")
MAX_DEPTH = 200
_DIGITS = len(str(EXACT_INTEGER)) - 1
_TOO_LARGE = (
    "the answer is larger than max_bytes={0}, and no part of it makes sense by itself; "
    "ask for less (a page, fewer fields), or have max_bytes raised"
)
_TOO_MANY = (
    f"the answer holds more than {MAX_VALUES} values, and no part of it makes sense by itself; "
    "ask for less (a page, fewer fields)"
)


def _integer(text: str) -> int | str:
    """As in `contract.values`; a text of a million digits is never made a number."""
    if len(text) <= _DIGITS:
        return int(text)
    return text if len(text) > _DIGITS + 2 or abs(int(text)) > EXACT_INTEGER else int(text)


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=str)


class Body:
    """A decoded body: `value` is what the caller gets, `items` its list where it is one."""

    def __init__(self, value: Any, *, cut: bool = False) -> None:
        self.value = value
        self.cut = cut

    @property
    def items(self) -> list[Any] | None:
        """The elements of a JSON array."""
        return self.value if isinstance(self.value, list) else None


def body_of(answer: Answer, redactor: Redactor, limit: int) -> Body:
    """The body by its media type; credentials that it repeats are taken out.

    Raises:
        ResultBlocked: it is larger than the limit and cannot be cut.
        UpstreamError: it is not what its media type says.
    """
    if not answer.body:
        return Body(None, cut=answer.cut)
    kind = answer.media_type
    if kind == "application/json" or kind.endswith("+json"):
        return _json_body(answer, redactor, limit)
    if _TEXT_TYPES.fullmatch(kind) or (not kind and _is_text(answer.body)):
        text = answer.body.decode(_charset(answer), "replace")
        return Body(redactor.cut_text(text.rstrip("\ufffd")) if answer.cut else redactor.text(text), cut=answer.cut)
    if answer.cut:
        raise ResultBlocked(_TOO_LARGE.format(limit))
    raw = redactor.raw(answer.body) if redactor.suspects(answer.body) else answer.body
    return Body({"content_type": kind or "application/octet-stream", "base64": base64.b64encode(raw).decode()})


def _json_body(answer: Answer, redactor: Redactor, limit: int) -> Body:
    body, cut = answer.body, answer.cut
    if too_many(body):
        body, cut = _first_items(body), True
    try:
        text = body.decode("utf-8-sig", "ignore" if cut else "strict")
        value = _leading_items(text, _TOO_LARGE.format(limit)) if cut else _DECODER.decode(text)
        _check_depth(body, value)
        if _HALF_PAIR.search(body):
            value = mapped(value, _whole)
        if redactor.suspects(body):
            value = redactor.tree(value)
    except ValueError as exc:
        raise UpstreamError("the upstream's answer says that it is JSON, and is not") from exc
    except RecursionError as exc:
        raise UpstreamError("the upstream's answer is JSON nested too deeply") from exc
    return Body(value, cut=cut)


def _first_items(body: bytes) -> bytes:
    """The beginning of an array of too many values. Raises ResultBlocked."""
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise ResultBlocked(_TOO_MANY)
    return first_values(body)


def _check_depth(body: bytes, value: Any) -> None:
    """Refuse what our own encoders cannot write. Raises RecursionError."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def _leading_items(text: str, refusal: str) -> list[Any]:
    """The complete items at the beginning of an array that was cut."""
    at = len(text) - len(text.lstrip())
    if text[at : at + 1] != "[":
        raise ResultBlocked(refusal)
    items: list[Any] = []
    at = _BLANKS.match(text, at + 1).end()  # type: ignore[union-attr]
    while True:
        try:
            item, end = _DECODER.raw_decode(text, at)
        except ValueError:
            break
        end = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
        if text[end : end + 1] not in {",", "]"}:  # without its comma, a number may be half of one
            break
        items.append(item)
        at = _BLANKS.match(text, end + 1).end()  # type: ignore[union-attr]
    if not items:
        raise ResultBlocked(refusal)
    return items


def _whole(text: str) -> str:
    """The text with halves of surrogate pairs replaced: they cannot be sent on."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_text(body: bytes) -> bool:
    try:
        return "\x00" not in body.decode()
    except UnicodeDecodeError:
        return False


def _charset(answer: Answer) -> str:
    found = re.search(r"charset=\"?([\w-]+)", answer.headers.get("Content-Type", ""), re.IGNORECASE)
    try:
        name = codecs.lookup(found[1]).name if found else "utf-8"
    except LookupError:
        name = "utf-8"
    return name if name in _CHARSETS else "utf-8"


def headers_of(answer: Answer, redactor: Redactor) -> dict[str, str]:
    """The headers that a caller can use, lower case, without credentials."""
    shown: dict[str, str] = {}
    for name, value in answer.headers.items():
        key = name.lower()
        if key in _SHOWN_HEADERS or key.startswith(_SHOWN_PREFIXES):
            text = redactor.text(value)[:2000].encode("utf-8", "replace").decode()
            shown[key] = f"{shown[key]}, {text}" if key in shown else text
    return shown


def result_of(body: Body, *, max_rows: int) -> Result:
    """A result: the items of an array up to `max_rows`, anything else as it is."""
    if body.items is None:
        return Result(data=body.value, row_count=int(body.value is not None), truncated=body.cut)
    kept = body.items[:max_rows]
    return Result(data=kept, row_count=len(kept), truncated=body.cut or len(body.items) > max_rows)
