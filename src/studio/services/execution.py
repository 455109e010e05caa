"""One governed operation that was planned: lease a session, run, and end in time; the same for query and stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from studio.contract import Provider, ProviderConfig, Result
from studio.contract.caps import Capped, capped
from studio.contract.config import join_secrets
from studio.contract.operation import Download
from studio.errors import OperationNotSupported, StudioError
from studio.services.audited import Call
from studio.services.configs import Kind
from studio.services.core import Core
from studio.services.planning import Planned, Target
from studio.services.revocation import Course
from studio.services.sessions import Lease, SessionKey

T = TypeVar("T")


async def run(core: Core, planned: Planned, chunks: AsyncIterator[bytes] | None = None) -> Result:
    """Run it under one deadline, rows up to the caps. `chunks` is what a form that takes bytes is given.

    Raises:
        PoolBusy: the deadline passed while the call waited for a session; nothing was sent.
        Timeout: it passed later; the work upstream was cancelled.
        Unrecorded: the audit log cannot be written; nothing was sent.
        StudioError: what the provider answers.
    """
    with Course(core, planned) as course:
        return await _run(core, course, chunks)


async def _run(core: Core, course: Course, chunks: AsyncIterator[bytes] | None) -> Result:
    planned = course.planned
    async with Call(core, planned, course.until) as call:
        try:
            with course.deadline():
                async with _lease(core, planned.target, course) as provider:
                    if chunks is None:
                        result = await provider.run(planned.operation, planned.arguments)
                    else:
                        result = await provider.upload(planned.operation, planned.arguments, call.counted(chunks))
        except TimeoutError as exc:
            raise course.late() from exc
        result.execution_time_ms = call.seconds() * 1000
        call.answered(result)
    return result


async def stream(core: Core, planned: Planned) -> AsyncGenerator[Capped, None]:
    """The rows in batches, in constant memory, under the same deadline and caps as `run`.

    The reader's own slowness counts: one deadline covers the work, reading and sending.
    """
    if not planned.operation.rows:
        raise OperationNotSupported(
            f"operation {planned.operation.name} does not return rows, so it cannot be streamed"
        )
    with Course(core, planned) as course:
        batches = _batches(core, planned, course)
        async with (
            Call(core, planned, course.until) as call,
            aclosing(batches),
            aclosing(_in_time(batches, course)) as parts,
        ):
            async for part in parts:
                call.passed(rows=len(part.rows), size=part.size)
                yield part


@asynccontextmanager
async def download(core: Core, planned: Planned) -> AsyncIterator[Download]:
    """Raw bytes in constant memory, under the deadline of `run`; the reader's own slowness counts."""
    async with AsyncExitStack() as stack:
        course = stack.enter_context(Course(core, planned))
        call = await stack.enter_async_context(Call(core, planned, course.until))
        try:
            with course.deadline():
                provider = await stack.enter_async_context(_lease(core, planned.target, course))
                content = await stack.enter_async_context(provider.download(planned.operation, planned.arguments))
        except TimeoutError as exc:
            raise course.late() from exc
        content.chunks = call.counted(_in_time(content.chunks, course))
        yield content


async def _in_time(parts: AsyncIterator[T], course: Course) -> AsyncGenerator[T, None]:
    """Each part under the one deadline; the time between two counts as well."""
    while True:
        try:
            with course.deadline():
                part = await anext(parts, None)
        except TimeoutError as exc:
            raise course.late() from exc
        if part is None:
            return
        yield part


async def _batches(core: Core, planned: Planned, course: Course) -> AsyncGenerator[Capped, None]:
    async with _lease(core, planned.target, course) as provider:
        parts = capped(provider.stream(planned.operation, planned.arguments), provider.config)
        async with aclosing(parts):
            async for part in parts:
                yield part


def _lease(core: Core, target: Target, course: Course) -> Lease:
    key = SessionKey(target.connector.id, target.connector.version, target.effective.digest)
    size = int(target.effective["pool_size"])
    return core.sessions.lease(key, size, partial(open_provider, core, target), admitted=course.admitted)


async def open_provider(core: Core, target: Target, stack: AsyncExitStack) -> Provider[Any]:
    """Release the config to a new session of its provider."""
    config = core.configs.release(target.connector, target.effective.override)
    return await open_session(core, target.effective.kind, config, stack, target.connector.organization_id)


async def open_session(
    core: Core, kind: Kind, config: ProviderConfig, stack: AsyncExitStack, organization_id: str | None
) -> Provider[Any]:
    """A new session of a provider, with the secrets that its config refers to. Raises only errors of ours."""
    config = await core.references.resolved(organization_id or "", config)
    provider: Provider[Any] = kind(config, network=core.egress, organization_id=organization_id)
    try:
        await provider.open(stack)
    except StudioError:
        raise  # from itself it would be a cycle, and keep megabytes until one is looked for
    except Exception as exc:
        raise provider.error(exc) from exc
    return provider


async def pinned(core: Core, kind: Kind, config: ProviderConfig, organization_id: str) -> ProviderConfig:
    """The config with what its upstream pins. One that cannot be reached is registered all the same, not pinned."""
    if not kind.pins:
        return config
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(min(config.timeout_s, core.settings.max_timeout_s)):
            found = await _pins_of(await open_session(core, kind, config, stack, organization_id))
    except (StudioError, TimeoutError):
        return config
    public, secrets = config.split()
    return kind.Config.parse(join_secrets({**public, **found}, secrets))


async def _pins_of(provider: Provider[Any]) -> Mapping[str, Any]:
    try:
        return await provider.pin()
    except StudioError:
        raise  # from itself it would be a cycle, and keep megabytes until one is looked for
    except Exception as exc:
        raise provider.error(exc) from exc
