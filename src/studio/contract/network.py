"""How a provider reaches an address: only through the `Network` that it is given.

The house's implementation is `studio.security.egress.Egress`. A provider never resolves a name
itself: it asks for checked addresses, hands its driver the address as a literal, and keeps the
host name for TLS with `TlsContext`.
"""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any, Protocol


class Network(Protocol):
    """The one gate to what is outside of the process: other machines, and local files."""

    files_root: Path | None
    """The folder below which a provider may open local files; None: it may open none."""
    own_files: frozenset[Path]
    """Real paths that belong to the service itself and are never opened, wherever they lie."""
    scratch: Path | None
    """A folder of the service's own for files that live no longer than an operation, made when needed; None: none."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """Addresses of `host` as IP literals, every one of them allowed to be dialled.

        Raises:
            Unreachable: the name does not resolve.
            EgressDenied: an answer lies in a range that is closed here.
        """
        ...

    def permit(self, address: str, port: int) -> None:
        """Judge one final address, for drivers with a socket hook. Raises EgressDenied."""
        ...

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connected non-blocking TCP socket to the first address of `host` that answers.

        Raises:
            Unreachable: nothing answers.
            EgressDenied: see `resolve`.
        """
        ...


class TlsContext(ssl.SSLContext):
    """A client context that keeps the real host name when the driver dials a checked address.

    `server_hostname` is used for SNI and for the certificate's name, whatever the driver passes;
    None leaves that to the driver, so that one context can serve many hosts.
    `handshake_ms` is the time of the last finished handshake, None before.
    """

    server_hostname: str | None = None
    handshake_ms: float | None = None
    _started: float = 0.0

    def wrap_bio(self, incoming: Any, outgoing: Any, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As in `ssl`, under `self.server_hostname`. asyncio calls this for each connection."""
        if self.server_hostname is not None:
            kwargs["server_hostname"] = self.server_hostname
        wrapped = super().wrap_bio(incoming, outgoing, *args[:1], **kwargs)
        self._started = time.perf_counter()
        return wrapped

    def finished(self) -> None:
        """Note that the handshake which `wrap_bio` began has ended."""
        self.handshake_ms = (time.perf_counter() - self._started) * 1000


class _TimedObject(ssl.SSLObject):
    """Tells its context when the handshake ends, so that a connection test can time the TLS stage."""

    def do_handshake(self) -> None:
        super().do_handshake()
        if isinstance(self.context, TlsContext):
            self.context.finished()


def tls_context(
    host: str | None,
    *,
    verify: bool,
    check_hostname: bool,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> TlsContext:
    """A TLS 1.2+ client context. Costs 40 to 50 ms with the system's CAs: call it in a thread.

    Args:
        host: the configured name, for SNI and certificate checks; None for a driver that passes it.
        ca: PEM that replaces the system's CAs.
        cert, key: PEM of a client certificate.

    Raises:
        ssl.SSLError, ValueError: the PEM is not usable.
    """
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslobject_class = _TimedObject
    context.server_hostname = host
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if ca is not None:
        context.load_verify_locations(cadata=ca)
    elif verify:
        context.load_default_certs()
    if cert is not None:
        _load_client_certificate(context, cert, key)
    return context


def _load_client_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """OpenSSL reads key pairs from files only: an anonymous memory file keeps the key off the disk."""
    import os

    handle = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(handle, "\n".join([cert, key or ""]).encode())
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
