"""A second chance where the upstream refuses the credentials: the other set of secrets that a rotation keeps.

Between the moment at which an upstream takes a new password and the one at which this service has
put it in force, either may be refused; and for a grace after it, servers may still want the old
one. Nothing is asked unless the credentials were refused, and a refused log-in has had no effect,
so each other set is tried once; one that came into being while another was tried counts too. The
config is always the present one; only its secrets differ.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

from studio.contract import Result
from studio.contract.caps import Capped
from studio.contract.operation import Download
from studio.errors import AuthFailed, EncryptionError, NotFound
from studio.services import execution, metrics
from studio.services.core import Core
from studio.services.planning import Planned, Target
from studio.store import rotations
from studio.store.rotations import PREVIOUS, STAGED

MOST = 5
"""Sets that one call tries at most: an upstream may lock an account out."""


class Chunks:
    """A caller's bytes, which can be read once; `begun` says whether anybody has."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.begun = True
        return await anext(self._chunks)


async def run(core: Core, planned: Planned, refused: AuthFailed, chunks: Chunks | None = None) -> Result:
    """As `execution.run`, with the other secrets. Raises `refused` where none is taken."""
    tried: set[object] = set()
    while other := await _next(core, planned, tried):
        try:
            return await execution.run(core, other, chunks)
        except AuthFailed:
            if chunks is not None and chunks.begun:
                raise
    raise refused


async def download(core: Core, planned: Planned, refused: AuthFailed, stack: AsyncExitStack) -> Download:
    """As `execution.download`, entered on `stack`."""
    tried: set[object] = set()
    while other := await _next(core, planned, tried):
        try:
            return await stack.enter_async_context(execution.download(core, other))
        except AuthFailed:
            continue
    raise refused


async def stream(core: Core, planned: Planned, refused: AuthFailed) -> AsyncGenerator[Capped, None]:
    """As `execution.stream`; once a row was given, nothing is tried again."""
    tried: set[object] = set()
    while other := await _next(core, planned, tried):
        begun = False
        try:
            async for part in execution.stream(core, other):
                begun = True
                yield part
        except AuthFailed:
            if begun:
                raise
        else:
            return
    raise refused


async def _next(core: Core, planned: Planned, tried: set[object]) -> Planned | None:
    """The same call under a set that was not tried yet, the likeliest first; None where there is none."""
    if len(tried) == MOST:
        return None
    async for name, target in _others(core, planned.target):
        if name not in tried:
            tried.add(name)
            metrics.fell_back(target.connector.provider)
            return replace(planned, target=target)
    return None


async def _others(core: Core, target: Target) -> AsyncIterator[tuple[object, Target]]:
    # In this order: a set that is staged at the first look and gone at the second is in the newest row.
    sets = await rotations.of(core.database, target.connector.id)
    try:
        newest = await core.store.scope(target.connector.organization_id, "studio").connector(target.connector.id)
    except NotFound:
        return
    effective = core.configs.effective(newest, target.instance)
    if newest.status == "inactive" or effective.unfit or effective.public != target.effective.public:
        return  # more than secrets changed since this call was judged
    if newest.version != target.connector.version:
        yield newest.version, replace(target, connector=newest, effective=effective)
    for kind in (STAGED, PREVIOUS):
        other = sets.get(kind)
        if other is None or (kind == PREVIOUS and other.over):
            continue
        try:
            connector = core.configs.exchanged(newest, other.id, other.sealed)
        except EncryptionError:
            continue  # it was sealed to another destination than the present one
        # A session of its own: no override has such a digest.
        yield (
            other.id,
            replace(target, connector=connector, effective=replace(effective, digest=f"{effective.digest}+{other.id}")),
        )
