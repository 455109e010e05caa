"""What stands in for a guard that is switched off. `corpus/guards.yaml` names these."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import aiohttp
import jwt

from studio.contract import network
from studio.contract.caps import Caps
from studio.models import Effect
from studio.providers._http import gate as http_gate
from studio.providers.mysql import pool as mysql
from studio.providers.postgresql import pool as postgresql
from studio.providers.sqlite import process as sqlite
from studio.services import issuer, planning, sessions

_decode, _loads = jwt.decode, json.loads


def nothing(*_: Any, **__: Any) -> None:
    """A check that passes everything."""


async def later(*_: Any, **__: Any) -> None:
    """The same, awaited."""


def says_yes(*_: Any, **__: Any) -> bool:
    """A question that is always answered so."""
    return True


def says_no(*_: Any, **__: Any) -> bool:
    """A question that is always answered so."""
    return False


def given(first: Any, *_: Any, **__: Any) -> Any:
    """A filter that changes nothing; for a class's method see `its_given`."""
    return first


def its_given(_self: Any, first: Any, *_: Any, **__: Any) -> Any:
    """A method that hands back what it was given."""
    return first


def a_lot(*_: Any) -> int:
    """A bound that nothing reaches."""
    return 1 << 40


def empty_text(*_: Any, **__: Any) -> str:
    """The same text for everything."""
    return ""


def none_of_them(*_: Any, **__: Any) -> frozenset[str]:
    """An empty set of whatever it is."""
    return frozenset()


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())


everything = _Everything()
"""A list that allows whatever there is."""
no_names: frozenset[str] = frozenset()
matches_nothing = re.compile(r"(?!)")


def any_field(config: Any, *_: object) -> dict[str, Any]:
    """Every field of a config, to be overridden by anything."""
    from studio.contract.config import ANY

    return dict.fromkeys(config.model_fields, ANY)


def unchecked(config: Any, raw: dict[str, Any], *_: Any, **__: Any) -> Any:
    """A config that was not validated."""
    return config.model_construct(**raw)


# -- sealing --------------------------------------------------------------------------------------


def its_place(_self: Any, *more: str) -> bytes:
    """One place for everything, so one key."""
    return b"place"


def any_generation(self: Any, *more: str) -> bytes:
    """A place without its generation."""
    return json.dumps([self.organization_id, self.row_id, self.field, *more]).encode()


class _AnyPlace(dict[str, Any]):
    """A payload that says of each place that it is the one it was sealed for."""

    def get(self, name: str, default: Any = None) -> Any:
        return _AnyText() if name == "place" else super().get(name, default)


class _AnyText(str):
    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = str.__hash__


any_place = SimpleNamespace(dumps=json.dumps, loads=lambda text: _AnyPlace(_loads(text)))
"""`json`, for which a sealed value's place is never another one."""


# -- tokens ---------------------------------------------------------------------------------------


def _decoding(**options: Any) -> Callable[..., Any]:
    def decode(token: str, **given_: Any) -> Any:
        return _decode(token, **{**given_, "options": {**given_["options"], **options}})

    return decode


any_audience = _decoding(verify_aud=False)
any_issuer = _decoding(verify_iss=False)
any_time = _decoding(verify_exp=False)
any_signature = _decoding(verify_signature=False)


def any_algorithm(token: str, **given_: Any) -> Any:
    """`jwt.decode` that takes whatever the key could do."""
    return _decode(token, **{**given_, "algorithms": ["RS256", "RS384", "RS512", "PS256", "ES256"]})


def epoch() -> float:
    """A clock that stands still."""
    return 0.0


def any_key(key: str) -> bytes:
    """A master key of whatever somebody wrote."""
    return key.encode()


_identify = issuer.Issuer.identify
_seen: dict[tuple[Any, str], Any] = {}


async def known_for_ever(self: Any, token: str) -> Any:
    """Whose a token was when it came first."""
    if (self, token) not in _seen:
        _seen[self, token] = await _identify(self, token)
    return _seen[self, token]


# -- configs and results ----------------------------------------------------------------------------


def all_of_it(_kind: Any, _public: Any, wanted: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An override as it was given once."""
    return dict(wanted), ()


def no_check(_self: Any) -> Callable[[bytes], None]:
    """A search of chunks that finds nothing."""
    return nothing


_plan = planning.plan


def planned_all_the_same(principal: Any, target: Any, *given_: Any, **more: Any) -> Any:
    """An operation of a connector that is taken for active."""
    active = dataclasses.replace(target.connector, status="active")
    return _plan(principal, dataclasses.replace(target, connector=active), *given_, **more)


def anybodys(*_: Any) -> Any:
    """A condition that every row meets."""
    from sqlalchemy import true

    return true()


# -- the network ------------------------------------------------------------------------------------

_guarded, _asked = http_gate.guarded_session, aiohttp.ClientSession._request


def without_a_socket_hook(*given_: Any) -> Any:
    """An HTTP session that asks nobody before it dials an address."""
    made = _guarded(*given_)
    made.connector._socket_factory = None  # type: ignore[union-attr]
    made.connector._resolver = aiohttp.ThreadedResolver()  # type: ignore[union-attr]
    return made


async def following(self: Any, *given_: Any, **more: Any) -> Any:
    """A request that follows redirects."""
    return await _asked(self, *given_, **{**more, "allow_redirects": True})


def plain_socket(_self: Any, info: Any) -> socket.socket:
    """A socket for whatever address."""
    return socket.socket(*info[:3])


async def ungated_connection(self: Any, factory: Any, host: str, port: int, *, ssl: Any) -> Any:
    """A connection as aiokafka makes it."""
    return await self._loop.create_connection(factory, host, port, ssl=ssl)


def the_password(_self: Any, _plugin: bytes, password: bytes, _salt: bytes) -> bytes:
    """The answer of a client that says everything it is asked for."""
    return password + b"\0"


# -- read-only ----------------------------------------------------------------------------------------

writing_preambles = (postgresql.PREAMBLES[1],) * 2
_planned = mysql.Session.plan


async def plan_that_writes(self: Any, text: str) -> Any:
    """A statement in a session that may write."""
    await self.conn.run(mysql.READ_WRITE)
    return await _planned(self, text)


only_reads = dict.fromkeys(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), Effect.READ)
booted_without_authorizer = sqlite._BOOT.replace(
    "main()", "from studio.providers.sqlite.guard import Authorizer\nAuthorizer._allows = lambda *_: True\nmain()"
)


booted_without_heap_limit = sqlite._BOOT.replace("main()", "import apsw\napsw.hard_heap_limit = lambda *_: 0\nmain()")


def plain_weight(*_: Any) -> Any:
    """That of rows that take no more than their bytes."""
    from studio.providers.postgresql.arrays import PLAIN

    return PLAIN


def plainly_opened(path: str, flags: int, *_: Any, **__: Any) -> Any:
    """A connection of SQLite as it comes."""
    import apsw

    return apsw.Connection(path, flags=flags)


def a_read(*_: Any) -> Effect:
    """The effect of everything."""
    return Effect.READ


async def done_all_the_same(self: Any, _effect: Effect, *arguments: Any) -> Any:
    """A command of Redis, whatever its effect."""
    return await self._pool.use(lambda session: session.call(*arguments), again=False)


def second(_first: Any, given_: Any, *_: Any) -> Any:
    """What came second."""
    return given_


def its_data(self: Any, node: Any, field: str, depth: int = 1) -> Any:
    """An expression of MongoDB, bound as if nothing in it were evaluated."""
    return self.data(node, field, depth)


def every_row(_self: Any, page: Any) -> list[Any]:
    """What a storage server lists, below the prefix or not."""
    return [(entry.name, "object", entry.size, entry.modified, entry.etag) for entry in page.entries]


# -- limits -------------------------------------------------------------------------------------------


async def patient_body(_receive: Any, *_: Any) -> bytes:
    """A body that is waited for three times as long as it may take; longer would only make the test longer."""
    await asyncio.sleep(1.5)
    return b"{}"


async def any_body(receive: Any, *_: Any) -> bytes:
    """A body of any size."""
    parts = b""
    while (message := await receive())["type"] != "http.disconnect":
        parts += message.get("body", b"")
        if not message.get("more_body"):
            break
    return parts


def no_deadline(_self: Any) -> Any:
    """A deadline that never comes."""
    return nullcontext()


_caps = Caps.__init__


def boundless(self: Any, config: Any, **more: Any) -> None:
    """Caps that nothing reaches."""
    _caps(self, config, **more)
    self._rows_left = self._bytes_left = 10**12


# -- more -----------------------------------------------------------------------------------------


def mode_600(self: Any, **more: Any) -> Any:
    """A file's state, in which nobody but its owner may read it."""
    found = os.stat(self, **more)
    return os.stat_result((found.st_mode & ~0o077, *found[1:]))


_tls = network.tls_context


def trusting(host: str | None, **more: Any) -> Any:
    """A TLS context that takes any certificate."""
    return _tls(host, **{**more, "verify": False, "check_hostname": False})


def one_for_all(_connector_id: str, version: int, override: str) -> sessions.SessionKey:
    """A key of sessions that all connectors share."""
    return sessions.SessionKey("all", version, override)


def as_typed(text: str) -> tuple[str, str]:
    """A secret from the command line."""
    name, _, value = text.partition("=")
    return name, value


zeros = SimpleNamespace(urandom=bytes)
"""A source of random bytes that everybody can tell."""


def without_a_key(_self: Any, *parts: Any) -> str:
    """A hash that anybody can make."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


plain_json = json.loads
