"""`studio serve`: the HTTP service on this machine's address and port."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from studio.cli import text
from studio.cli.common import json_option
from studio.cli.where import here_only, opened, settings
from studio.errors import InvalidRequest

if TYPE_CHECKING:
    import socket

    import uvicorn

    from studio.settings import Settings

ORGANIZATION = "default"
_GRACE_S = 10
_BACKLOG = 2048


@click.command()
@click.option("--host", help="Address to listen on.  [env var: STUDIO_HOST; default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port; 0 takes a free one.  [env var: STUDIO_PORT; default: 8400]"
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@json_option
@click.pass_context
def serve(context: click.Context, host: str | None, port: int | None, log_level: str, as_json: bool) -> None:
    """Serve the API. Logs go to stderr.

    On a loopback address with an empty store, a first admin key is made and printed once.
    """
    import asyncio

    here_only(context)
    asyncio.run(_serve(settings(host=host, port=port), log_level, as_json))


async def _serve(chosen: Settings, log_level: str, as_json: bool) -> None:
    import logging

    import uvicorn

    from studio.app import Application
    from studio.services import tracing

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it announces each of its own plugins
    application = Application(chosen)
    async with AsyncExitStack() as stack:
        stack.callback(tracing.use_environment())
        service = await opened(stack, application.service)
        # Bound before anything is printed or made: whoever reads the address can connect to it.
        listener = stack.enter_context(listen(chosen.host, chosen.port))
        first_key = await service.create_first_key(ORGANIZATION) if chosen.listens_on_loopback else None
        server = uvicorn.Server(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        with _signals_stop(server):
            _announce(_url(listener), first_key, as_json)
            await server.serve(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InvalidRequest where the address cannot be had."""
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol spelled out: asyncio switches Nagle's delay (40 ms an answer) off for no other.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise InvalidRequest.at("--port", f"cannot listen on {host} port {port}: {exc.strerror}") from exc
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(url: str, first_key: str | None, as_json: bool) -> None:
    if as_json:
        return click.echo(text.compact({"url": url, "first_key": first_key, "organization": ORGANIZATION}))
    click.echo(f"Studio Connectors listens on {url} (API below /api/v1, its documentation at /docs)")
    if first_key is not None:
        click.echo(
            f"\nFirst admin key of the organization {ORGANIZATION}, shown this once:\n\n    {first_key}\n\n"
            f"Use it with: export STUDIO_URL={url} STUDIO_API_KEY=...\n"
        )
    return None


@contextmanager
def _signals_stop(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the server and nothing else, from before its address is known.

    uvicorn stops gracefully by its own handlers, puts back those that it found, and raises the signal
    once more for them; the usual ones would then end this process without its clean-up.
    """

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
