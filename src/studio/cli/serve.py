"""`studio serve`: the HTTP service on this machine's address and port."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from studio.cli import text
from studio.cli.common import json_option
from studio.cli.where import here_only, opened, own_settings
from studio.errors import InvalidRequest

if TYPE_CHECKING:
    import socket

    import uvicorn

    from studio.app import Application
    from studio.settings import Settings

ORGANIZATION = "default"


@click.command()
@click.option("--host", help="Address to listen on.  [env var: STUDIO_HOST; default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port; 0 takes a free one.  [env var: STUDIO_PORT; default: 8400]"
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that serve; each has pools of its own.",
)
@json_option
@click.pass_context
def serve(
    context: click.Context, host: str | None, port: int | None, log_level: str, workers: int, as_json: bool
) -> None:
    """Serve the API. Logs go to stderr.

    On a loopback address with an empty store, a first admin key is made and printed once.
    """
    from studio.loop import run

    here_only(context)
    chosen = own_settings(host=host, port=port)
    if workers == 1:
        run(_serve(chosen, log_level, as_json))
    else:
        context.exit(_serve_many(chosen, log_level, as_json, workers))


async def _serve(chosen: Settings, log_level: str, as_json: bool) -> None:
    from studio.app import Application

    _log(log_level)
    async with AsyncExitStack() as stack:
        # Bound before anything is printed or made: whoever reads the address can connect to it. And before
        # the service opens: its egress gate must know the port that it got.
        listener = stack.enter_context(_listen(chosen.host, chosen.port))
        chosen = chosen.model_copy(update={"port": listener.getsockname()[1]})
        application = Application(chosen)
        service = await opened(stack, application.service)
        first_key = await service.create_first_key(ORGANIZATION) if chosen.listens_on_loopback else None
        await _run(application, listener, lambda: _announce(_url(listener), first_key, as_json))


def _serve_many(chosen: Settings, log_level: str, as_json: bool, workers: int) -> int:
    """Prepare the store once, then serve in several processes; the exit status."""
    import asyncio

    from studio.cli.workers import supervise

    _log(log_level)
    with ExitStack() as stack:
        with _listen(chosen.host, chosen.port) as alone:  # refused where anybody listens: a shared one would join in
            chosen = chosen.model_copy(update={"port": alone.getsockname()[1]})  # the egress gate must know it
        listeners = [stack.enter_context(_listen(chosen.host, chosen.port, shared=True)) for _ in range(workers)]
        first_key = asyncio.run(_prepare(chosen))
        _announce(_url(listeners[0]), first_key, as_json)
        return supervise(listeners, _work, chosen, log_level)


async def _prepare(chosen: Settings) -> str | None:
    from studio.services.connector_service import ConnectorService

    async with AsyncExitStack() as stack:
        service = await opened(stack, ConnectorService(chosen))
        return await service.create_first_key(ORGANIZATION) if chosen.listens_on_loopback else None


def _work(listener: socket.socket, chosen: Settings, log_level: str) -> None:
    """One of several processes that serve: a fresh one, which got no more than the settings."""
    from studio.loop import run
    from studio.services.start import start_clean

    start_clean(chosen)

    async def work() -> None:
        from studio.app import Application

        application = Application(chosen)
        async with AsyncExitStack() as stack:
            await opened(stack, application.service)
            await _run(application, listener, lambda: None)

    _log(log_level)
    run(work())


def _log(level: str) -> None:
    import logging

    # Ours alone may say more: at DEBUG, drivers write whole requests with the credentials in them.
    chosen = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(chosen, logging.INFO), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("studio").setLevel(chosen)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it announces each of its own plugins


async def _run(application: Application, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal; `ready` is called when the signals are heeded."""
    import asyncio

    import uvicorn

    from studio.server import config, settle
    from studio.services import tracing

    server = uvicorn.Server(config(application))
    settle()
    with ExitStack() as stack:
        stack.callback(tracing.use_environment())
        stack.enter_context(_signals_stop(server))
        ready()
        watching = asyncio.create_task(application.service.watch(), name="studio-watch")
        try:
            await server.serve(sockets=[listener])
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def _listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket. Raises InvalidRequest where the address cannot be had."""
    from studio.server import listen

    try:
        return listen(host, port, shared=shared)
    except OSError as exc:
        raise InvalidRequest.at("--port", f"cannot listen on {host} port {port}: {exc.strerror}") from exc


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
