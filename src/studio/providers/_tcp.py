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
    """How far a connect has come: `taken` is set once the other side has accepted the TCP connection."""

    taken = False


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[Dialling]:
    """Bound a connect and what follows it. Raises Unreachable: `SILENT` where it was taken, else `DROPPED`."""
    dialling = Dialling()
    try:
        async with asyncio.timeout(seconds):
            yield dialling
    except TimeoutError:
        raise Unreachable(SILENT if dialling.taken else DROPPED) from None


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
            dialling.taken = True
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

        Args:
            tls_failed: whether this error of `log_in` is one of TLS. If left out, TLS comes first and ends with its
                handshake.
        """
        with probe.stage("resolve"):
            await self.network.resolve(self.host, self.port)
        with probe.stage("connect"):
            async with self.in_time():
                (await self.network.connect(self.host, self.port)).close()
        context = await self.context()  # its CPU time is ours, not the server's
        start = time.perf_counter()
        try:
            connection = await log_in()
        except StudioError as exc:
            name = "tls" if (tls_failed or self._tls_failed)(exc) else "login"
            probe.stages.append(Stage(name, ok=False, ms=(time.perf_counter() - start) * 1000))
            raise
        spent = (time.perf_counter() - start) * 1000
        handshake = context.handshake_ms if context else None
        if handshake is not None:
            probe.stages.append(Stage("tls", ok=True, ms=handshake))
        probe.stages.append(Stage("login", ok=True, ms=spent - (handshake or 0)))
        return connection

    def _tls_failed(self, exc: StudioError) -> bool:
        unfinished = self._context is not None and self._context.handshake_ms is None
        return unfinished or isinstance(exc, TlsFailed)


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
