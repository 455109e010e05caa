"""A provider without an upstream, for tests of what the house does around one.

`Toy` counts what is opened and closed in `Toy.log`, and does as its config and its arguments say:
slow or failing opening, slow, failing or endless rows, writes. `installed()` puts it into the
catalogue through the same door as an outside package: an entry point.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from importlib.metadata import EntryPoint
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from studio import providers
from studio.contract import (
    ANY,
    BELOW,
    Batch,
    Column,
    Destination,
    Effect,
    Host,
    Port,
    Provider,
    ProviderConfig,
    Secret,
    Text,
    operation,
)
from studio.errors import AuthFailed, StudioError, UpstreamError

COLUMNS: list[Column] = [{"name": "n", "type": "int"}, {"name": "at", "type": "text"}]


class ToyError(Exception):
    """What the toy's driver raises."""


class Login(BaseModel):
    """A nested part with a secret of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    user: Text = "nobody"
    token: Secret | None = None


class ToyConfig(ProviderConfig):
    """Configuration of a `toy` connector."""

    host: Annotated[Host, Destination()]
    port: Annotated[Port, Destination()] = 1234
    database: Annotated[Text, ANY] = "main"
    prefix: Annotated[Text, BELOW] = ""
    password: Secret | None = None
    login: Login = Login()
    open_s: float = Field(0, ge=0)
    open_error: Text | None = None


class Toy(Provider[ToyConfig]):
    """A provider that plays one."""

    kind = "toy"
    family = "database"
    Config = ToyConfig

    log: ClassVar[Counter[str]] = Counter()
    failures: ClassVar[list[str]] = []
    """Errors of the next openings, each used once."""
    gate: ClassVar[asyncio.Event | None] = None
    """What `hold` waits for."""
    live: ClassVar[set[Toy]] = set()

    async def open(self, stack: AsyncExitStack) -> None:
        """Open as the config and `failures` say."""
        Toy.log["opening"] += 1
        await asyncio.sleep(self.config.open_s)
        error = Toy.failures.pop(0) if Toy.failures else self.config.open_error
        if error == "ours":
            raise AuthFailed("the upstream refused the credentials")
        if error == "driver":
            raise ToyError("canary-of-the-driver")
        if error == "builtin":
            raise TimeoutError("canary-of-the-driver")
        if error == "defect":
            raise ZeroDivisionError("canary-of-the-driver")
        Toy.log["opened"] += 1
        Toy.live.add(self)
        self.closed = False
        stack.callback(self._close)

    def _close(self) -> None:
        Toy.log["closed"] += 1
        Toy.live.discard(self)
        self.closed = True

    async def ping(self) -> None:
        """Nothing is there to reach."""
        if self.config.password is not None and self.config.password.get_secret_value() == "wrong":
            raise AuthFailed("the upstream refused the credentials")

    def translate(self, exc: Exception) -> StudioError | None:
        """See `Provider.translate`."""
        return UpstreamError("the toy broke") if isinstance(exc, ToyError | TimeoutError) else None

    @operation(Effect.READ)
    async def query(self, query: str, params: dict[str, Any] | None = None) -> AsyncIterator[Batch]:
        """Rows as the text says: `rows 3`, `slow-rows 3`, `endless`, `hold`, `sleep 1`, `broken`, `broken-late`, `defect`, `config`."""
        verb, _, rest = query.partition(" ")
        Toy.log[verb] += 1
        try:
            if verb == "sleep":
                await asyncio.sleep(float(rest))
            elif verb == "hold":
                assert Toy.gate is not None
                await Toy.gate.wait()
            elif verb == "broken":
                raise ToyError("canary-of-the-driver")
            elif verb == "defect":
                raise ZeroDivisionError("canary-of-the-driver")
            assert not self.closed, "a session was closed under a running operation"
            count = int(rest) if verb in {"rows", "slow-rows", "broken-late"} else 10**9 if verb == "endless" else 1
            at = f"{self.config.host}:{self.config.port}/{self.config.database}"
            step = 100 if verb != "slow-rows" else 10
            for start in range(0, count, step):
                yield Batch(COLUMNS, [(number, at) for number in range(start, min(count, start + step))])
                await asyncio.sleep(0 if verb != "slow-rows" else 0.15)
            if not count:
                yield Batch(COLUMNS, [])
            if verb == "broken-late":
                raise ToyError("canary-of-the-driver")
        except asyncio.CancelledError:
            Toy.log["cancelled"] += 1
            raise

    @operation(Effect.READ)
    async def secrets(self) -> dict[str, Any]:
        """The secrets that reached the driver, by their length: a test compares, an answer shows nothing."""
        password, token = self.config.password, self.config.login.token
        return {
            "password": len(password.get_secret_value()) if password else None,
            "token": len(token.get_secret_value()) if token else None,
        }

    @operation(Effect.WRITE)
    async def put(self, key: Annotated[str, Field(max_length=50)], value: Any = None) -> dict[str, Any]:
        """Keep a value."""
        Toy.log["put"] += 1
        return {"key": key, "value": value}

    @operation(Effect.DELETE)
    async def drop(self, key: str) -> None:
        """Forget a value."""
        Toy.log["drop"] += 1


def config(**changes: Any) -> dict[str, Any]:
    """A complete config with two secrets; None leaves a field out."""
    fields = {"host": "db.example", "password": "p4ssw0rd-c4n4ry", "login": {"token": "t0k3n-c4n4ry"}, **changes}
    return {name: value for name, value in fields.items() if value is not None}


def body(name: str = "toy", **changes: Any) -> dict[str, Any]:
    """A body for `create`, without an organization."""
    return {"name": name, "connector_type": "database", "provider": "toy", "config": config(**changes)}


@contextmanager
def installed() -> Iterator[type[Toy]]:
    """The toy in the catalogue, with its counters at zero."""
    found = providers._outside
    point = EntryPoint(name="toy", group="studio.providers", value="tests.toy:Toy")
    _forget()
    providers._outside = lambda: {**found(), "toy": point}
    Toy.log.clear()
    Toy.failures.clear()
    Toy.live.clear()
    Toy.gate = None
    try:
        yield Toy
    finally:
        providers._outside = found
        _forget()


def _forget() -> None:
    for cached in (providers.built, providers.load, providers.kinds):
        cached.cache_clear()
