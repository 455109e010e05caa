"""Where a command works: on the embedded store in this process, or on a server. One code path for both."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click
from click.core import ParameterSource

from studio.cli.given import read_text
from studio.errors import BadRequest, FieldError, Internal, InvalidRequest

if TYPE_CHECKING:
    from studio.client import RemoteService
    from studio.services.connector_service import ConnectorService
    from studio.settings import Settings

    Service: TypeAlias = ConnectorService | RemoteService

OWN_PROCESS = object()
"""The `obj` of a command line that runs as the program, and not as a function in somebody's process."""
_dropped: dict[str, str] = {}
"""What a clean start took out of the environment; users may name it in a manifest."""
F = TypeVar("F", bound=Callable[..., Any])
_META = "studio.where"
_OPTIONS = {
    "url": ("STUDIO_URL", "Work on this server instead of the embedded store."),
    "key": ("STUDIO_API_KEY", "API key or OIDC token for --url; @FILE reads it from a file."),
    "organization": ("STUDIO_ORGANIZATION", "Organization in the embedded store.  [default: default]"),
}


@dataclass(frozen=True)
class Where:
    """What `--url`, `--key` and `--organization` (or the environment) said."""

    url: str | None
    key: str | None
    organization: str
    typed: frozenset[str]
    """Those that stood on the command line itself."""

    @classmethod
    def of(cls, context: click.Context) -> Where:
        """A command's own options win over those before it, and these over the environment."""
        said: dict[str, tuple[str, bool]] = context.meta.get(_META, {})
        typed = frozenset(name for name, (_, typed) in said.items() if typed)
        values = {name: value for name, (value, _) in said.items()}
        return cls(values.get("url"), values.get("key"), values.get("organization", "default"), typed)


def where_options(*, environment: bool = False) -> Callable[[F], F]:
    """Add `--url`, `--key` and `--organization`; the values are kept for `Where.of`.

    Only the program itself reads the environment: read again at a command, it would win over an
    option that stands before that command.
    """

    def add(function: F) -> F:
        for name, (variable, text) in reversed(_OPTIONS.items()):
            function = click.option(
                f"--{name}",
                envvar=variable if environment else None,
                show_envvar=environment,
                expose_value=False,
                callback=_keep,
                help=text,
            )(function)
        return function

    return add


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value and parameter.name:
        typed = context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        context.meta.setdefault(_META, {})[parameter.name] = (value, typed)


def with_service(*, names_organization: bool = False) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Any]]:
    """Make a command of an async function whose first argument is the service.

    Args:
        names_organization: the command itself says what `--organization` means to a server.
    """

    def decorate(function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @where_options()
        @click.pass_context
        @wraps(function)
        def command(context: click.Context, /, **arguments: Any) -> Any:
            where = Where.of(context)
            if where.url and "organization" in where.typed and not names_organization:
                raise BadRequest("--organization: with --url the key says which organization it is; leave it out")
            if "key" in where.typed and not where.url:
                raise BadRequest("--key: goes with --url; the embedded store needs no key")

            async def work() -> Any:
                async with connect(where) as service:
                    return await function(service, **arguments)

            import asyncio

            return asyncio.run(work())

        return command

    return decorate


@asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Service]:
    """The service of a server, or of the embedded store as the admin of one organization."""
    if where.url:
        from studio.client import RemoteService

        key = read_text(where.key, "--key").strip() if where.key else None
        async with RemoteService(where.url, key) as remote:
            yield remote
        return

    from studio.models import AGENT_ID, Principal, Role
    from studio.services.connector_service import ConnectorService

    if not AGENT_ID.fullmatch(where.organization):
        raise InvalidRequest.at("organization", "must be 1 to 128 of letters, digits and _ . : -")
    async with AsyncExitStack() as stack:
        service = await opened(stack, ConnectorService(own_settings()))
        yield service.acting_as(Principal(organization_id=where.organization, subject="cli", role=Role.ADMIN))


async def opened(stack: AsyncExitStack, service: ConnectorService) -> ConnectorService:
    """Open a service on `stack`. Raises Internal, with the system's reason, where its store cannot be reached."""
    try:
        return await stack.enter_async_context(service)
    except OSError as exc:
        raise store_does_not_open(exc) from exc


def store_does_not_open(exc: OSError) -> Internal:
    """The system's reason, in its own words, which hold no setting but a path."""
    said = f"{exc.strerror or type(exc).__name__}{f': {exc.filename}' if exc.filename else ''}"
    return Internal(f"the store does not open ({said}); check STUDIO_DATA_DIR and STUDIO_DATABASE_URL")


def store_fails(exc: Exception) -> Internal | None:
    """The error of an embedded store that its disk fails, in SQLite's own fixed words; None for another exception."""
    import sqlite3

    cause = getattr(exc, "orig", None) or exc
    if not isinstance(cause, sqlite3.Error) or (code := getattr(cause, "sqlite_errorcode", None)) is None:
        return None
    said = {
        sqlite3.SQLITE_FULL: "database or disk is full",
        sqlite3.SQLITE_READONLY: "attempt to write a readonly database",
        sqlite3.SQLITE_IOERR: "disk I/O error",
        sqlite3.SQLITE_CANTOPEN: "unable to open database file",
        sqlite3.SQLITE_CORRUPT: "database disk image is malformed",
        sqlite3.SQLITE_NOTADB: "file is not a database",
    }.get(code & 0xFF)
    return Internal(f"the store fails ({said}); check the disk and the rights of STUDIO_DATA_DIR") if said else None


def settings(**given: Any) -> Settings:
    """The settings of the environment; what is given (and not None) wins. Raises InvalidRequest."""
    from pydantic import ValidationError

    from studio.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as exc:
        wrong = exc.errors(include_url=False, include_input=False, include_context=False)
        fields = [FieldError("STUDIO_" + "_".join(map(str, e["loc"])).upper(), e["msg"]) for e in wrong]
        raise InvalidRequest("a setting is wrong", fields=fields) from None


def own_settings(**given: Any) -> Settings:
    """As `settings`, for a command that works on the store itself: the program starts clean with them.

    Raises:
        InvalidRequest: a setting is wrong.
        Internal: the data folder cannot be used.
    """
    chosen = settings(**given)
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().obj is OWN_PROCESS:
        from studio.services.start import start_clean

        try:
            _dropped.update(start_clean(chosen))
        except OSError as exc:
            raise store_does_not_open(exc) from exc
    return chosen


def variable(name: str) -> str | None:
    """A variable that the user names, also where it was dropped from the environment since."""
    return os.environ.get(name, _dropped.get(name))


def here_only(context: click.Context) -> None:
    """For commands that need the store's own settings. Raises BadRequest where a server was named by option."""
    if "url" in Where.of(context).typed:
        raise BadRequest("--url: this command works on the store itself; run it on the machine of the server")
