"""What the author of a provider writes, and what the house does around it.

A provider fills five holes: `Config`, `open`, `ping`, `translate` and its operations. The house
validates arguments, turns driver errors into ours, and applies the caps while rows are read.
Deadlines, policy, sealing, pools of sessions and the surfaces are not a provider's business.

A provider class is importable without its driver: import drivers inside `open` and `translate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, ClassVar, Generic, TypeVar

from studio.contract.caps import Caps
from studio.contract.config import ProviderConfig
from studio.contract.network import Network
from studio.contract.operation import Batch, Download, Operation, byte_forms_of, operations_of
from studio.contract.probe import Probe
from studio.contract.values import canonical
from studio.errors import Internal, OperationNotSupported, StudioError, UpstreamError
from studio.models import Result

ConfigT = TypeVar("ConfigT", bound=ProviderConfig)


class Provider(ABC, Generic[ConfigT]):
    """One kind of external system. An instance is a live, pooled session to one upstream."""

    kind: ClassVar[str]
    """As spelled in `connector-management.md`, or an outside provider's own."""
    family: ClassVar[str]
    """The `connector_type`: database, api, storage or messaging."""
    Config: ClassVar[type[ProviderConfig]]
    operations: ClassVar[Mapping[str, Operation]] = {}
    byte_forms: ClassVar[Mapping[str, Operation]] = {}
    """Operations that have a second form which moves raw bytes (see `byte_form`), by name."""
    fixes: ClassVar[Mapping[str, str]] = {}
    """What usually mends a failing test, by stage name or by error code."""
    pins: ClassVar[bool] = False
    """Whether `pin` has something to add; registering then asks the upstream."""
    rotates: ClassVar[str | None] = None
    """The secret that `set_password` changes upstream, as the config names it; None where it cannot."""
    rotates_through: ClassVar[str | None] = None
    """The field that must be set for that, where there is one."""

    config: ConfigT
    network: Network
    organization_id: str | None
    """Whose connector it is; None where no organization was named (a config that is only being tested)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.operations = operations_of(cls)
        cls.byte_forms = byte_forms_of(cls, cls.operations)

    def __init__(self, config: ConfigT, *, network: Network, organization_id: str | None = None) -> None:
        self.config = config
        self.network = network
        self.organization_id = organization_id

    # -- what an author writes ------------------------------------------------------------------

    @abstractmethod
    async def open(self, stack: AsyncExitStack) -> None:
        """Make the pool, and push its clean-up on `stack`. Connecting may wait for the first use."""

    @abstractmethod
    async def ping(self) -> None:
        """One cheap round trip to the upstream. Raises what the driver raises."""

    @abstractmethod
    def translate(self, exc: Exception) -> StudioError | None:
        """The driver's exception as ours; None for one that no driver raises (a defect)."""

    async def pin(self) -> Mapping[str, Any]:
        """Fields that registration adds to the config: what was found upstream then, to be held to later."""
        return {}

    async def set_password(self, new: str) -> str | None:
        """Give the account that is logged in a new password upstream; log-ins from now on need it.

        `new` holds letters, digits, `-` and `_` only. Keep it out of the upstream's logs: send a verifier
        where one is taken. Returns what an operator still has to do, if anything.
        """
        raise OperationNotSupported(f"{self.kind} cannot set a password upstream; change it there and give the new one")

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """What `execute_query(query, params)` means here: an operation's name and its arguments."""
        return "query", {"query": query, "params": dict(params) if params else None}

    @classmethod
    def operations_for(cls, public: Mapping[str, Any]) -> Mapping[str, Operation]:
        """The operations under a non-secret config: those of the class, and any that the config itself describes."""
        return cls.operations

    async def probe(self, probe: Probe) -> None:
        """Test the connection in named stages. Families and providers refine this."""
        with probe.stage("login"):
            await self.ping()

    # -- what the house does --------------------------------------------------------------------

    @classmethod
    def operation(cls, name: str, among: Mapping[str, Operation] | None = None) -> Operation:
        """The operation of that name, of the class or `among` those of a connector (`operations_for`).

        Raises:
            OperationNotSupported: naming what exists.
        """
        known = cls.operations if among is None else among
        found = known.get(name)
        if found is None:
            names = ", ".join(sorted(known)[:100])
            raise OperationNotSupported(f"{cls.kind} has no operation of that name; it has: {names}")
        return found

    async def run(self, operation: Operation, arguments: Mapping[str, Any]) -> Result:
        """Run one operation with parsed arguments; rows are collected up to the caps.

        Raises:
            StudioError: always one of ours.
        """
        try:
            if operation.rows:
                return await self._collect(operation.method(self, **arguments))
            answer = await operation.method(self, **arguments)
        except StudioError:
            raise
        except Exception as exc:
            raise self.error(exc) from exc
        return self._seen(answer)

    async def stream(self, operation: Operation, arguments: Mapping[str, Any]) -> AsyncGenerator[Batch, None]:
        """The batches of an operation that returns rows, uncapped. Raises only errors of ours."""
        rows = operation.method(self, **arguments)
        try:
            async with aclosing(rows):
                async for batch in rows:
                    yield batch
        except StudioError:
            raise
        except Exception as exc:
            raise self.error(exc) from exc

    @classmethod
    def byte_form(cls, name: str) -> Operation:
        """The form of an operation that moves raw bytes.

        Raises:
            OperationNotSupported: it has none, or there is no such operation.
        """
        cls.operation(name)
        if name not in cls.byte_forms:
            known = ", ".join(sorted(cls.byte_forms)) or "none here"
            raise OperationNotSupported(f"operation {name} does not stream bytes; those that do: {known}")
        return cls.byte_forms[name]

    @asynccontextmanager
    async def download(self, form: Operation, arguments: Mapping[str, Any]) -> AsyncIterator[Download]:
        """Open a byte form that gives bytes. Errors are ours, those of a chunk as well."""
        if form.takes_bytes:
            raise OperationNotSupported(f"operation {form.name} takes bytes and gives none")
        async with AsyncExitStack() as stack:
            try:
                content = await stack.enter_async_context(form.method(self, **arguments))
            except StudioError:
                raise
            except Exception as exc:
                raise self.error(exc) from exc
            self.config.watch.check_value(content.details)
            content.chunks = await stack.enter_async_context(aclosing(self._ours(content.chunks)))
            yield content

    async def upload(self, form: Operation, arguments: Mapping[str, Any], chunks: AsyncIterator[bytes]) -> Result:
        """Run a byte form that takes bytes. What `chunks` itself raises stops it and goes on up."""
        if not form.takes_bytes:
            raise OperationNotSupported(f"operation {form.name} gives bytes and takes none")
        source = _Source(chunks)
        try:
            answer = await form.method(self, source, **arguments)
        except Exception as exc:
            if source.failure is not None:
                raise source.failure from None
            if isinstance(exc, StudioError):
                raise
            raise self.error(exc) from exc
        return self._seen(answer)

    async def _ours(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        check = self.config.watch.over_chunks()
        try:
            async for chunk in chunks:
                check(chunk)
                yield chunk
        except StudioError:
            raise
        except Exception as exc:
            raise self.error(exc) from exc

    def error(self, exc: Exception) -> StudioError:
        """`exc` as one of ours; what no translation knows is a defect and says nothing else."""
        if isinstance(exc, StudioError):
            return exc
        if isinstance(exc, ModuleNotFoundError):
            return OperationNotSupported(
                f"the driver of {self.kind} is not installed here; an operator installs it with "
                f"pip install 'studio-connectors[{self.kind}]'"
            )
        found = self.translate(exc)
        if found is None:
            return Internal(f"{self.kind}: unexpected {type(exc).__name__}")
        if self.config.watch.finds(str(found).encode("utf-8", "replace")):
            return UpstreamError("the upstream's message holds a secret of this connector itself, so it is withheld")
        return found

    def _seen(self, answer: Any) -> Result:
        """What an operation returned, as a result that may be shown. Raises ResultBlocked."""
        result = answer if isinstance(answer, Result) else _as_result(answer)
        self.config.watch.check_value(result.columns, result.rows, result.data, result.next_cursor)
        return result

    async def _collect(self, batches: AsyncGenerator[Batch, None]) -> Result:
        result, documents, size, caps = Result(), False, 0, Caps(self.config, kept=True)
        rows: list[Any] = []
        try:
            async for batch in batches:
                part = caps.take(batch)
                result.columns, result.truncated, documents = part.columns, part.truncated, part.documents
                rows += part.rows
                size += part.size
                del batch, part  # before the next are read
                if result.truncated:
                    break
        finally:
            await batches.aclose()
        rows = caps.unpacked(rows)
        result.row_count, result.bytes = len(rows), size
        result.data, result.rows = (rows, None) if documents else (None, rows)
        return result


class _Source:
    """The caller's chunks; remembers their own failure, which no translation of ours may hide."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.failure: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except Exception as exc:
            self.failure = exc
            raise


def _as_result(value: Any) -> Result:
    data = canonical(value)
    count = len(data) if isinstance(data, list) else int(data is not None)
    return Result(data=data, row_count=count)
