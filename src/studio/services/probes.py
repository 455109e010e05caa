"""Connection tests: through the same release, gate and provider as execution, on a session of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from studio.contract import Probe, Provider, Stage
from studio.errors import ResultBlocked, StudioError, Timeout, Unreachable

GENERAL_FIXES = {
    "resolve": "check the spelling of the host name, and that this machine's DNS knows it",
    "connect": "check host and port, that the server runs, and that no firewall stands between",
    "tls": "check the ssl settings: the CA that signed the server's certificate, and the host name in it",
    "login": "check username, password and database",
    "auth_failed": "check username and password; after a change of password, update the connector",
    "egress_denied": "an operator can open the range with STUDIO_EGRESS_ALLOW",
    "timeout": "a firewall may drop the packets; check host and port, or raise connect_timeout_s",
    "silent": "check that such a server speaks on that port, and that it is not starting, frozen or overloaded",
}
_BEFORE = {"resolve", "connect", "tls"}
Opener = Callable[[AsyncExitStack], Awaitable[Provider[Any]]]


async def test(opener: Opener, *, timeout_s: float, quick: bool) -> tuple[dict[str, Any], StudioError | None]:
    """Test a connection, in stages; `quick` asks for no more than an answer, and for stages where none comes.

    Returns:
        The public answer (`success`, `message`, `latency_ms`, `stages`, `privileges`), and the error of
        a test that failed.
    """
    probe, start = Probe(), time.perf_counter()
    error: StudioError | None = None
    fixes: dict[str, str] = dict(GENERAL_FIXES)
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(timeout_s):
            provider = await opener(stack)
            fixes.update(provider.fixes)
            try:
                await (_answers(provider, probe) if quick else provider.probe(probe))
                _look(provider, probe)
            except StudioError:
                raise  # from itself it would be a cycle, and keep megabytes until one is looked for
            except Exception as exc:
                raise provider.error(exc) from exc
    except TimeoutError:
        error = Timeout(f"no answer within {timeout_s:g} s")
    except StudioError as exc:
        error = exc
    if error is not None:
        _explain(probe, error, fixes)
    return {
        "success": error is None,
        "message": "Connection successful" if error is None else error.message,
        "latency_ms": round((time.perf_counter() - start) * 1000, 3),
        "stages": [_shown(stage) for stage in probe.stages],
        "privileges": probe.privileges,
        **({} if error is None else {"code": error.code, "retryable": error.retryable}),
    }, error


async def _answers(provider: Provider[Any], probe: Probe) -> None:
    """One round trip. If it fails, the stages say where: they are gone through, and the first failure counts."""
    try:
        await provider.ping()
    except Exception:
        await provider.probe(probe)
        raise


def _look(provider: Provider[Any], probe: Probe) -> None:
    """An upstream's words may hold the secret that it was given. Raises ResultBlocked, and drops them."""
    try:
        provider.config.watch.check_value([vars(stage) for stage in probe.stages], probe.privileges)
    except ResultBlocked:
        probe.stages, probe.privileges = [], None
        raise


def _explain(probe: Probe, error: StudioError, fixes: dict[str, str]) -> None:
    failed = next((stage for stage in probe.stages if not stage.ok), None)
    if failed is None:
        with probe.stage("open") as failed:
            failed.ok = False
    failed.detail = error.message
    reached = failed.name not in _BEFORE and any(stage.name == "connect" and stage.ok for stage in probe.stages)
    if reached and isinstance(error, Unreachable | Timeout):
        failed.fix = fixes["silent"]  # neither the network nor the credentials are at fault
    else:
        failed.fix = fixes.get(error.code) or fixes.get(failed.name)


def _shown(stage: Stage) -> dict[str, Any]:
    stage.ms = round(stage.ms, 3)
    return {name: value for name, value in vars(stage).items() if value is not None}
