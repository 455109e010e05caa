"""Which `Host` and `Origin` a request may carry: the defence against DNS rebinding.

A page of a stranger can make a browser send requests to an address of this machine, under a name of
the stranger's. Such a request names that name, as its host or as its origin, and is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from studio.errors import Forbidden
from studio.settings import LOOPBACK, Settings

ANY = "*"
_MOST = 100


class Hosts:
    """The names that this service answers to; ports do not count."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.strip("[]").lower() for name in names)
        self._any = ANY in self._names
        self._right: set[bytes] = set()
        """Host headers that were right already; a hot route need not read them again."""

    @classmethod
    def of(cls, settings: Settings) -> Hosts:
        """Loopback names, the listening address, and STUDIO_ALLOWED_HOSTS."""
        return cls({*LOOPBACK, settings.host, *settings.allowed_hosts})

    def require(self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]) -> None:
        """Raises Forbidden for a request that was made under somebody else's name.

        The address that the connection arrived at always counts: a name can be pointed at it, but
        no browser calls it by its number on a stranger's behalf without naming the stranger as origin.
        """
        if self._any:
            return
        here = (scope.get("server") or ("",))[0]
        given = headers.get(b"host", b"")
        if given not in self._right:
            host = _name(b"//" + given)
            if host not in self._names and host != here:
                raise Forbidden(_refusal("Host"))
            if host in self._names and len(self._right) < _MOST:
                self._right.add(given)
        origin = headers.get(b"origin")
        if origin is not None and (name := _name(origin)) not in self._names and name != here:
            raise Forbidden(_refusal("Origin"))


def _name(url: bytes) -> str | None:
    """The host in a URL, without its port; None where there is none."""
    try:
        return urlsplit(url.decode("ascii")).hostname
    except ValueError:
        return None


def _refusal(header: str) -> str:
    return f"the {header} header names no host of this service; an operator can add it to STUDIO_ALLOWED_HOSTS"
