"""The first stages of a connection test, over several bootstrap servers."""

from __future__ import annotations

import time

from studio.contract import Network, Probe, Stage
from studio.errors import StudioError, Unreachable
from studio.providers._tcp import TlsFailed, within
from studio.providers.kafka.connections import Door


async def reach(probe: Probe, door: Door, network: Network, connect_timeout_s: float) -> None:
    """Resolve every bootstrap server, dial and log in to the first that answers."""
    with probe.stage("resolve"):
        for host, port in door.servers:
            await network.resolve(host, port)
    with probe.stage("connect"):
        await _dial(door, network, connect_timeout_s)
    start = time.perf_counter()
    try:
        (await door.first()).close()
    except StudioError as exc:
        unfinished = door.context is not None and door.context.handshake_ms is None
        name = "tls" if unfinished or isinstance(exc, TlsFailed) else "login"
        probe.stages.append(Stage(name, ok=False, ms=(time.perf_counter() - start) * 1000))
        raise
    spent = (time.perf_counter() - start) * 1000
    handshake = door.context.handshake_ms if door.context else None
    if handshake is not None:
        probe.stages.append(Stage("tls", ok=True, ms=handshake))
    probe.stages.append(Stage("login", ok=True, ms=max(spent - (handshake or 0), 0)))


async def _dial(door: Door, network: Network, connect_timeout_s: float) -> None:
    failure: StudioError | None = None
    for host, port in door.servers:
        try:
            async with within(connect_timeout_s):
                (await network.connect(host, port)).close()
                return
        except Unreachable as exc:
            failure = failure or exc
    assert failure is not None
    raise failure
