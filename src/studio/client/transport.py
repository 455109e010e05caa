"""HTTP to one server under one key: paths and bodies in, JSON or one of our errors out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import aiohttp
import orjson
from yarl import URL

from studio import errors
from studio.errors import FieldError, StudioError

API = "/api/v1"
CONNECT_TIMEOUT_S = 5.0
_TRIES = 3
"""For a connection that broke before its answer, or an answer that is still being made."""
_PAUSE_S = 0.5
TIMEOUT_S = 330.0
"""Above the server's own default ceiling (300 s), so that its answer comes before ours."""


class Transport:
    """One server and one key: paths and bodies in, JSON or a StudioError out."""

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._base = _base_of(url)
        self._headers = {"accept": "application/json", "content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {_header_safe(key.strip())}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self,
        method: str,
        *path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        # `encoded`: the segments are quoted already, and must not be read as `..` on the way.
        url = URL(self._base + API + "".join(map(_segment, path)) + _query(query or {}), encoded=True)
        data = None if body is None else _encode(body)
        sent = dict(headers or {})
        if method != "GET":
            sent["idempotency-key"] = str(uuid4())  # so that a retry after a lost answer does nothing twice
        for left in reversed(range(_TRIES)):
            try:
                return await self._once(method, url, data, sent)
            except (aiohttp.ServerDisconnectedError, ConnectionResetError, errors.InFlight) as exc:
                if not left:
                    raise exc if isinstance(exc, errors.InFlight) else self._unreachable(exc) from exc
                await asyncio.sleep(_PAUSE_S)
            except TimeoutError as exc:
                raise self._late(exc) from exc
            except aiohttp.ClientError as exc:
                raise self._unreachable(exc) from exc
        raise AssertionError("the last try returns or raises")

    async def _once(self, method: str, url: URL, data: bytes | None, headers: Mapping[str, str]) -> Any:
        async with self._opened().request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            content = await response.read()
        return _read(response.status, response.headers, content)

    async def _chunks(self, *path: str, body: Mapping[str, Any], accept: str) -> AsyncGenerator[bytes, None]:
        """The bytes of an answer as they come; the server waits while nobody takes them.

        Raises:
            Unreachable: the answer broke off.
        """
        url = URL(self._base + API + "".join(map(_segment, path)), encoded=True)
        try:
            async with self._opened().request(
                "POST", url, data=_encode(body), headers={"accept": accept}, allow_redirects=False
            ) as response:
                if response.status != 200:
                    _read(response.status, response.headers, await response.read())
                    raise _stranger(response.status)
                async for chunk in response.content.iter_any():
                    yield chunk
        except TimeoutError as exc:
            raise self._late(exc) from exc
        except aiohttp.ClientPayloadError as exc:
            raise errors.Unreachable("the answer broke off before its end") from exc
        except aiohttp.ClientError as exc:
            raise self._unreachable(exc) from exc

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Neither proxies nor .netrc of the environment: the key goes to the named server only.
            self._session = aiohttp.ClientSession(
                trust_env=False,
                headers=self._headers,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _late(self, exc: Exception) -> StudioError:
        if isinstance(exc, aiohttp.ConnectionTimeoutError):
            return self._unreachable(exc)
        return errors.Timeout(f"the server at {self._base} did not answer within {self._timeout.total:g} s")

    def _unreachable(self, exc: Exception) -> StudioError:
        return errors.Unreachable(
            f"no connection to the server at {self._base} ({type(exc).__name__}); check the URL, and that the "
            "server runs (start one with: studio serve)"
        )


def _base_of(url: str) -> str:
    """The address below which the API stands. Raises InvalidRequest."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise errors.InvalidRequest.at("url", "must begin with http:// or https:// and name a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise errors.InvalidRequest.at("url", "must hold neither a user name, a query nor a fragment")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api/v1')}"


def _header_safe(key: str) -> str:
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise errors.InvalidRequest.at("key", "is not an API key")
    return key


def _segment(text: str) -> str:
    """One path segment. An empty one would name the collection above: nothing is called so."""
    if not text:
        raise errors.NotFound("an empty id names nothing")
    return "/" + (quote(text, safe="") if text.strip(".") else text.replace(".", "%2E"))


def _query(values: Mapping[str, Any]) -> str:
    shown = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in values.items()
        if value is not None and value is not False
    }
    return f"?{urlencode(shown)}" if shown else ""


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(body), allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise errors.InvalidRequest.at("body", "holds a value that JSON has no form for; send it as text") from exc


def _read(status: int, headers: Mapping[str, str], content: bytes) -> Any:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = None
    if 200 <= status < 300 and answer is not None:
        return answer
    if isinstance(answer, dict) and "code" in answer:
        raise error_of(status, answer, headers.get("retry-after"))
    raise _stranger(status)


def error_of(status: int, problem: Mapping[str, Any], retry_after: str | None = None) -> StudioError:
    """The error behind a problem document: the class that owns its code."""
    fields = [FieldError(str(one.get("field")), str(one.get("message"))) for one in problem.get("errors") or ()]
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    message = str(problem.get("detail") or problem.get("title") or "no detail was given")
    error = _class_of(status, str(problem["code"]), retryable=problem.get("retryable") is True)(
        message, fields=fields, retry_after_s=seconds
    )
    if request_id := problem.get("request_id"):
        error.add_note(f"request id {request_id}")
    return error


def _class_of(status: int, code: str, *, retryable: bool) -> type[StudioError]:
    if code == errors.Conflict.code and retryable:
        return errors.InFlight
    if code == errors.InvalidRequest.code:  # four classes share it, and HTTP tells them apart
        return {400: errors.BadRequest, 408: errors.TooSlow, 413: errors.TooLarge}.get(status, errors.InvalidRequest)
    if code == errors.Internal.code and status == 503:
        return errors.StoreAway
    return errors.codes().get(code, errors.Internal)


def _stranger(status: int) -> StudioError:
    """An answer that no Studio server gives: a proxy's, or another program's."""
    if status in {502, 503, 504}:
        return errors.Unreachable(f"a gateway before the server answered {status}; try again shortly")
    if 300 <= status < 400:
        return errors.UpstreamError(f"the server answered {status}, a redirect; give the URL that it leads to")
    return errors.UpstreamError(f"the answer ({status}) is not this API's; check that the URL is a Studio server's")
