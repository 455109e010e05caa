"""A connection test makes one connection, the one that logs in, and says by it how far it came."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from studio.contract import Probe
from studio.contract.network import TlsContext
from studio.errors import AuthFailed, StudioError, Unreachable
from studio.providers._tcp import SILENT, Tcp
from studio.security.egress import Egress


class Counting(Egress):
    """Counts the sockets that were asked for."""

    dialled = 0

    async def connect(self, host: str, port: int) -> socket.socket:
        self.dialled += 1
        return await super().connect(host, port)


@pytest.fixture
def network() -> Any:
    gate = Counting(private_open=True)
    yield gate
    gate.close()


async def _reached(network: Counting, port: int, *, refuses: bool = False, waits_s: float = 0.0) -> tuple[Probe, Any]:
    tcp, probe = Tcp(network, "127.0.0.1", port, connect_timeout_s=0.3, tls=False, ca=None), Probe()

    async def log_in(sock: socket.socket, _: TlsContext | None) -> None:
        sock.close()
        await asyncio.sleep(waits_s)
        if refuses:
            raise AuthFailed("no")

    try:
        await tcp.reach(probe, lambda: tcp.open(log_in))
    except StudioError as exc:
        return probe, exc
    return probe, None


def _stages(probe: Probe) -> list[tuple[str, bool]]:
    return [(stage.name, stage.ok) for stage in probe.stages]


async def test_a_test_makes_one_connection_and_each_stage_blames_its_own(network: Counting) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        probe, error = await _reached(network, port)
        assert (error, network.dialled) == (None, 1)
        assert _stages(probe) == [("resolve", True), ("connect", True), ("login", True)]
        assert all(stage.ms >= 0 for stage in probe.stages)

        probe, error = await _reached(network, port, refuses=True)
        assert (type(error), network.dialled) == (AuthFailed, 2)
        assert _stages(probe) == [("resolve", True), ("connect", True), ("login", False)]

        probe, error = await _reached(network, port, waits_s=5)
        assert (error.message, network.dialled) == (SILENT, 3)
        assert _stages(probe) == [("resolve", True), ("connect", True), ("login", False)]
    probe, error = await _reached(network, port)
    assert (type(error), network.dialled) == (Unreachable, 4)
    assert _stages(probe) == [("resolve", True), ("connect", False)]


async def test_an_address_in_its_plain_form_is_not_looked_up_and_is_judged_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    gate = Egress(private_open=True)
    try:
        assert await gate.resolve("127.0.0.1", 80) == ["127.0.0.1"]
        with pytest.raises(StudioError):
            await gate.resolve("169.254.169.254", 80)
        assert asked == []
        for odd in ("127.1", "0x7f.1", "0177.0.0.1", "2130706433", "127.0.0.1.", "db1"):
            assert await gate.resolve(odd, 80) == ["127.0.0.1"]
            assert asked.pop() == odd
    finally:
        gate.close()
