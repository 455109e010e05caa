"""Messages on their way out and in, and handles: what the messaging providers share."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from studio.contract import ProviderConfig, canonical
from studio.contract.messaging import DEFAULT_MESSAGES, Entry, Json, Scalar
from studio.contract.values import size_of
from studio.errors import InvalidRequest, NotFound, ReadOnly, ResultBlocked
from studio.models import Column, Result

JSON_TYPE = "application/json"
_COLUMNS = (
    ("handle", "text"), ("message", "text"), ("encoding", "text"), ("key", "text"), ("headers", "json"), ("id", "text"),
    ("published_at", "timestamp"), ("redelivered", "boolean"),
)  # fmt: skip
_LATE = (
    "is of a session that has ended, or its hold_s has passed: the message comes back, receive it again "
    "(and ask for a longer hold_s)"
)
_LARGE = 1 << 16
_CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\f\r"))
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish."""

    body: bytes
    key: str | None = None
    headers: Mapping[str, Scalar] = field(default_factory=dict)
    content_type: str | None = None


@dataclass(slots=True)
class Incoming:
    """One message that came; `more` are its provider's own columns."""

    body: bytes | None
    key: str | bytes | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    published_at: dt.datetime | None = None
    redelivered: bool | None = None
    more: tuple[Any, ...] = ()

    def row(self) -> tuple[Any, ...]:
        """Its row, without the handle."""
        text, encoding = (None, None) if self.body is None else shown(self.body)
        key = shown(self.key)[0] if isinstance(self.key, bytes) else self.key
        headers = {name: _header(value) for name, value in self.headers.items()}
        at = canonical(self.published_at)
        return (text, encoding, key, headers, self.id, at, self.redelivered, *map(canonical, self.more))


def shown(body: bytes | bytearray) -> tuple[str, str]:
    """A payload as text where it is UTF-8, else as base64; and which of the two."""
    try:
        return body.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"


def _header(value: Any) -> Any:
    if isinstance(value, list):
        return [_header(each) for each in value]
    return shown(value)[0] if isinstance(value, bytes | bytearray) else canonical(value)


def outgoing(
    *,
    message: Json | None,
    messages: Sequence[Json] | None,
    batch: Sequence[Entry] | None,
    key: str | None,
    headers: Mapping[str, Scalar] | None,
    encoding: str,
) -> list[Outgoing]:
    """The messages that the arguments of a publish stand for. Raises InvalidRequest."""
    if sum(given is not None for given in (message, messages, batch)) != 1:
        raise InvalidRequest.at("message", "give one of message, messages and batch")
    if batch is None:
        several = messages if message is None else [message]
        assert several is not None
        where = "message" if message is not None else "messages.{}"
        return [_one(each, where.format(n), key, headers or {}, encoding) for n, each in enumerate(several)]
    if key is not None or headers is not None:
        raise InvalidRequest.at("batch", "has key and headers in each entry; leave them out beside it")
    return [
        _one(each["message"], f"batch.{n}.message", each.get("key"), each.get("headers") or {}, encoding)
        for n, each in enumerate(batch)
    ]


def _one(given: Json, where: str, key: str | None, headers: Mapping[str, Scalar], encoding: str) -> Outgoing:
    try:
        if not isinstance(given, str):
            if encoding == "base64":
                raise InvalidRequest.at(where, "must be a base64 text, as encoding says")
            text = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return Outgoing(text.encode(), key, headers, JSON_TYPE)
        if encoding == "base64":
            return Outgoing(base64.b64decode(given, validate=True), key, headers)
        return Outgoing(given.encode(), key, headers)
    except binascii.Error:
        raise InvalidRequest.at(where, "must be a base64 text, as encoding says") from None
    except UnicodeEncodeError:
        raise InvalidRequest.at(where, "is not valid Unicode text") from None
    except ValueError:
        raise InvalidRequest.at(where, "holds a number that JSON does not have") from None


def must_write(config: ProviderConfig) -> None:
    """Raises ReadOnly. Policy asks first; this is the second lock."""
    if config.read_only:
        raise ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")


def wanted(config: ProviderConfig, max_messages: int | None) -> int:
    """How many messages a call may answer. Raises InvalidRequest."""
    if max_messages is not None and max_messages > config.max_rows:
        raise InvalidRequest.at("max_messages", f"may be {config.max_rows} at most: this connector's max_rows")
    return min(DEFAULT_MESSAGES, config.max_rows) if max_messages is None else max_messages


def patience(config: ProviderConfig, wait_s: float) -> float:
    """How long a call may wait for messages, seconds. Raises InvalidRequest."""
    if wait_s and wait_s >= config.timeout_s:
        raise InvalidRequest.at("wait_s", f"must be less than this connector's timeout_s ({config.timeout_s:g})")
    return wait_s


def fitting(found: Iterable[Incoming], max_bytes: int) -> tuple[list[tuple[Any, ...]], bool]:
    """Rows of the first messages, as many as max_bytes takes; and whether that left some out.

    `found` is asked for a message when the one before has become a row: what makes it may let that go.

    Raises:
        ResultBlocked: not even the first one fits.
    """
    rows: list[tuple[Any, ...]] = []
    left = max_bytes
    for message in found:
        if message.body is None or len(message.body) <= left:
            row = message.row()
            least = _escaped(message.body) if row[1] == "text" else 0
            left = -1 if least > left else left - size_of(list(row))
        else:
            left = -1
        if left < 0:
            if not rows:
                raise too_large()
            return rows, True
        rows.append(row)
    return rows, False


def _escaped(body: bytes | None) -> int:
    """At least how many bytes a large text takes as JSON: a control character takes six. Found without making them."""
    if body is None or len(body) < _LARGE:
        return 0
    return 6 * len(body) - 5 * len(body.translate(None, _CONTROLS))


def emptied(found: list[Item]) -> Iterator[Item]:
    """The items of a list, which lets each go before it is used: two forms of a message need not stand side by side."""
    found.reverse()
    while found:
        yield found.pop()


def too_large() -> ResultBlocked:
    """One message that no answer of this connector can hold."""
    return ResultBlocked(
        "the next message is larger than max_bytes of this connector; it stays where it is. Raise max_bytes to take it"
    )


def answer(
    rows: Sequence[tuple[Any, ...]],
    handles: Sequence[str | None],
    *,
    truncated: bool = False,
    more: Sequence[tuple[str, str]] = (),
) -> Result:
    """The answer of receive or peek; `more` are the provider's own columns."""
    columns = [Column(name=name, type=kind) for name, kind in (*_COLUMNS, *more)]
    full = [(handle, *row) for handle, row in zip(handles, rows, strict=True)]
    return Result(columns=columns, rows=full, row_count=len(full), truncated=truncated)


class Held(Generic[Item]):
    """What was handed out and is neither acknowledged nor given back yet, by handle.

    Args:
        give_back: lets items be received again; called when their time is over.
        gone: whether an item has come back by itself, as when its connection broke.
    """

    def __init__(self, give_back: Callable[[Sequence[Item]], Awaitable[None]], *, gone: Callable[[Item], bool]) -> None:
        self._give_back = give_back
        self._gone = gone
        self._session = secrets.token_hex(6)
        self._items: dict[str, Item] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    def items(self) -> list[Item]:
        """Everything that waits."""
        return list(self._items.values())

    def hold(self, items: Sequence[Item], seconds: float) -> list[str]:
        """Handles for items; what is left of these after `seconds` is given back."""
        handles = [f"{self._session}.{secrets.token_urlsafe(12)}" for _ in items]
        self._items.update(zip(handles, items, strict=True))
        number = next(self._numbers)
        self._timers[number] = asyncio.get_running_loop().call_later(seconds, self._late, number, handles)
        return handles

    def take(self, handles: Sequence[str]) -> list[Item]:
        """The items behind handles, which end with this. Raises NotFound, and then none of them has ended."""
        for number, handle in enumerate(handles):
            item = self._items.get(handle)
            if item is None or self._gone(item):
                raise NotFound.at(f"handles.{number}", _LATE)
        return [self._items.pop(handle) for handle in dict.fromkeys(handles)]

    def _late(self, number: int, handles: Sequence[str]) -> None:
        del self._timers[number]
        items = [self._items.pop(handle) for handle in handles if handle in self._items]
        if items:
            task = asyncio.ensure_future(self._return(items))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _return(self, items: Sequence[Item]) -> None:
        await self._give_back(items)

    async def close(self) -> None:
        """End every handle. What the items stand for comes back when the session's connections close."""
        for timer in self._timers.values():
            timer.cancel()
        self._items.clear()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
