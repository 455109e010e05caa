"""Bytes in and out: strict JSON with a bound, and answers without a detour through models."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson
from starlette.responses import Response

from studio.contract.bounds import too_many
from studio.contract.deadline import Alarm, Deadline
from studio.errors import BadRequest, TooLarge, TooSlow

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[eE]\+?\d{3}|\d{300}")
"""What may turn into unsafe text or into an endless number; nothing else needs the walk."""
_MAX_INTEGER = 2**63
_LONG = re.compile(r"\d{19}")
"""Digits that may be an integer past 64 bits; of shorter ones none is, and the decoder's own way is quicker."""
WATCH_AFTER_S = 0.01
MOST_VALUES = 40_000
"""Of a body up to the default of `max_body_bytes`: decoded and checked, a value takes hundreds of bytes."""
_BYTES_A_VALUE = 25
"""Of a larger one, which an operator allows: values as large as those of the default."""
DEEPEST = 64
"""Levels of nesting that a body may have; a deeper one could exhaust the stack of whoever walks it."""
_TOO_DEEP = f"is nested deeper than {DEEPEST} levels"


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body. Raises TooLarge past `limit` bytes, TooSlow past the time, ClientGone."""
    try:
        with Deadline.within(timeout_s):
            return await _read(receive, limit)
    except TimeoutError:
        raise TooSlow.at("body", f"did not arrive within {timeout_s:g} s") from None


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge.at("body", f"is larger than {limit} bytes")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def json_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object (RFC 8259) as I-JSON (RFC 7493): UTF-8, no duplicate names, 64-bit integers.

    NUL characters, lone surrogates, NaN, Infinity and numbers beyond a double are refused as well:
    they mean different things to different upstreams. So is nesting deeper than `DEEPEST`, and more than `MOST_VALUES`.

    Raises:
        BadRequest: naming the field where there is one.
    """
    if len(body) > MOST_VALUES and too_many(body, max(MOST_VALUES, len(body) // _BYTES_A_VALUE)):
        raise BadRequest.at("body", f"has more than {MOST_VALUES:,} values; send fewer at a time")
    try:
        text = body.decode("utf-8")
        value = (_decode_wary if _LONG.search(text) else _decode)(text)
    except UnicodeDecodeError as exc:
        raise BadRequest.at("body", "is not UTF-8") from exc
    except RecursionError as exc:
        raise BadRequest.at("body", _TOO_DEEP) from exc
    except _BadNumber:
        value = _decode_marked(text)  # once more, to tell where it stands
        _refuse_unsafe(value)
    except ValueError as exc:
        raise BadRequest.at("body", "is not JSON") from exc
    if not isinstance(value, dict):
        raise BadRequest.at("body", "must be a JSON object")
    if _SUSPECT.search(body) or body.count(b"{") + body.count(b"[") > DEEPEST:
        _refuse_unsafe(value)
    return value


class _BadNumber(Exception):
    """A number that JSON does not have, or that would not arrive as it was sent."""


@dataclass(frozen=True)
class _Marked:
    message: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadRequest.at(_printable(twice), "stands twice in one object")
    return found


def _fits(text: str) -> bool:
    return len(text) <= 20 and -_MAX_INTEGER <= int(text) < _MAX_INTEGER


def _integer(text: str) -> int:
    if not _fits(text):
        raise _BadNumber
    return int(text)


def _constant(_text: str) -> NoReturn:
    raise _BadNumber


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant).decode
_decode_wary = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant).decode
_decode_marked = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=lambda text: int(text) if _fits(text) else _Marked("is an integer past 64 bits; send it as a string"),
    parse_constant=lambda _text: _Marked("is NaN or Infinity, which JSON does not have"),
).decode


def _refuse_unsafe(value: Any) -> None:
    """Walk the whole value, without recursion: it may be deeper than the stack."""
    left: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while left:
        item, path = left.pop()
        if len(path) > DEEPEST:
            raise BadRequest.at("body", _TOO_DEEP)
        if isinstance(item, dict):
            for key, inner in item.items():
                left += (key, (*path, key)), (inner, (*path, key))
        elif isinstance(item, list):
            left += [(inner, (*path, str(number))) for number, inner in enumerate(item)]
        elif (why := _unsafe(item)) is not None:
            raise BadRequest.at(".".join(map(_printable, path)) or "body", why)


def _unsafe(value: Any) -> str | None:
    if isinstance(value, str) and ("\x00" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        return "holds a NUL character or half of a surrogate pair"
    if isinstance(value, float) and math.isinf(value):
        return "is a number beyond what a double holds; send it as a string"
    return value.message if isinstance(value, _Marked) else None


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() and not "\ud800" <= char <= "\udfff" else "?" for char in name[:100])


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer of a value that is plain already."""
    return Response(orjson.dumps(value), status, dict(headers or {}), media_type="application/json")


async def send_answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """One whole answer over ASGI."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class until_client_goes(Alarm):  # noqa: N801 - reads as a phrase
    """Cancels the body of the `with` when the client closes its connection.

    The watch begins `WATCH_AFTER_S` late: most work is done by then, and a task costs more than an alarm.

    Raises:
        ClientGone: it did.
    """

    __slots__ = ("_gone", "_receive", "_task", "_watch")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self.at = asyncio.get_running_loop().time() + WATCH_AFTER_S
        self.set()

    def ring(self) -> None:
        """Begin to watch."""
        self._watch = asyncio.create_task(self._wait())

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self.put_off()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            raise ClientGone

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        assert self._task is not None
        self._task.cancel()
