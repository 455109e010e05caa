"""HTTP for the storage providers: one aiohttp session whose every connect goes through the gate.

Names are resolved by the `Network`, and the address that is really dialled is judged once more where
its socket is made, so that neither an IP literal nor an answer of another resolver passes by.
Redirects are never followed: each storage service says "307, over there" to whoever asks.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections import OrderedDict
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from studio.contract import Network, Probe, Stage
from studio.contract.bounds import MAX_LISTED, too_many
from studio.contract.network import TlsContext, tls_context
from studio.contract.web import Url
from studio.errors import InvalidConfig, StudioError, Unreachable, UpstreamError
from studio.providers._objects.parts import TooSlow

_MAX_CONTEXTS = 64
MAX_ANSWER = 6 * 1024 * 1024
"""Bytes of a list or an error. A page of 1,000 keys takes about 1 MiB, of the longest ones 4."""
_BLANK = b"\xef\xbb\xbf \t\r\n"
_FOUR_BYTES = re.compile(rb"[\xf0-\xf4]")
"""Where UTF-8 has a character beyond U+FFFF; one makes all of a text four bytes wide (PEP 393)."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")
_contexts: OrderedDict[str | None, TlsContext] = OrderedDict()


async def trusting(ca: str | None) -> TlsContext:
    """The client context for a CA in PEM (None: this system's). Kept: making one costs up to 50 ms.

    Raises:
        InvalidConfig: the PEM is not usable.
    """
    if ca not in _contexts:
        try:
            made = await asyncio.to_thread(tls_context, None, verify=True, check_hostname=True, ca=ca)
        except (ssl.SSLError, ValueError):
            raise InvalidConfig.at("config.ssl_ca", "is not a usable certificate") from None
        _contexts[ca] = made
        while len(_contexts) > _MAX_CONTEXTS:
            _contexts.popitem(last=False)
    _contexts.move_to_end(ca)
    return _contexts[ca]


class _Resolver(AbstractResolver):
    """Asks the network, which judges every answer."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._network.resolve(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Gate:
    """Makes the sockets, after the network has judged the address."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, info: Any) -> socket.socket:
        """A socket for one entry of `getaddrinfo`. Raises EgressDenied."""
        family, kind, proto, _, address = info
        self._network.permit(str(address[0]), int(address[1]))
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made


class Bounded(aiohttp.ClientResponse):
    """An answer that is read as a whole only within bounds, before any parser of a driver sees it.

    None that the services give is larger, and none has a DOCTYPE, whose entities a driver would resolve.
    """

    most = MAX_ANSWER

    async def read(self) -> bytes:
        """The body; empty where an error comes as a web page. Raises UpstreamError."""
        if self._body is None:
            try:
                self._body = self._judged(await self._bounded())
            except BaseException:
                self.close()
                raise
            self.release()
        return self._body

    async def _bounded(self) -> bytes:
        body = bytearray()
        async for chunk in self.content.iter_any():
            body += chunk
            if len(body) > self.most:
                raise UpstreamError("the server's answer is larger than any that this call has; ask for fewer rows")
        return bytes(body)

    def _judged(self, body: bytes) -> bytes:
        if body.startswith(_UTF_16) or (b"<!DOCTYPE" in body and not body.lstrip(_BLANK).startswith((b"{", b"["))):
            if self.status >= 300:
                return b""
            raise UpstreamError("the server's answer has a DOCTYPE or is in UTF-16, which is never read")
        if too_many(body, MAX_LISTED):
            raise UpstreamError("the server's answer has more values than any of this call; ask for fewer rows")
        return body


class TooMuch(UpstreamError):
    """More than is read of one answer."""


class BoundedMessages(Bounded):
    """The same for answers that carry messages of 1 MiB, and for the text they become: up to 4 bytes a character."""

    most = 4 * 1024 * 1024
    most_decoded = 8 * 1024 * 1024

    async def _bounded(self) -> bytes:
        try:
            body = await super()._bounded()
        except UpstreamError:
            raise _too_much() from None
        width = 1 if body.isascii() else 4 if _FOUR_BYTES.search(body) else 2
        if width * len(body) > self.most_decoded:
            raise _too_much()
        return body


def _too_much() -> TooMuch:
    return TooMuch("the server's answer is larger than is read at once; ask for fewer messages")


async def session(
    stack: AsyncExitStack,
    network: Network,
    *,
    connections: int,
    connect_s: float,
    read_s: float,
    ca: str | None,
    answers: type[Bounded] = Bounded,
) -> aiohttp.ClientSession:
    """A session of at most `connections` sockets; closed with `stack`. It connects on first use.

    No proxy, cookie or credential of the environment is used, and no answer is unpacked.
    """
    connector = aiohttp.TCPConnector(
        limit=connections,
        ssl=await trusting(ca),
        resolver=_Resolver(network),
        socket_factory=Gate(network),
        use_dns_cache=False,
        keepalive_timeout=15,
    )
    opened = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=read_s),
        trust_env=False,
        response_class=answers,
        auto_decompress=False,
        skip_auto_headers={"Content-Type", "User-Agent"},
    )
    stack.push_async_callback(opened.close)
    return opened


async def reach(probe: Probe, network: Network, url: Url, *, connect_s: float, ca: str | None) -> None:
    """The stages resolve, connect and, for https, tls."""
    with probe.stage("resolve"):
        await network.resolve(url.host, url.port)
    context = await trusting(ca) if url.scheme == "https" else None  # its CPU time is ours, not the server's
    with probe.stage("connect"):
        sock = await _connected(network, url, connect_s)
    if context is None:
        sock.close()
        return
    start = time.perf_counter()
    try:
        async with asyncio.timeout(connect_s):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, sock=sock, ssl=context, server_hostname=url.host
            )
        transport.abort()
        ok = True
    except Exception as exc:
        ok = False
        raise tls_error(exc) from exc
    finally:
        sock.close()
        probe.stages.append(Stage("tls", ok=ok, ms=(time.perf_counter() - start) * 1000))


async def _connected(network: Network, url: Url, connect_s: float) -> socket.socket:
    try:
        async with asyncio.timeout(connect_s):
            return await network.connect(url.host, url.port)
    except TimeoutError:
        raise TooSlow from None


def tls_error(exc: BaseException) -> Unreachable:
    """A failed handshake in words; never a byte of what the other side sent."""
    found: BaseException | None = exc
    while found is not None and not isinstance(found, ssl.CertificateError):
        found = found.__cause__ or found.__context__
    if found is not None:
        return Unreachable(
            "the server's certificate is not trusted here: give its CA as ssl_ca, or check the host name"
        )
    return Unreachable("TLS could not be agreed on: does the server speak TLS on that port?")


def transport_error(exc: BaseException) -> StudioError | None:
    """A failure below HTTP as one of ours; None for anything else. Wrapped ones are found."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [exc]
    chain: list[BaseException] = []
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        chain.append(one)
        inner = getattr(one, "kwargs", {}).get("error") if isinstance(getattr(one, "kwargs", None), dict) else None
        more = list(one.exceptions) if isinstance(one, BaseExceptionGroup) else []
        todo += [one.__cause__, one.__context__, inner if isinstance(inner, BaseException) else None, *more]
    for one in chain:
        if isinstance(one, StudioError):
            return one
    return next(filter(None, map(_known, chain)), None)


def _known(exc: BaseException) -> StudioError | None:
    if isinstance(exc, aiohttp.ClientSSLError | ssl.SSLError):
        return tls_error(exc)
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return TooSlow()
    if isinstance(exc, ConnectionRefusedError):
        return Unreachable(
            "the host refused the connection: nothing listens on that port, or a firewall answers for it"
        )
    if isinstance(exc, aiohttp.ClientConnectorError):
        return Unreachable("the host cannot be reached; check host, port and the network between")
    if isinstance(exc, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | ConnectionError):
        return Unreachable("the server closed the connection before its answer was complete")
    if isinstance(exc, aiohttp.ClientError):
        return Unreachable("the other side does not answer as an HTTP server does")
    return None
