"""The process that runs SQL for the `sqlite` provider, so that a statement can be killed.

It imports apsw and built-in modules only (the whole package would cost ten times the start), gets
nothing of the service's environment, and talks over one socket on fd 0. Frames are a 4-byte big-endian length and a
body: `marshal` towards this process, which trusts its parent; JSON towards the parent, which must
not trust a process that has read somebody's file.

Requests are tuples: the name of a method of `Session` (`session.py`) and its arguments;
`close` has no answer.
"""

from __future__ import annotations

import _thread
import marshal
import os
import select
from _json import encode_basestring
from binascii import b2a_base64
from collections.abc import Callable, Iterator
from typing import Any

import apsw

from studio.providers.sqlite.guard import Refused
from studio.providers.sqlite.session import BATCH_BYTES, Session

EXACT_INTEGER = 2**53 - 1
MANY_ROWS = 64
MIB = 1024 * 1024
PIECE = 48 * 1024
"""Of a long value, so much is encoded at a time; a multiple of three, for base64."""
LONG_BYTES = 2 * BATCH_BYTES
"""From here on a copy more of an answer counts."""
ESCAPED = 6
"""JSON writes one control character in so many bytes."""
FILES = 64
"""Descriptors of this process, and so temporary files of a statement."""


def heap_bytes(length: int) -> int:
    """SQLite's own memory in this process, where values have at most `length` bytes."""
    return 8 * MIB + 2 * length


def data_bytes(length: int) -> int:
    """What this process may take beyond the memory that it starts with: SQLite's, and a row in Python's hands."""
    return heap_bytes(length) + 4 * MIB + 2 * length


# -- values and frames ------------------------------------------------------------------------------


def _integer(value: int) -> int | str:
    return value if -EXACT_INTEGER <= value <= EXACT_INTEGER else str(value)


def _float(value: float) -> float | str:
    if value - value == 0:
        return value
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")


_FORMS: dict[type, Callable[[Any], Any]] = {
    int: _integer, float: _float, bytes: lambda value: b2a_base64(value, newline=False).decode("ascii")
}  # fmt: skip
_SAME = frozenset({str, type(None)})
_INFINITY = float("inf")


def plain(column: tuple[Any, ...]) -> tuple[Any, ...] | list[Any]:
    """A column's values as `studio.contract.values` has them; a test holds the two together."""
    kinds = set(map(type, column))
    if kinds <= _SAME:
        return column
    if kinds == {int} and max(column) <= EXACT_INTEGER and min(column) >= -EXACT_INTEGER:
        return column
    if kinds == {float} and max(column) < _INFINITY and min(column) > -_INFINITY:  # SQLite has no NaN
        return column
    return [_FORMS[type(value)](value) if type(value) in _FORMS else value for value in column]


def text_of(value: Any) -> str:
    """JSON of strings, numbers, None, booleans, lists and dicts of them. Small answers need no import for it."""
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode_basestring(key)}:{text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(text_of, value)) + "]"
    return repr(value)


def pieces(value: Any) -> Iterator[bytes]:
    """`text_of`, never more than a part of a long value at a time."""
    if isinstance(value, (str, bytes)):
        yield b'"'
        for start in range(0, len(value), PIECE):
            part = value[start : start + PIECE]
            yield b2a_base64(part, newline=False) if isinstance(part, bytes) else encode_basestring(part)[1:-1].encode()
        yield b'"'
    elif isinstance(value, dict):
        yield b"{"
        for number, (key, item) in enumerate(value.items()):
            yield b"," * (number > 0) + encode_basestring(key).encode() + b":"
            yield from pieces(item)
        yield b"}"
    elif isinstance(value, (list, tuple)):
        yield b"["
        for number, item in enumerate(value):
            yield b"," * (number > 0)
            yield from pieces(item)
        yield b"]"
    else:
        form = _FORMS.get(type(value))
        yield text_of(form(value) if form else value).encode()


def long(answer: dict[str, Any]) -> bool:
    """Whether a copy of the answer would count."""
    return any(part.get("bytes", 0) > LONG_BYTES for part in (answer, *answer.get("done", ())))


def body_of(answer: dict[str, Any]) -> bytes:
    """An answer's bytes, with its rows by column.

    orjson costs 15 ms to import and is ten times as fast: only many rows pay for it.
    """
    many = False
    for part in (answer, *answer.get("done", ())):
        rows = part.pop("rows", ())
        part["values"] = [plain(column) for column in zip(*rows, strict=True)]
        many = many or len(rows) >= MANY_ROWS
    if not many:
        return text_of(answer).encode()
    import orjson

    return orjson.dumps(answer)


def failure(exc: BaseException, session: Session) -> dict[str, Any]:
    """An exception in the form that the parent makes one of its errors of."""
    code = getattr(exc, "extendedresult", 0)
    return {"error": [type(exc).__name__, str(exc), code], "denied": session.denied, "at": getattr(exc, "at", None)}


def receive() -> Any:
    """The next request; exits with the parent."""
    head = _exactly(4)
    return marshal.loads(_exactly(int.from_bytes(head, "big")))  # noqa: S302 - written by our parent


def _exactly(count: int) -> bytes:
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send(body: bytes) -> None:
    """Write one frame."""
    _write(len(body).to_bytes(4, "big") + body)


def send_long(answer: dict[str, Any], most: int) -> None:
    """`body_of` and `send` without a copy of what is long: it is encoded once for its length, and again to be written.

    Raises Refused, before anything is written, where control characters make it longer than `most`.
    """
    for part in (answer, *answer.get("done", ())):
        part["values"] = list(zip(*part.pop("rows", ()), strict=True))
    size = sum(map(len, pieces(answer)))
    if size > most:
        raise Refused("large")
    waiting = bytearray(size.to_bytes(4, "big"))
    for piece in pieces(answer):
        waiting += piece
        if len(waiting) >= PIECE:
            _write(waiting)
            waiting = bytearray()
    _write(waiting)


def _write(data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(0, rest) :]


def _die_with_parent() -> None:
    """Wait for the other end to go; the main thread may be inside of a statement that never ends."""
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()
    os._exit(1)


def confine(length: int) -> None:
    """Give up what running SQL does not need. Called before a file is opened."""
    import resource

    os.closerange(3, 65_536)
    os.chdir("/")
    _thread.stack_size(256 * 1024)
    _thread.start_new_thread(_die_with_parent, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    memory = data_bytes(length) + _held()
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    apsw.hard_heap_limit(heap_bytes(length))


def _held() -> int:
    """Bytes of private memory that this process has now (proc(5), statm)."""
    with open("/proc/self/statm", encoding="ascii") as told:
        return int(told.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Serve requests until the parent says `bye` or is gone."""
    settings = receive()
    confine(settings["length"])
    session = Session(**settings)
    while True:
        name, *arguments = receive()
        if name == "bye":
            session.end()
            os._exit(0)
        session.forget()
        try:
            answer = getattr(session, name)(*arguments)
            body = None
            if answer is not None and long(answer):
                send_long(answer, settings["length"] + ESCAPED * LONG_BYTES)
            elif answer is not None:
                body = body_of(answer)
        except Exception as exc:
            body = text_of(failure(exc, session)).encode()
            session.close()
        if body is not None:
            send(body)
        answer = body = None  # before the next request is waited for
