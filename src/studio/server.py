"""How the application is served: uvicorn, and what its connections may cost before a request is complete.

The application judges whole requests (`studio.api.gate`). What it never sees is judged here: a head
that does not end, one that comes a byte at a time, and a body that outlives its answer.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from enum import Enum
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from studio.api.gate import MAX_HEAD_BYTES, NO_PAGE, SECURITY
from studio.api.problems import problem
from studio.errors import BadRequest, StudioError, TooSlow

GRACE_S = 8
"""Time for requests to end after the server was told to stop, seconds. The process is gone within 10."""
HEAD_TIMEOUT_S = 10.0
"""Time in which the head of a request must be complete, from the connection or its first byte."""
BODY_TIMEOUT_S = 3660.0
"""Ceiling for a body that somebody still reads; what reads it has a deadline of its own, never above this."""
_CHECK_EVERY_S = 2.0
_BACKLOG = 2048
_MAX_UNREAD_BYTES = 64 << 20
"""What may still arrive of a body after its answer: closed at once, the answer could be lost on the way."""


_GC_THRESHOLDS = (25_000, 20, 50)
"""Allocations before a young collection, and collections before the older ones. The default (700) is for scripts."""
_LARGE = 64 << 10


class _Phase(Enum):
    HEAD = "head"
    BODY = "body"
    IDLE = "idle"


class _Joined:
    """A transport that sends the head of an answer and what follows at once in one packet: one system call less."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, or keep the head of an answer until the loop's next round at the latest."""
        if self._head:
            head, self._head = self._head, b""
            if len(data) > _LARGE:  # a copy would cost more than the call
                self._transport.write(head)
            else:
                data = head + data
            self._transport.write(data)
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Send what is kept, then close."""
        self._flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds on unfinished heads and on the time that a request takes to arrive."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch the connection for as long as it lives; a request itself costs no timer."""
        super().connection_made(_Joined(transport, self.loop))  # type: ignore[arg-type]
        self._phase, self._since, self._received = _Phase.HEAD, self.loop.time(), 0
        self._refusal: tuple[StudioError, int] | None = None
        self._watch = self.loop.call_later(_CHECK_EVERY_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what arrives for a head that has not ended, or behind an answer that was given."""
        super().data_received(data)
        if self._phase is _Phase.IDLE or self.transport.is_closing():
            return
        if self._phase is _Phase.HEAD:
            self._received += len(data)
            if self._received > 2 * MAX_HEAD_BYTES:
                self._refuse(BadRequest(f"the request's head is larger than {MAX_HEAD_BYTES} bytes"), 431)
        elif self.cycle is not None and self.cycle.response_complete:
            self._received += len(data)
            if self._received > _MAX_UNREAD_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._phase, self._since, self._received = _Phase.HEAD, self.loop.time(), 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come behind a body, are dropped: nothing reads them, and they are not bounded."""
        if self._phase is _Phase.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body begins."""
        super().on_headers_complete()
        self._phase, self._since, self._received = _Phase.BODY, self.loop.time(), 0

    def on_message_complete(self) -> None:
        """Everything has arrived."""
        super().on_message_complete()
        self._phase = _Phase.IDLE

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered like every other error."""
        self._refuse(BadRequest("this is not a request of HTTP/1.1"), 400)

    def _check(self) -> None:
        self._watch = self.loop.call_later(_CHECK_EVERY_S, self._check)
        late = self.loop.time() - self._since
        answered = self.cycle is not None and self.cycle.response_complete
        if self._phase is _Phase.HEAD and late > HEAD_TIMEOUT_S:
            self._refuse(TooSlow(f"the request's head did not arrive within {HEAD_TIMEOUT_S:g} s"), 408)
        elif self._phase is _Phase.BODY and late > (HEAD_TIMEOUT_S if answered else BODY_TIMEOUT_S):
            self.transport.close()

    def _refuse(self, error: StudioError, status: int) -> None:
        """Answer and close, unless an answer is on its way already."""
        if self.cycle is None or self.cycle.response_complete:
            status, headers, body = problem(error, status)
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
            named = [(name.encode(), value.encode()) for name, value in headers.items() if name != "connection"]
            lines += [name + b": " + value for name, value in [*named, *SECURITY, NO_PAGE]]
            lines += [b"content-length: " + str(len(body)).encode(), b"connection: close", b"", body]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()


def settle() -> None:
    """Spare the process what each request would cost it anew; once, when the service is open."""
    # What stands after the start stands until the end: collections need not walk it, nor come so often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    # The loop would note each asynchronous generator, to close at its end those that are left; ten a request. Those
    # of a request are closed where they are used, and the service, which relies on it, is open by now.
    sys.set_asyncgen_hooks(firstiter=None)


def config(application: Any, **more: Any) -> uvicorn.Config:
    """The one way in which the application is served."""
    return uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        **more,
    )


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one; `shared` with others of this user on the same address.

    Raises:
        OSError: the address cannot be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # With its protocol spelled out: asyncio switches Nagle's delay (40 ms an answer) off for no other.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
