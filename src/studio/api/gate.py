"""What every request passes first, and what every answer carries: one place for the whole application.

A head of bounded size, a path and a query that mean one thing only, no header twice that readers would
pick differently, a Host and an Origin of ours. On the way out: the security headers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from studio.api.hosts import Hosts
from studio.api.problems import Refused, problem, refusal
from studio.api.wire import Receive, Scope, Send, send_answer
from studio.errors import BadRequest, NotFound, StudioError
from studio.services import metrics

App = Callable[[Scope, Receive, Send], Awaitable[None]]
MAX_HEADERS = 100
MAX_HEAD_BYTES = 32 << 10
"""Names and values of all headers together."""
MAX_PATH_BYTES = 8 << 10
MAX_QUERY_BYTES = 16 << 10
"""Room for the arguments of a byte upload, which stand in the query."""
ONCE = frozenset(
    {b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key", b"if-match", b"origin"}
)
"""Headers that may stand in a request once: of two, one reader takes the first and another the last."""
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CSP = b"content-security-policy"
NO_PAGE = (_CSP, b"default-src 'none'; frame-ancestors 'none'")
"""Answers are data. A page, which is not, names its own policy."""


class Gate:
    """The outermost ASGI layer."""

    def __init__(self, application: App, hosts: Hosts) -> None:
        self._application = application
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge the head, then serve."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def secured(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *SECURITY]
                if _CSP not in dict(headers):
                    headers.append(NO_PAGE)
                message["headers"] = headers
            await send(message)

        try:
            self._judge(scope)
        except (Refused, StudioError) as exc:
            answer = refusal(exc) if isinstance(exc, Refused) else problem(exc)
            metrics.refused(answer[0])
            await send_answer(secured, *answer)
            return
        if scope["method"] == "HEAD":  # as GET; the server leaves the content out (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        await self._application(scope, receive, secured)

    def _judge(self, scope: Scope) -> None:
        """Raises Refused, StudioError."""
        raw: list[tuple[bytes, bytes]] = scope["headers"]
        headers = dict(raw)
        if len(raw) > MAX_HEADERS or sum([len(name) + len(value) for name, value in raw]) > MAX_HEAD_BYTES:
            raise Refused(BadRequest(f"more than {MAX_HEADERS} headers, or {MAX_HEAD_BYTES} bytes of them"), 431)
        if len(headers) != len(raw) and (twice := _twice(raw)):
            raise BadRequest.at(twice, "stands twice in the request's head")
        self.hosts.require(scope, headers)
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        query: bytes = scope["query_string"]
        if len(path) > MAX_PATH_BYTES or len(query) > MAX_QUERY_BYTES:
            raise Refused(
                BadRequest(f"the path is over {MAX_PATH_BYTES} bytes, or the query over {MAX_QUERY_BYTES}"), 414
            )
        if b"%" in path and not _plain(unquote_to_bytes(path), path.count(b"/")):
            raise NotFound("no such route")
        if b"%" in query and not _plain(unquote_to_bytes(query)):
            raise BadRequest.at("query", "is not UTF-8")


def _twice(raw: list[tuple[bytes, bytes]]) -> str | None:
    seen = set()
    for name, _ in raw:
        if name in seen and name in ONCE:
            return name.decode("ascii")
        seen.add(name)
    return None


def _plain(text: bytes, slashes: int | None = None) -> bool:
    """UTF-8, and without slashes that were not there before decoding."""
    if slashes is not None and text.count(b"/") != slashes:
        return False
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
