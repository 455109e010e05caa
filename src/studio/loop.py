"""The event loop under which the service is served: uvloop's, with a word before each connect.

uvloop dials in C, so that Python raises no audit event for it, and the second belt of the egress gate
(`security/belt.py`) would see nothing. Here the loop itself raises `socket.connect`, for final
addresses, before it dials; whatever refuses the event refuses the connect. Where uvloop is not
installed, asyncio's own loop serves, which raises the event by itself.

Source: https://docs.python.org/3/library/audit_events.html
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

try:
    import uvloop
except ModuleNotFoundError:  # it has no build for this platform
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.DefaultEventLoopPolicy().new_event_loop
else:

    class Loop(uvloop.Loop):
        """uvloop's loop. Of its three ways to dial, each says where to first."""

        async def create_connection(
            self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
        ) -> Any:
            """See `asyncio.loop.create_connection`. Names are resolved before, and each address is one attempt."""
            if options.get("sock") is not None:
                return await super().create_connection(protocol_factory, host, port, **options)
            if options.get("ssl") and options.get("server_hostname") is None:
                options["server_hostname"] = host
            failure: OSError = OSError(f"no address for port {port}")
            for address in await self._addresses(host, port):
                _say(address)
                try:
                    return await super().create_connection(protocol_factory, *address[:2], **options)
                except OSError as exc:
                    failure = exc
            raise failure

        async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **options: Any) -> Any:
            """See `asyncio.loop.create_unix_connection`."""
            if options.get("sock") is None:
                _say(path)
            return await super().create_unix_connection(protocol_factory, path, **options)

        async def create_datagram_endpoint(
            self, protocol_factory: Any, local_addr: Any = None, remote_addr: Any = None, **options: Any
        ) -> Any:
            """See `asyncio.loop.create_datagram_endpoint`; names are refused by the belt as they are."""
            if remote_addr is not None:
                _say(remote_addr)
            return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr, **options)

        async def _addresses(self, host: Any, port: Any) -> list[Any]:
            found = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(answer[4] for answer in found))

    def _say(address: Any) -> None:
        sys.audit("socket.connect", None, address)

    new_loop = Loop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, on this loop."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
