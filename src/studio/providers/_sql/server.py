"""What `postgresql` and `mysql` share: the way to the server, the judging of statements, and capped results."""

from __future__ import annotations

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from studio.contract import Network, Probe, Result, SqlProvider
from studio.contract import sql as sqltext
from studio.contract.database import Params, StatementWithParams
from studio.contract.network import TlsContext, tls_context
from studio.contract.values import size_of
from studio.errors import InvalidConfig, InvalidRequest, ResultBlocked, StudioError
from studio.providers._sql.config import SqlServerConfig
from studio.providers._tcp import Tcp

ConfigT = TypeVar("ConfigT", bound=SqlServerConfig)
VerdictT = TypeVar("VerdictT")

CACHED_TEXT = 8_192
"""Longer statements are judged each time, in a thread: a cache of them would hold megabytes."""


@dataclass(frozen=True)
class Call:
    """A statement with the driver's placeholders, the names of its parameters, and their values."""

    text: str
    names: tuple[str, ...] = ()
    values: list[Any] = field(default_factory=list)


def most_of_row(max_bytes: int) -> int:
    """Bytes of one row on the wire that are read: somewhat more than an answer may show, and 5 MiB in any case."""
    return max(max_bytes, 4 << 20) * 5 // 4 + (1 << 17)


def row_too_large() -> ResultBlocked:
    """A row that no answer of this connector can hold."""
    return ResultBlocked(
        "a row is larger than max_bytes of this connector; select fewer columns or a part of the value, "
        "or have max_bytes raised"
    )


def keep(result: Result, rows: Sequence[tuple[Any, ...]], max_rows: int, room: int) -> int:
    """Add rows up to the caps; the bytes that are left."""
    for row in rows:
        room -= sum(map(size_of, row))
        if result.truncated or room < 0 or len(result.rows or ()) >= max_rows:
            result.truncated = True
            break
        result.rows.append(row)  # type: ignore[union-attr]
    return room


class Endpoint(Tcp):
    """The server, with TLS as the config's `ssl` says."""

    def __init__(self, network: Network, config: SqlServerConfig) -> None:
        super().__init__(
            network, config.host, config.port, connect_timeout_s=config.connect_timeout_s,
            tls=config.tls_mode != "disable", ca=config.ssl_ca,
        )  # fmt: skip
        self._config = config

    def _new_context(self) -> TlsContext:
        config, mode = self._config, self._config.tls_mode
        key = config.ssl_key.get_secret_value() if config.ssl_key else None
        try:
            return tls_context(
                config.host, verify=mode in {"verify-ca", "verify-full"}, check_hostname=mode == "verify-full",
                ca=config.ssl_ca, cert=config.ssl_cert, key=key,
            )  # fmt: skip
        except (ssl.SSLError, ValueError):
            raise InvalidConfig("ssl_ca, ssl_cert or ssl_key is not a usable PEM") from None


class SqlServer(SqlProvider[ConfigT], Generic[ConfigT, VerdictT]):
    """A server that speaks SQL. `VerdictT` is what its guard says of a statement."""

    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "Check the spelling of host, and that this machine's DNS knows it.",
        "tls": "Set ssl to what the server offers; for verify-ca and verify-full give its CA in ssl_ca.",
        "egress_denied": "Ask the operator to open the address with STUDIO_EGRESS_ALLOW.",
    }
    dialect: ClassVar[sqltext.Dialect]

    _tcp: Endpoint
    _pool: Any

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """Text that the guard knows to be a read is a query; any other statement is executed."""
        name, arguments = super().native(query, params)
        try:
            text = sqltext.parse(query, cls.dialect).text
        except InvalidRequest:
            text = ""  # the operation says what is wrong
        return ("execute" if text and cls._writes(text) else name), arguments

    async def reach(self, probe: Probe) -> None:
        """Stages: resolve, connect (TCP only), tls, login."""
        session = await self._tcp.reach(probe, lambda: self._pool.acquire(fresh=True), tls_failed=self._tls_failed)
        self._pool.release(session)

    async def _judged(self, query: str, params: Params) -> tuple[Call, VerdictT]:
        """The statement with bound values, and the verdict on it; long text is judged off the event loop."""
        if len(query) > CACHED_TEXT:
            statement, verdict = await asyncio.to_thread(self._parse, query)
        else:
            statement, verdict = self._parse(query)
        return Call(statement.text, statement.names, statement.bind(params)), verdict

    async def _each_judged(self, statements: Sequence[StatementWithParams]) -> AsyncIterator[tuple[Call, VerdictT]]:
        """The same for each statement of a transaction."""
        for at, statement in enumerate(statements):
            if "query" not in statement:
                raise InvalidRequest.at(f"statements.{at}.query", "is missing")
            yield await self._judged(statement["query"], statement.get("params"))

    @classmethod
    @abstractmethod
    def _parse(cls, query: str) -> tuple[sqltext.Statement, VerdictT]:
        """The statement with placeholders, and the verdict on it. Raises InvalidRequest."""

    @classmethod
    @abstractmethod
    def _writes(cls, text: str) -> bool:
        """Whether a text with placeholders is anything but a read."""

    @classmethod
    @abstractmethod
    def _tls_failed(cls, error: StudioError) -> bool:
        """Whether a log-in that ended with this error got as far as TLS and no further."""
