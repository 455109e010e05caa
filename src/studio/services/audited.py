"""A governed call and its rows in the audit log: the one place where an operation is timed, counted and noted."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import orjson

from studio.contract.deadline import Deadline
from studio.contract.values import size_of
from studio.errors import StudioError
from studio.models import AuditEntry, Effect, Result
from studio.services import metrics, tracing
from studio.services.recorder import unrecorded

if TYPE_CHECKING:
    from studio.services.bound import Bound
    from studio.services.core import Core
    from studio.services.planning import Planned

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B", bound="Bound")


class Call:
    """`async with` around the work of one operation. Entering it may refuse: then nothing may be sent.

    A read is noted after its end. Anything else is noted, durably, before it begins, and once more at
    its end: an effect whose process dies leaves a row without an outcome.

    Raises:
        Unrecorded: the audit log cannot be written.
    """

    __slots__ = ("_core", "_labels", "_planned", "_span", "_start", "_until", "entry")

    def __init__(self, core: Core, planned: Planned, until: float) -> None:
        target, instance = planned.target, planned.target.instance
        self._core, self._planned, self._until = core, planned, until
        self._start = time.perf_counter()
        kind, name = target.effective.kind, planned.operation.name
        # Names that a tenant gave (OpenAPI, saved operations) are counted as one: labels must stay few.
        self._labels = (kind.family, kind.kind, name if name in kind.operations else "named")
        self._span = tracing.begun(*self._labels)
        self.entry = AuditEntry(
            target.connector.organization_id,
            "execute",
            planned.principal.subject,
            agent_id=instance.agent_id if instance else planned.principal.agent_id,
            alias=instance.alias if instance else None,
            connector_id=target.connector.id,
            operation=planned.name,
            effect=planned.effect.value,
            digest=core.log.digest(statement(planned.arguments)),
            rows=0,
            bytes=0,
        )

    async def __aenter__(self) -> Self:
        recorder = self._core.recorder
        if self._planned.effect is Effect.READ and recorder.admits(self.entry.organization_id):
            return self
        begun = False
        try:
            with Deadline(self._until):
                if self._planned.effect is Effect.READ:
                    await recorder.admit(self.entry.organization_id)
                else:
                    await recorder.room()
                    begun = True
                    recorder.add(started(self.entry))
                    await recorder.written()
        except BaseException as exc:
            error = unrecorded() if isinstance(exc, TimeoutError) else exc
            self._end(error, sent=False)
            # A call that has its first row gets its last one; the others may be very many.
            (recorder.add if begun else recorder.refuse)(self.entry)
            raise error from exc
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end(exc, sent=True)
        self._core.recorder.add(self.entry)

    def seconds(self) -> float:
        """Since the call began."""
        return time.perf_counter() - self._start

    def answered(self, result: Result) -> None:
        """Note how much came back."""
        self.entry.rows = result.row_count
        if not self.entry.bytes:
            self.entry.bytes = _size(result.data) if result.bytes is None else result.bytes

    async def counted(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Bytes on their way in or out, noted as they pass."""
        async for chunk in chunks:
            self.passed(rows=0, size=len(chunk))
            yield chunk

    def passed(self, *, rows: int, size: int) -> None:
        """Note a part that went by."""
        self.entry.rows = (self.entry.rows or 0) + rows
        self.entry.bytes = (self.entry.bytes or 0) + size

    def _end(self, exc: BaseException | None, *, sent: bool) -> None:
        seconds, entry = self.seconds(), self.entry
        if isinstance(exc, StudioError):
            entry.verdict, entry.code = ("failed" if sent else "refused"), exc.code
        elif exc is not None:
            entry.verdict = "cancelled"
        entry.micros = int(seconds * 1_000_000)
        outcome = entry.code or ("ok" if exc is None else "cancelled")
        metrics.record(*self._labels, outcome, seconds)
        tracing.ended(self._span, outcome, entry.rows)


def started(entry: AuditEntry) -> AuditEntry:
    """The row that stands in the log before an effect is sent."""
    return AuditEntry(
        entry.organization_id, entry.event, entry.subject, "started", agent_id=entry.agent_id, alias=entry.alias,
        connector_id=entry.connector_id, operation=entry.operation, effect=entry.effect, digest=entry.digest,
        request_id=entry.request_id,
    )  # fmt: skip


def statement(arguments: Mapping[str, Any]) -> bytes:
    """What is digested: the statement where there is one (its parameters may differ), else all arguments."""
    query = arguments.get("query")
    if isinstance(query, str):
        return query.encode("utf-8", "surrogatepass")
    try:
        return orjson.dumps(arguments, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # such as an integer past 64 bits, from a caller in process
        return repr(sorted(arguments.items())).encode("utf-8", "surrogatepass")


def _size(data: Any) -> int | None:
    try:
        return size_of(data)
    except TypeError:
        return None


def refusals(
    event: str,
) -> Callable[[Callable[Concatenate[B, P], Awaitable[T]]], Callable[Concatenate[B, P], Awaitable[T]]]:
    """Note in the audit log whatever error a use case ends with. What it changes, its store methods note."""

    def decorate(method: Callable[Concatenate[B, P], Awaitable[T]]) -> Callable[Concatenate[B, P], Awaitable[T]]:
        @wraps(method)
        async def noting(self: B, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await method(self, *args, **kwargs)
            except StudioError as exc:
                first = args[0] if args else kwargs.get("connector_id")
                self._refused(event, exc, connector_id=first if isinstance(first, str) else None)
                raise

        noting.__dict__["__audited__"] = event
        return noting

    return decorate
