"""Running operations, and their end where the authority for them was taken away.

What begins is judged on newest state by itself (`planning.plan`). This is about what runs already: a
process looks at the operations that it runs whenever a change is announced, and at least every
`LOOK_EVERY_S`, which also covers an announcement that was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from studio.contract.deadline import Deadline
from studio.errors import Forbidden, PoolBusy, StudioError, Timeout
from studio.services.identity import holder_of
from studio.services.planning import require_still
from studio.store.authority import Authority, Standing, standing

if TYPE_CHECKING:
    from studio.services.core import Core
    from studio.services.planning import Planned

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
REVOKED = "the authority for this operation was taken away while it ran; its work was cancelled"


class Course:
    """`with` around one operation: its deadline, how far it has come, and whether it may go on.

    Until `admitted` it queues, and nothing was sent for it.
    """

    __slots__ = ("_core", "_part", "authority", "planned", "queueing", "revoked", "until")

    def __init__(self, core: Core, planned: Planned) -> None:
        target = planned.target
        self._core, self.planned = core, planned
        self.until = asyncio.get_running_loop().time() + min(target.timeout_s, core.settings.max_timeout_s)
        """On the loop's clock."""
        self.authority = Authority(
            key_id=planned.principal.subject.removeprefix("key:")
            if planned.principal.subject.startswith("key:")
            else None,
            instance_id=target.instance.id if target.instance else None,
            connector_id=target.connector.id,
        )
        self.queueing, self.revoked = True, False
        self._part: Deadline | None = None

    def __enter__(self) -> Self:
        self._core.running.add(self)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._core.running.discard(self)

    def admitted(self) -> None:
        """The queueing is over."""
        self.queueing = False

    def deadline(self) -> Deadline:
        """Around each part of the work. Raises TimeoutError where the operation may not go on."""
        if self.revoked:
            raise TimeoutError
        self._part = Deadline(self.until)
        return self._part

    def revoke(self) -> None:
        """End the work, as a deadline that passes now. Between two parts, the next one does not begin."""
        self.revoked = True
        if self._part is not None:
            self._part.ring()

    def late(self) -> StudioError:
        """What a deadline that passed means."""
        if self.revoked:
            return Forbidden(REVOKED)
        if not self.queueing:
            return Timeout(
                f"the operation did not finish within timeout_s={self.planned.target.timeout_s:g}; its work was "
                "cancelled. Ask for less, or have the connector's timeout_s raised"
            )
        return PoolBusy("every session of this connector stayed in use until the deadline; try again", retry_after_s=1)


async def watch(core: Core) -> None:
    """End what lost its authority, until cancelled."""
    while True:
        await core.database.changed(LOOK_EVERY_S)
        try:
            await end_revoked(core, core.running)
        except Exception as exc:
            # A store that is away takes no authority away; the class alone is safe to log.
            logger.warning("running operations cannot be judged: %s", type(exc).__name__)


async def end_revoked(core: Core, running: Iterable[Course]) -> None:
    """Look once at everything that runs."""
    courses = list(running)
    if not courses:
        return
    left = await standing(core.database, {course.authority for course in courses})
    for course in courses:
        if not left.holds(course.authority) or not await _still(core, course, left):
            course.revoke()


async def _still(core: Core, course: Course, left: Standing) -> bool:
    """Whether policy would let it begin now, with its key and its connector as they are."""
    principal, target = course.planned.principal, course.planned.target
    key = left.keys.get(course.authority.key_id or "")
    if key is not None:
        principal = holder_of(key)
    try:
        if left.versions[target.connector.id] != target.connector.version:
            scope = core.store.scope(target.connector.organization_id, "studio")
            connector = await scope.connector(target.connector.id)
            effective = core.configs.effective(connector, target.instance)
            target = replace(target, connector=connector, effective=effective)
        elif principal == course.planned.principal:
            return True
        require_still(principal, target, course.planned.effect)
    except StudioError:
        return False
    return True
