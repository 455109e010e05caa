"""The one gate: every spelling of every closed address is refused, wherever it comes from."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.errors import EgressDenied, Unreachable
from studio.security.egress import Egress, Rule

NEVER = [
    # attack 8: unspecified
    "0.0.0.0", "0.1.2.3", "::",
    # attack 1: metadata and link-local
    "169.254.169.254", "169.254.0.1", "169.254.170.2", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fd20:ce::254",
    # attack 5: cloud platform services
    "168.63.129.16", "100.100.100.200", "192.0.0.192",
    # multicast, broadcast, reserved
    "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "ff02::1", "100::1", "64:ff9b:1::1",
    # attack 6: the same inside of IPv6
    "::ffff:169.254.169.254", "::169.254.169.254", "::ffff:0:169.254.169.254", "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1", "2002:a83f:8110::", "::ffff:168.63.129.16", "::ffff:0.0.0.0", "64:ff9b::0.0.0.0",
    "::ffff:224.0.0.1", "2001:0:4136:e378:8000:63bf:5601:5601",
]  # fmt: skip
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "::1",
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fd12:3456::1", "fec0::1",
    "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "2001:db8::1", "3fff::1",
    "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::127.0.0.1",
    "2002:7f00:1::", "2002:0a00:0001::1", "::ffff:10.0.0.1", "::ffff:a00:1", "::10.0.0.1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "11.0.0.1", "192.167.255.255", "192.169.0.1", "100.63.255.255",
    "100.128.0.1", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.1", "168.63.129.17", "223.255.255.255",
    "2606:4700::1111", "2a00::1", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1",
]  # fmt: skip
SPELLINGS = ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "0", "localhost", "127.0.1"]


def gate(*, private_open: bool = False, **more: Any) -> Egress:
    return Egress(private_open=private_open, **more)


def open_(found: Egress, address: str, port: int = 80) -> bool:
    try:
        found.permit(address, port)
    except EgressDenied:
        return False
    return True


# -- the table (attacks 1 to 8) -----------------------------------------------------------------


@pytest.mark.parametrize("address", NEVER)
def test_what_is_never_dialled_stays_shut_with_private_ranges_open_and_everything_allowed(address: str) -> None:
    assert not open_(gate(), address)
    assert not open_(gate(private_open=True), address)
    assert not open_(gate(private_open=True, allow=["0.0.0.0/0", "::/0"]), address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ranges_are_shut_until_somebody_opens_them(address: str) -> None:
    assert not open_(gate(), address)
    assert open_(gate(private_open=True), address)
    assert open_(gate(allow=["0.0.0.0/0", "::/0"]), address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_and_the_neighbours_of_closed_ranges_are_open(address: str) -> None:
    assert open_(gate(), address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_every_ipv6_dress(address: ipaddress.IPv4Address) -> None:
    low = int(address)
    dresses = [
        ipaddress.IPv6Address(0xFFFF00000000 | low),
        ipaddress.IPv6Address(0xFFFF000000000000 | low),
        ipaddress.IPv6Address((0x64FF9B << 96) | low),
        ipaddress.IPv6Address((0x2002 << 112) | (low << 80) | 1),
        ipaddress.IPv6Address((0x20010000 << 96) | (low ^ 0xFFFFFFFF)),
    ]
    for found in (gate(), gate(private_open=True)):
        plain = open_(found, str(address))
        assert [open_(found, str(dress)) for dress in dresses] == [plain] * len(dresses)


def test_the_refusal_names_the_range_and_the_setting_and_not_the_address() -> None:
    with pytest.raises(EgressDenied, match=r"10\.0\.0\.0/8 \(private\).*STUDIO_EGRESS_ALLOW=<CIDR>:5432") as caught:
        gate().permit("10.1.2.3", 5432)
    assert "10.1.2.3" not in str(caught.value)
    with pytest.raises(EgressDenied, match=r"169\.254\.0\.0/16.*never dialled"):
        gate().permit("169.254.169.254", 80)


# -- what the operator says (attack 3) ----------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "address", "port", "held"),
    [
        ("10.1.0.0/16", "10.1.2.3", 1, True),
        ("10.1.0.0/16", "10.2.0.1", 1, False),
        ("10.1.0.0/16:5432", "10.1.2.3", 5432, True),
        ("10.1.0.0/16:5432", "10.1.2.3", 5433, False),
        ("10.1.2.3", "10.1.2.3", 1, True),
        ("10.1.2.3", "10.1.2.4", 1, False),
        ("10.1.2.3:80", "10.1.2.3", 80, True),
        ("10.1.2.3/16", "10.1.9.9", 1, True),
        ("fd00::/8", "fd12::1", 1, True),
        ("[fd00::/8]:80", "fd12::1", 80, True),
        ("[fd00::/8]:80", "fd12::1", 81, False),
        ("[fd00::/8]", "fd12::1", 81, True),
        ("10.1.0.0/16", "::ffff:10.1.2.3", 1, True),
        ("10.1.0.0/16", "::ffff:10.2.0.1", 1, False),
    ],
)
def test_an_allowed_range_opens_itself_and_not_its_neighbour(rule: str, address: str, port: int, held: bool) -> None:
    assert open_(gate(allow=[rule]), address, port) is held


@pytest.mark.parametrize("rule", ["8.8.0.0/16", "8.8.8.8", "8.8.8.8:53", "0.0.0.0/0"])
def test_a_denied_range_is_shut_and_wins_over_an_allowed_one(rule: str) -> None:
    assert open_(gate(), "8.8.8.8", 53)
    assert not open_(gate(private_open=True, allow=["8.8.8.8:53"], deny=[rule]), "8.8.8.8", 53)
    assert not open_(gate(deny=[rule]), "::ffff:8.8.8.8", 53)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "10.0.0.0/33",
        "10.0.0.0/8:x",
        "10.0.0.0/8:",
        "[::1",
        "[::1]x",
        "10.0.0.0/8:0",
        "10.0.0.0/8:65536",
        "db:5432",
        "::/129",
    ],
)
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Rule.parse(text)


# -- our own endpoints (attack 2) ---------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", ""])
@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1"])
def test_our_own_endpoint_is_shut_even_where_loopback_is_open(host: str, address: str) -> None:
    found = gate(private_open=True, allow=["127.0.0.0/8"])
    found.reserve(host, 8400)
    assert not open_(found, address, 8400)
    assert open_(found, address, 8401)


def test_a_store_whose_name_does_not_resolve_does_not_stop_the_start() -> None:
    gate().reserve("no-such-host.invalid", 5432)


# -- names --------------------------------------------------------------------------------------


@pytest.fixture
def flip(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """A resolver that gives the next answer each time it is asked."""
    answers: list[list[str]] = []
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            (socket.AF_INET6 if ":" in answer else socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port))
            for answer in answers.pop(0)
        ]

    monkeypatch.setattr("studio.security.egress.socket.getaddrinfo", getaddrinfo)
    yield answers
    assert len(asked) <= 1, "a host is looked up once"


@pytest.mark.parametrize("host", SPELLINGS)
async def test_the_resolved_address_is_judged_and_never_its_spelling(host: str) -> None:
    """Attack 9. Which of these the resolver knows is its own business: none may pass."""
    with pytest.raises((EgressDenied, Unreachable)):
        await gate().resolve(host, 80)
    with pytest.raises(EgressDenied):
        await gate().resolve("127.1", 80)


async def test_one_closed_answer_among_many_shuts_the_host(flip: list[list[str]]) -> None:
    flip.append(["1.1.1.1", "10.0.0.1"])
    with pytest.raises(EgressDenied):
        await gate().resolve("mixed.example", 80)


async def test_every_open_answer_comes_back_once_and_in_order(flip: list[list[str]]) -> None:
    flip.append(["2606:4700::1", "1.1.1.1", "1.1.1.1"])
    assert await gate().resolve("many.example", 80) == ["2606:4700::1", "1.1.1.1"]


async def test_a_name_that_does_not_resolve_is_unreachable_and_not_repeated(flip: list[list[str]]) -> None:
    with pytest.raises(Unreachable) as caught:
        await gate().resolve("c4n4ry.example", 80)
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "\udcff", ".", "a..b"])
async def test_a_name_that_cannot_be_encoded_is_unreachable(host: str) -> None:
    with pytest.raises(Unreachable):
        await gate().resolve(host, 80)


async def test_a_name_server_that_hangs_for_one_name_does_not_hold_the_others_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, asked = threading.Event(), list[str]()

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if host == "dead.example":
            go.wait(5)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", port))]

    monkeypatch.setattr("studio.security.egress.socket.getaddrinfo", getaddrinfo)
    shared = gate()
    waiting = [asyncio.create_task(shared.resolve("dead.example", 80)) for _ in range(100)]
    try:
        async with asyncio.timeout(2):
            assert await shared.resolve("alive.example", 80) == ["1.1.1.1"]
        waiting[0].cancel()  # it takes the look-up away from nobody
    finally:
        go.set()
    assert all(found == ["1.1.1.1"] for found in await asyncio.gather(*waiting[1:]))
    assert asked.count("dead.example") == 1


# -- dialling -----------------------------------------------------------------------------------


@pytest.fixture
async def sink() -> AsyncIterator[tuple[int, list[Any]]]:
    """A recorder on loopback: its port, and the connections that it has seen."""
    seen: list[Any] = []

    async def meet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def test_a_resolver_that_flips_to_loopback_after_the_check_is_not_asked_again(
    sink: tuple[int, list[Any]], flip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 11: public at the check, loopback at the connect. What is dialled is the checked address."""
    port, seen = sink
    flip += [["192.0.2.7"], ["127.0.0.1"]]
    dialled: list[Any] = []

    async def connect(_sock: socket.socket, address: Any) -> None:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    with pytest.raises(Unreachable):
        await gate(allow=["192.0.2.0/24"]).connect("rebind.example", port)
    assert dialled == [("192.0.2.7", port)]
    assert not seen


async def test_a_closed_address_sees_no_connection(sink: tuple[int, list[Any]]) -> None:
    port, seen = sink
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
        with pytest.raises(EgressDenied):
            await gate().connect(host, port)
    await asyncio.sleep(0.05)
    assert not seen


async def test_without_the_gate_the_sink_would_be_reached(sink: tuple[int, list[Any]]) -> None:
    """The negative control of the test above."""
    port, seen = sink
    sock = await gate(private_open=True).connect("127.1", port)
    await asyncio.sleep(0.05)
    assert len(seen) == 1
    sock.close()


async def test_the_next_address_is_tried_where_one_refuses(sink: tuple[int, list[Any]], flip: list[list[str]]) -> None:
    port, _ = sink
    flip.append(["127.0.0.2", "127.0.0.1"])
    sock = await gate(private_open=True).connect("two.example", port)
    assert sock.getpeername()[0] == "127.0.0.1"
    assert not sock.getblocking()
    sock.close()


async def test_a_refused_connection_is_unreachable_in_words_without_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(Unreachable, match="refused the connection") as caught:
            await gate(private_open=True).connect("127.0.0.1", port)
    assert str(port) not in str(caught.value)


async def test_a_cancelled_connect_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    async def hang(sock: socket.socket, _address: Any) -> None:
        made.append(sock)
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", hang)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gate(private_open=True).connect("127.0.0.1", 9)
    assert made[0].fileno() == -1
