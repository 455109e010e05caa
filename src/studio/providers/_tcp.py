"""How a provider of one host and port reaches it: checked addresses, TLS under the host's name, test stages.

Shared by the providers whose protocols run on one TCP connection that we open ourselves.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import TypeVar

from studio.contract import Network, Probe, Stage
from studio.contract.network import TlsContext, tls_context
from studio.errors import InvalidConfig, StudioError, Unreachable

Connection = TypeVar("Connection")

_TRUST = {
    10: "the server's certificate has expired",
    18: "the server's certificate is self-signed and not in {ca}",
    19: "the server's certificate comes from a CA that is neither in {ca} nor known to this system",
    20: "the server's certificate comes from a CA that is neither in {ca} nor known to this system",
    62: "the server's certificate is for another host name",
    64: "the server's certificate is for another IP address",
}
"""OpenSSL's X509_V_ERR_* in words."""


DROPPED = (
    "the host did not take the connection within connect_timeout_s: a firewall may drop the packets, "
    "or the address is wrong"
)
SILENT = (
    "the connection was taken, but nothing was said within connect_timeout_s: another kind of server listens on "
    "that port, or this one hangs"
)


class Dialling:
    """How far a connect has come: `took_ms` is set once the other side has accepted the TCP connection."""

    took_ms: float | None = None

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def taken(self) -> None:
        """The other side has accepted; the first time counts."""
        if self.took_ms is None:
            self.took_ms = (time.perf_counter() - self._start) * 1000


_watched: ContextVar[Dialling | None] = ContextVar("watched", default=None)
"""Where a connection test looks how far the log-in came that it has asked for."""


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[Dialling]:
    """Bound a connect and what follows it. Raises Unreachable: `SILENT` where it was taken, else `DROPPED`."""
    dialling = _watched.get() or Dialling()
    try:
        async with asyncio.timeout(seconds):
            yield dialling
    except TimeoutError:
        raise Unreachable(DROPPED if dialling.took_ms is None else SILENT) from None


class TlsFailed(Unreachable):
    """The TCP connection stands, but no TLS session came of it."""


class Tcp:
    """One configured endpoint.

    Args:
        connect_timeout_s: bound on one connection, from the look-up of the name to the log-in.
        tls: whether to speak TLS; the certificate and the host name in it are always checked then.
        ca: PEM that replaces the system's CAs.
    """

    def __init__(
        self, network: Network, host: str, port: int, *, connect_timeout_s: float, tls: bool, ca: str | None
    ) -> None:
        self.network, self.host, self.port = network, host, port
        self.connect_timeout_s = connect_timeout_s
        self._tls, self._ca = tls, ca
        self._context: TlsContext | None = None
        self._lock = asyncio.Lock()

    async def context(self) -> TlsContext | None:
        """The endpoint's TLS context, made once and in a thread: it costs up to 50 ms. None without TLS."""
        if not self._tls or self._context is not None:
            return self._context
        async with self._lock:
            if self._context is None:
                self._context = await asyncio.to_thread(self._new_context)
        return self._context

    def _new_context(self) -> TlsContext:
        try:
            return tls_context(self.host, verify=True, check_hostname=True, ca=self._ca)
        except (ssl.SSLError, ValueError):
            raise InvalidConfig.at("config.tls_ca", "is not a usable PEM") from None

    def in_time(self) -> AbstractAsyncContextManager[Dialling]:
        """Bound what is done inside by `connect_timeout_s`. See `within`."""
        return within(self.connect_timeout_s)

    async def open(
        self,
        log_in: Callable[[socket.socket, TlsContext | None], Awaitable[Connection]],
        address: str | None = None,
    ) -> Connection:
        """Dial a checked address and hand the socket over to `log_in`, all within `connect_timeout_s`.

        Args:
            address: one address of the host, if it must be that one.

        Raises:
            Unreachable: nothing answers, or not in time.
            TlsFailed: see `tls_failure`.
            EgressDenied: the address may not be dialled.
            StudioError: what `log_in` raises.
        """
        async with self.in_time() as dialling:
            context = await self.context()
            sock = await self.network.connect(address or self.host, self.port)
            dialling.taken()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return await log_in(sock, context)

    async def reach(
        self,
        probe: Probe,
        log_in: Callable[[], Awaitable[Connection]],
        *,
        tls_failed: Callable[[StudioError], bool] | None = None,
    ) -> Connection:
        """The stages of a connection test: resolve, connect (TCP only), tls, login.

        It is one connection, the one that logs in, and says by itself how far it came: another one
        only to see whether the port is open would make many a server start a process for nothing.

        Args:
            tls_failed: whether this error of `log_in` is one of TLS. If left out, TLS comes first and ends with its
                handshake.
        """
        with probe.stage("resolve"):
            await self.network.resolve(self.host, self.port)
        context = await self.context()  # its CPU time is ours, not the server's
        return await staged(probe, log_in, context, tls_failed or self._tls_failed)

    def _tls_failed(self, exc: StudioError) -> bool:
        unfinished = self._context is not None and self._context.handshake_ms is None
        return unfinished or isinstance(exc, TlsFailed)


async def staged(
    probe: Probe,
    log_in: Callable[[], Awaitable[Connection]],
    context: TlsContext | None,
    tls_failed: Callable[[StudioError], bool],
) -> Connection:
    """The stages connect, tls and login of one log-in, whose dials are bounded by `within`; how it failed, too."""
    watched, start = Dialling(), time.perf_counter()
    before = _watched.set(watched)
    failed: str | None = "login"
    try:
        connection = await log_in()
        failed = None
    except StudioError as exc:
        failed = "tls" if tls_failed(exc) else failed
        raise
    finally:
        _watched.reset(before)
        spent, took = (time.perf_counter() - start) * 1000, watched.took_ms
        probe.stages.append(Stage("connect", ok=took is not None, ms=spent if took is None else took))
        handshake = context.handshake_ms if context else None
        left = spent - (took or 0)
        if failed is None and handshake is not None:
            probe.stages.append(Stage("tls", ok=True, ms=handshake))
            left -= handshake
        if took is not None:
            probe.stages.append(Stage(failed or "login", ok=failed is None, ms=max(left, 0)))
    return connection


def tls_failure(exc: OSError) -> TlsFailed:
    """A handshake that failed, without a byte of what the other side sent."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return TlsFailed(_untrusted(exc, "tls_ca"))
    if isinstance(exc, ssl.SSLError):
        return TlsFailed("TLS failed: the two sides found no common ground; does the server speak TLS on that port?")
    return TlsFailed("TLS failed: the other side closed the connection; does the server speak TLS on that port?")


def upgrade_failure(exc: BaseException | None) -> Unreachable:
    """The same where TLS begins after the server has offered it, with the fields `ssl`; None: it did not offer it."""
    if exc is None:
        return Unreachable(
            "the server does not offer TLS; check that it is the right port, and turn TLS on there, or set ssl to "
            "false to send everything in clear text"
        )
    if isinstance(exc, ssl.SSLCertVerificationError):
        return Unreachable(_untrusted(exc, "ssl_ca"))
    return Unreachable("TLS failed: the two sides found no common ground; check the certificates and versions")


def _untrusted(exc: ssl.SSLCertVerificationError, ca: str) -> str:
    return "TLS failed: " + _TRUST.get(exc.verify_code, "the server's certificate is not trusted").format(ca=ca)
