"""Connections of the api family: every address is judged, and TLS contexts are made once, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from studio.contract.network import Network, tls_context
from studio.contract.probe import Probe
from studio.contract.web import Url, WebConfig
from studio.errors import EgressDenied, Unreachable
from studio.providers._http.errors import bad_ca
from studio.providers._tcp import SILENT

if TYPE_CHECKING:
    from aiohttp import ClientSession

_DROPPED = (
    "the host did not answer within connect_timeout_s: a firewall may drop the packets, "
    "or the address or the name server is wrong"
)
KEEP_S = 30.0
"""How long an unused connection stays open."""


@lru_cache(maxsize=64)
def _context(verify: bool, ca: str | None) -> ssl.SSLContext:
    """One context a trust setting for the whole process: the system's CAs take 45 ms and 1 MiB to load."""
    return tls_context(None, verify=verify, check_hostname=verify, ca=ca)


async def load_driver() -> None:
    """Import aiohttp in a thread: it takes a third of a second, once."""
    await asyncio.to_thread(import_module, "aiohttp")


async def trust(config: WebConfig) -> ssl.SSLContext:
    """The TLS context of a connector. Raises InvalidConfig."""
    try:
        return await asyncio.to_thread(_context, config.ssl_verify, config.ssl_ca)
    except (ssl.SSLError, ValueError) as exc:
        raise bad_ca(exc) from exc


def guarded_session(config: WebConfig, network: Network, tls: ssl.SSLContext | None) -> ClientSession:
    """An aiohttp session that reaches only what `network` permits, and keeps nothing between requests.

    The resolver hook judges names, and the socket hook every final address: aiohttp resolves no IP
    literals. No cookies, no proxies or netrc from the environment, no retries of its own.
    """
    import aiohttp
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            async with _bounded(config):
                addresses = await network.resolve(host, port)
            return [_resolved(host, port, address) for address in addresses]

        async def close(self) -> None:
            """Nothing to close."""

    def checked_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        try:
            network.permit(str(address[0]), int(address[1]))
        except ValueError:
            raise EgressDenied("the address is not written as a plain IP address, so it cannot be judged") from None
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        limit=config.pool_size, keepalive_timeout=KEEP_S, use_dns_cache=False, resolver=Resolver(),
        socket_factory=checked_socket, ssl=tls if tls is not None else True,
    )  # fmt: skip
    session = aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
        skip_auto_headers=["Content-Type", "User-Agent", "Accept", "Accept-Encoding"],
    )  # fmt: skip
    # aiohttp repeats an idempotent request on a stale connection by itself; ours are counted in one place.
    session._retry_connection = False
    return session


def _resolved(host: str, port: int, address: str) -> dict[str, Any]:
    return {
        "hostname": host,
        "host": address,
        "port": port,
        "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
        "proto": socket.IPPROTO_TCP,
        "flags": socket.AI_NUMERICHOST,
    }


@asynccontextmanager
async def _bounded(config: WebConfig, late: str = _DROPPED) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(config.connect_timeout_s):
            yield
    except TimeoutError as exc:
        raise Unreachable(late) from exc


async def reach(url: Url, config: WebConfig, network: Network, probe: Probe) -> None:
    """The stages resolve, connect and (for https) tls, on a connection of their own."""
    with probe.stage("resolve"):
        async with _bounded(config):
            await network.resolve(url.host, url.port)
    with probe.stage("connect"):
        async with _bounded(config):
            sock = await network.connect(url.host, url.port)
    with contextlib.closing(sock):
        if url.scheme == "https":
            with probe.stage("tls"):
                async with _bounded(config, SILENT):
                    await _shake_hands(sock, url, await trust(config))


async def _shake_hands(sock: socket.socket, url: Url, tls: ssl.SSLContext) -> None:
    _, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=url.host)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
