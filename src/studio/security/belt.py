"""The second belt of the egress gate: every connect of this process, whichever library makes it.

Drivers dial through `Egress`. Should one ever open a socket behind its back, Python's own audit event
`socket.connect` tells of it before the first packet, and the same table judges it. Measured: 0.4 µs an event,
and a served operation raises few. Only the program fastens it: an audit
hook cannot be taken off again.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from studio.errors import EgressDenied
from studio.security.egress import VOUCHED, Egress


def fasten(gate: Egress, own: Iterable[tuple[str, int]], *, own_sockets: bool = False) -> None:
    """Judge every later connect of this process by the gate's table.

    Args:
        own: endpoints that the operator's settings name (the store …): the service itself dials these.
            Providers do not: for them the gate closes the store.
        own_sockets: whether the service itself may use Unix sockets.
    """
    endpoints = frozenset(own)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            judge(gate, endpoints, arguments[1], own_sockets=own_sockets)

    sys.addaudithook(hook)


def judge(gate: Egress, own: frozenset[tuple[str, int]], address: Any, *, own_sockets: bool = False) -> None:
    """Raises EgressDenied for an address that the table closes and no setting names."""
    if not isinstance(address, tuple):
        if not own_sockets:
            raise EgressDenied("a Unix socket is never dialled")
        return
    host, port = address[:2]
    try:
        ipaddress.ip_address(host.split("%")[0])
    except (ValueError, AttributeError):
        raise EgressDenied("a name reached the socket unresolved: nobody has judged where it leads") from None
    try:
        gate.permit(host, port)
    except EgressDenied:
        if (host, port) not in VOUCHED and not _is_own(own, host, port):
            raise


def _is_own(own: frozenset[tuple[str, int]], host: str, port: int) -> bool:
    """Whether a setting's name leads there now. Asked only for what the table closes, so look-ups are rare."""
    for name, number in own:
        with suppress(OSError):
            if number == port and host in {
                str(a[4][0]) for a in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            }:
                return True
    return False
