"""The HTTP client of the api family: guarded, authenticated, bounded, and patient where that is safe.

    client = HttpClient(config, split_url(config.endpoint), network)
    await client.open(stack)
    answer = await client.fetch(Request("POST", "/graphql", headers={...}, body=b"...", idempotent=True))

Rules that hold for every request: addresses pass the gate (`http_gate`); redirects come back as
answers and are never followed here; `gzip` at most, and decoded bytes are counted (`body.py`); a
request goes out again only if it is idempotent, no answer or one that says "later" came, at most
twice, and inside the deadline; a 401 renews an OAuth token once.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlencode

from studio.contract.network import Network
from studio.contract.probe import Probe
from studio.contract.web import (
    CREDENTIAL_HEADERS,
    RESERVED_HEADERS,
    ApiKeyAuth,
    OAuth2Auth,
    Url,
    WebConfig,
    split_url,
)
from studio.errors import StudioError
from studio.providers._http import gate as http_gate
from studio.providers._http.auth import Credentials, Request, credentials, secrets_of
from studio.providers._http.body import ACCEPTED, Answer, read
from studio.providers._http.errors import refused, retry_after, translate
from studio.providers._http.redact import Redactor

__all__ = ["Answer", "HttpClient", "Request"]

RETRIES = 2
PAUSE_S = 0.1
"""Before the first retry, half to one and a half times this; twice as long before the second."""
_LATER = frozenset({429, 502, 503, 504})
_ERROR_BYTES = 65_536
_LARGE = 1 << 20
_AGENT = "studio-connectors"


class HttpClient:
    """Requests to one origin, with one connector's credentials and limits.

    Args:
        config: headers, auth, TLS and the common limits.
        url: the origin; its path is not used here.
    """

    def __init__(self, config: WebConfig, url: Url, network: Network) -> None:
        self._config = config
        self._url = url
        self._network = network
        self._host = url.origin.partition("://")[2]
        self._headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        self._own = RESERVED_HEADERS | CREDENTIAL_HEADERS | {name.lower() for name in self._headers}
        if isinstance(config.auth, ApiKeyAuth):
            self._own |= {config.auth.name.lower()}
        self.redactor = Redactor(secrets_of(config))
        self._credentials: Credentials = credentials(config, self._post_token, self.redactor)

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the session; nothing connects yet. Raises InvalidConfig."""
        await http_gate.load_driver()
        tls: ssl.SSLContext | None = None
        if self._url.scheme == "https" or self._token_url.scheme == "https":
            tls = await http_gate.trust(self._config)
        self._session = http_gate.guarded_session(self._config, self._network, tls)
        stack.push_async_callback(self._session.close)
        stack.push_async_callback(self._credentials.close)

    async def reach(self, probe: Probe) -> None:
        """The stages of a connection test up to an open connection."""
        await http_gate.reach(self._url, self._config, self._network, probe)

    async def prepare(self) -> None:
        """Get a token, where there is one to get. Raises AuthFailed."""
        await self._credentials.prepare()

    @property
    def own_headers(self) -> frozenset[str]:
        """Lower-case names of the headers that no caller sets."""
        return self._own

    async def fetch(self, request: Request, *, limit: int | None = None) -> Answer:
        """As `send`; an error status and a redirect are raised.

        Raises:
            AuthFailed, RateLimited, UpstreamError: what the answer says.
        """
        answer = await self.send(request, limit=limit)
        if answer.status >= 300 and answer.status != 304:
            raise refused(answer, self.redactor)
        return answer

    async def send(self, request: Request, *, limit: int | None = None) -> Answer:
        """The upstream's answer, whatever its status.

        Args:
            limit: bytes of the decoded body; the connector's `max_bytes` if left out.

        Raises:
            StudioError, or what `translate` knows.
        """
        until = asyncio.get_running_loop().time() + self._config.timeout_s
        limit = self._config.max_bytes if limit is None else limit
        signed = await self._signed(request)
        answer = await self._patient(signed, self._url.origin, limit, until)
        if answer.status == 401 and self._credentials.spoil(signed):
            answer = await self._patient(await self._signed(request), self._url.origin, limit, until)
        return answer

    async def _signed(self, request: Request) -> Request:
        """The request with the connector's headers and credentials, which win over the caller's."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in self._own}
        headers |= self._headers
        query = request.query + self._credentials.query
        signed = Request(request.method, request.path, query, headers, request.body, request.idempotent)
        headers |= await self._credentials.headers(signed, self._host)
        return signed

    async def _patient(self, request: Request, origin: str, limit: int, until: float) -> Answer:
        """Send, and again where that is safe, useful and in time."""
        for retry in range(RETRIES + 1):
            last = retry == RETRIES or not request.idempotent
            pause: float | None = PAUSE_S * 2**retry * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, no secret
            try:
                answer = await self._exchange(request, origin, limit)
            except Exception as exc:
                if last or not _unanswered(exc) or not _in_time(pause, until):
                    raise
            else:
                pause = _asked_pause(answer, pause)
                if last or answer.status not in _LATER or not _in_time(pause, until):
                    return answer
            await asyncio.sleep(pause or 0)
        raise AssertionError("the last try returns or raises")

    async def _exchange(self, request: Request, origin: str, limit: int) -> Answer:
        """One request on the wire."""
        from yarl import URL

        query = urlencode(request.query, quote_via=quote, safe="")
        url = URL(origin + (request.path or "/") + (f"?{query}" if query else ""), encoded=True)
        headers = {"User-Agent": _AGENT, "Accept": "*/*", **_canonical(request.headers), "Accept-Encoding": ACCEPTED}
        # aiohttp wants large bodies as files, which it sends piece by piece.
        data: Any = BytesIO(request.body) if len(request.body) > _LARGE else request.body or None
        async with self._session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as response:
            return await read(response, limit if response.status < 300 else min(limit, _ERROR_BYTES))

    @property
    def _token_url(self) -> Url:
        auth = self._config.auth
        return split_url(auth.token_url) if isinstance(auth, OAuth2Auth) else self._url

    async def _post_token(self, headers: Mapping[str, str], body: bytes, limit: int) -> Answer:
        """A request to the token endpoint: the same gate and limits, none of the connector's own headers."""
        url = self._token_url
        request = Request("POST", url.path, headers=headers, body=body, idempotent=True)
        timeout_s = self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                until = asyncio.get_running_loop().time() + timeout_s
                return await self._patient(request, url.origin, limit, until)
        except Exception as exc:
            error = exc if isinstance(exc, StudioError) else translate(exc)
            if error is None:
                raise
            raise type(error)(f"token endpoint: {error.message}", retry_after_s=error.retry_after_s) from exc


def _canonical(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with our own spelling of those that we also set, so that none is sent twice."""
    return {"Accept" if name.lower() == "accept" else name: value for name, value in headers.items()}


def _unanswered(exc: Exception) -> bool:
    """Whether an open connection ended before the first byte of an answer; refused connects are final."""
    import aiohttp

    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
        return False
    return isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


def _asked_pause(answer: Answer, pause: float | None) -> float | None:
    """The upstream's own wish; without one a 429 is not repeated."""
    asked = retry_after(answer)
    if asked is not None:
        return asked
    return None if answer.status == 429 else pause


def _in_time(pause: float | None, until: float) -> bool:
    return pause is not None and asyncio.get_running_loop().time() + pause < until
