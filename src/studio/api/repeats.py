"""`Idempotency-Key` on mutations: the stored answer for a request that is sent again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from studio.api import streams
from studio.api.auth import CALLER, Door
from studio.api.problems import Refused, problem, refusal
from studio.api.wire import ClientGone, Receive, Scope, Send, send_answer
from studio.errors import AuthFailed, EgressDenied, InvalidRequest, PoolBusy, RateLimited, as_studio
from studio.services.connector_service import ConnectorService
from studio.services.repeats import HEADER, Answer, Repeatable

App = Callable[[Scope, Receive, Send], Awaitable[None]]
NAME = b"idempotency-key"
_REPLAYED = "idempotency-replayed"
_METHODS = frozenset({"POST", "PUT", "DELETE"})
_KEPT_HEADERS = frozenset({"content-type", "etag"})
_NOT_SENT = (PoolBusy, EgressDenied, AuthFailed, RateLimited)
"""Errors before anything reached the upstream: the same key may try again."""


def asked(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is a mutation that may be sent again."""
    return NAME in headers and scope["method"] in _METHODS


async def request_of(caller: ConnectorService, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Repeatable:
    """The request under its key: everything that makes it this one and no other. Raises InvalidRequest."""
    path = scope.get("raw_path") or scope["path"].encode()
    parts = (scope["method"].encode(), path, scope["query_string"], headers.get(b"if-match", b""), body)
    text = b"".join(str(len(part)).encode() + b":" + part for part in parts)
    return await caller.repeatable(headers[NAME].decode("latin-1").strip(), text)


def require_json(headers: Mapping[bytes, bytes]) -> None:
    """Raises InvalidRequest for a mutation whose answer is a stream: it could not be given again."""
    if streams.asked(headers.get(b"accept", b"").decode("latin-1")) is not None:
        raise InvalidRequest.at(HEADER, "is taken where the answer is JSON; leave out Accept, or the key")


async def replay(send: Send, kept: Answer) -> None:
    """Answer as the first time."""
    await send_answer(send, kept.status, {**kept.headers, _REPLAYED: "true"}, kept.body)


async def once(request: Repeatable, run: Callable[[], Awaitable[bytes]], send: Send) -> None:
    """Run an operation that changes something, or answer as the first time.

    It is carried to its end though the client goes away: who sends a key means to ask again.
    """
    kept = await request.reserve()
    if kept is not None:
        return await replay(send, kept)
    try:
        answer = Answer(200, {"content-type": "application/json"}, await run())
    except _NOT_SENT:
        await request.release()
        raise
    except Exception as exc:
        answer = Answer(*problem(as_studio(exc)))
    await request.keep(answer)
    await send_answer(send, answer.status, answer.headers, answer.body)
    return None


class Repeats:
    """A layer around the management routes: the key is stored in the transaction of the change itself."""

    def __init__(self, application: App, door: Door) -> None:
        self._application, self._door = application, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        if not asked(scope, headers):
            await self._application(scope, receive, send)
            return
        try:
            caller = scope[CALLER] = await self._door.caller(scope, headers)
            body = await self._door.raw_body(receive)
            request = await request_of(caller, scope, headers, body)
            kept = await request.recall()
            if kept is not None:
                await replay(send, kept)
                return
            status, found, content = await self._captured(request, scope, body)
            if 200 <= status < 300:
                shown = {name: value for name, value in found.items() if name in _KEPT_HEADERS}
                await request.keep(Answer(status, shown, content))
            await send_answer(send, status, found, content)
        except ClientGone:
            return
        except Refused as exc:
            await send_answer(send, *refusal(exc))
        except Exception as exc:
            await send_answer(send, *problem(as_studio(exc)))

    async def _captured(self, request: Repeatable, scope: Scope, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer of the routes, whole."""
        status, headers, parts = 0, {}, list[bytes]()

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            else:
                parts.append(message.get("body", b""))

        with request.within():
            await self._application(scope, receive, send)
        headers.pop("content-length", None)
        return status, headers, b"".join(parts)
