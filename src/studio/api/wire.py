"""Bytes in and out: strict JSON with a bound, and answers without a detour through models."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

import orjson
from starlette.responses import Response

from studio.errors import BadRequest, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_MAX_INTEGER = 2**63


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises TooLarge past `limit` bytes, ClientGone."""
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

    NUL characters, lone surrogates, NaN and Infinity are refused as well: they mean different
    things to different upstreams.

    Raises:
        BadRequest: naming the field where there is one.
    """
    try:
        value = _decode(body.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise BadRequest.at("body", "is not UTF-8") from exc
    except RecursionError as exc:
        raise BadRequest.at("body", "is nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest.at("body", "is not JSON") from exc
    if not isinstance(value, dict):
        raise BadRequest.at("body", "must be a JSON object")
    if _SUSPECT.search(body):
        _refuse_unsafe_text(value, "")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest.at(_printable(twice), "stands twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or not -_MAX_INTEGER <= (value := int(text)) < _MAX_INTEGER:
        raise BadRequest.at("body", "holds an integer past 64 bits; send it as a string")
    return value


def _constant(_text: str) -> NoReturn:
    raise BadRequest.at("body", "holds NaN or Infinity, which JSON does not have")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant).decode


def _refuse_unsafe_text(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            where = f"{path}.{_printable(key)}" if path else _printable(key)
            _refuse_unsafe_text(key, where)
            _refuse_unsafe_text(item, where)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_unsafe_text(item, f"{path}.{number}")
    elif isinstance(value, str) and ("\x00" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        raise BadRequest.at(path, "holds a NUL character or half of a surrogate pair")


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


class until_client_goes:  # noqa: N801 - reads as a phrase
    """Cancels the body of the `async with` when the client closes its connection."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watch = asyncio.create_task(self._wait())

    async def __aexit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
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
