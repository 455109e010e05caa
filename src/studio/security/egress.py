"""The one gate to other machines: every address is judged by this table before it is dialled.

Python's own `ipaddress.is_global` is not used: in 3.11 it is wrong for NAT64, 6to4,
IPv4-compatible addresses and several cloud metadata addresses.
"""

from __future__ import annotations

import asyncio
import copy
import ipaddress
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from studio.errors import EgressDenied, Unreachable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEVER = {
    "unspecified": ("0.0.0.0/8", "::/128"),
    "link-local and instance metadata": ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "fd20:ce::/32"),
    "cloud platform service": ("168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4", "64:ff9b:1::/48", "100::/64", "5f00::/16"),
}
_PRIVATE = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "shared (RFC 6598)": ("100.64.0.0/10",),
    "special use (RFC 6890)": (
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "2001:db8::/32", "2001:10::/28", "3fff::/20",
    ),
}  # fmt: skip


def _table(ranges: dict[str, tuple[str, ...]]) -> list[tuple[IPNetwork, str]]:
    return [(ipaddress.ip_network(text), name) for name, texts in ranges.items() for text in texts]


_NEVER_TABLE = _table(_NEVER)
_PRIVATE_TABLE = _table(_PRIVATE)
_V4_IN_LOW_32 = [ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96")]
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")


VOUCHED: set[tuple[str, int]] = set()
"""What gates `for_operator` let through in this process: the second belt (`belt.py`) takes their word."""


@dataclass(frozen=True)
class Rule:
    """A range and, where given, the one port that it is about."""

    network: IPNetwork
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `CIDR`, `CIDR:port` or `[v6 CIDR]:port`. Raises ValueError."""
        host, number = text, ""
        if bracketed := re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", text):
            host, number = bracketed[1], bracketed[2] or ""
        elif text.count(":") == 1:
            host, _, number = text.partition(":")
        port = int(number) if host != text and (number or not bracketed) else None
        if port is not None and not 0 < port < 65_536:
            raise ValueError("the port of a rule must be 1 to 65535")
        return cls(ipaddress.ip_network(host, strict=False), port)

    def holds(self, address: IPAddress, port: int) -> bool:
        """Whether the address and port fall under this rule."""
        return address.version == self.network.version and address in self.network and self.port in (None, port)


def _embedded(address: IPAddress) -> IPAddress | None:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    value = int(address)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address((value >> 80) & 0xFFFFFFFF)
    if address in _TEREDO:
        return ipaddress.IPv4Address(~value & 0xFFFFFFFF)
    if value > 1 and any(address in network for network in _V4_IN_LOW_32):
        return ipaddress.IPv4Address(value & 0xFFFFFFFF)
    return None


class Egress:
    """Implements `studio.contract.Network`.

    Args:
        private_open: whether loopback and private ranges may be dialled without being listed.
        allow, deny: `CIDR[:port]` texts. `deny` wins over `allow`; neither opens what is closed always.
        files_root, own_files, scratch: see `Network`.
    """

    def __init__(
        self,
        *,
        private_open: bool,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        files_root: Path | None = None,
        own_files: Iterable[Path] = (),
        scratch: Path | None = None,
    ) -> None:
        self.files_root = files_root
        self.own_files = frozenset(own_files)
        self.scratch = scratch
        self._private_open = private_open
        self._vouches = False
        self._allow = [Rule.parse(text) for text in allow]
        self._deny = [Rule.parse(text) for text in deny]
        self._own: set[tuple[IPAddress, int]] = set()
        self._operators: set[tuple[IPAddress, int]] = set()
        # A look-up that hangs must not take the loop's few shared threads with it.
        self._dns = ThreadPoolExecutor(32, thread_name_prefix="studio-dns")
        self._asked: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    def for_operator(self) -> Egress:
        """The same gate for an address that the operator's own settings name: private ranges are open.

        Nothing else differs: metadata, reserved ranges, STUDIO_EGRESS_DENY and our own endpoints stay closed.
        It shares this gate's threads and ends with it.
        """
        opened = copy.copy(self)
        opened._private_open = True
        opened._vouches = True
        opened._operators = set()
        return opened

    def close(self) -> None:
        """Let the resolver's threads end."""
        self._dns.shutdown(wait=False, cancel_futures=True)

    def reserve(self, host: str, port: int, *, for_operator: bool = False) -> None:
        """Close an endpoint of the service itself: its store or a listener. A wildcard closes all of this host's.

        One that is `for_operator`, such as a secret store, is closed to connectors only.
        """
        names = [host]
        if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
            names = ["127.0.0.1", "::1", socket.gethostname()]
        for name in names:
            try:
                answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            except OSError:
                continue
            closed = self._operators if for_operator else self._own
            closed.update((ipaddress.ip_address(str(answer[4][0]).split("%")[0]), port) for answer in answers)

    def permit(self, address: str, port: int) -> None:
        """Judge one final address. Raises EgressDenied, naming the range and the setting."""
        found = ipaddress.ip_address(address.split("%")[0])
        self._judge(found, port)
        inner = _embedded(found)
        if inner is not None:
            self._judge(inner, port)
        if self._vouches:
            VOUCHED.add((address, port))

    def _judge(self, address: IPAddress, port: int) -> None:
        if (address, port) in self._own or (address, port) in self._operators:
            raise EgressDenied("the address is this service's own store or listener; it is never dialled")
        if any(rule.holds(address, port) for rule in self._deny):
            raise EgressDenied("the address is closed by STUDIO_EGRESS_DENY")
        for network, name in _NEVER_TABLE:
            if address.version == network.version and address in network:
                raise EgressDenied(f"the address is in {network} ({name}), which is never dialled")
        if self._private_open or any(rule.holds(address, port) for rule in self._allow):
            return
        for network, name in _PRIVATE_TABLE:
            if address.version == network.version and address in network:
                raise EgressDenied(
                    f"the address is in {network} ({name}); an operator can open it with "
                    f"STUDIO_EGRESS_ALLOW=<CIDR>:{port}"
                )

    async def resolve(self, host: str, port: int) -> list[str]:
        """See `studio.contract.Network`: one look-up, every answer judged."""
        try:
            addresses = await self._addresses(host, port)
        except (OSError, UnicodeError) as exc:
            raise Unreachable("the host name does not resolve; check its spelling and this machine's DNS") from exc
        for address in addresses:
            self.permit(address, port)
        return list(addresses)

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Callers that ask for one name at one time share the look-up: a dead name takes one thread, not all."""
        if _is_ipv4(host):
            return [host]  # there is nothing to look up, and no thread to wait for; it is judged like any other
        asked = self._asked.get((host, port))
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._dns, _looked_up, host, port)
            self._asked[host, port] = asked
            asked.add_done_callback(lambda done: self._told(done, host, port))
        return await asyncio.shield(asked)

    def _told(self, done: asyncio.Future[list[str]], host: str, port: int) -> None:
        del self._asked[host, port]
        if not done.cancelled():
            done.exception()  # whoever asked may be gone by now

    async def connect(self, host: str, port: int) -> socket.socket:
        """See `studio.contract.Network`."""
        failure: OSError | None = None
        for address in await self.resolve(host, port):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            # asyncio does this only for sockets that it made itself; without it, answers wait 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
                return sock
            except OSError as exc:
                sock.close()
                failure = exc
            except BaseException:
                sock.close()
                raise
        raise Unreachable(reason(failure)) from failure


def _is_ipv4(host: str) -> bool:
    """Whether it is an address in its only plain form; `127.1`, `0x7f.1` and their like are not."""
    try:
        return host[-1:].isdigit() and str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def _looked_up(host: str, port: int) -> list[str]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def reason(exc: OSError | None) -> str:
    """What a failed connect means, in words, without the address."""
    if isinstance(exc, ConnectionRefusedError):
        return "the host refused the connection: nothing listens on that port, or a firewall answers for it"
    if isinstance(exc, TimeoutError):
        return "the host did not answer in time: a firewall may drop the packets, or the address is wrong"
    return "the host cannot be reached; check host, port and the network between"
