"""Use cases that run operations: query, execute, stream, and what an alias can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from studio.contract.caps import Capped
from studio.contract.operation import Download
from studio.errors import AuthFailed, InvalidRequest, StudioError
from studio.models import Effect, Result, ResultDict, Role
from studio.security import policy
from studio.services import execution, fallback, planning, saved
from studio.services.bound import Bound, Record
from studio.services.core import Core
from studio.services.inputs import agent_id_of
from studio.services.planning import Planned, Target
from studio.services.saved import BY_ARGUMENTS
from studio.services.streams import encoded, form_of
from studio.store.saved import Saved as SavedRows


class Operations(Bound):
    """See the methods."""

    async def execute_query(
        self,
        connector_id: str | None = None,
        query: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        agent_id: str | None = None,
        alias: str | None = None,
        organization_id: str | None = None,
    ) -> ResultDict:
        """Run a statement in the provider's own language, on a connector or on an agent's alias.

        Raises:
            StudioError: any of them; see `contract.md` for the codes.
        """
        target = await self.target(connector_id, agent_id=agent_id, alias=alias, organization_id=organization_id)
        return (await self.run(self.plan_query(target, query, params))).to_dict()

    async def stream_query(
        self,
        connector_id: str | None = None,
        query: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        form: str = "ndjson",
        agent_id: str | None = None,
        alias: str | None = None,
        organization_id: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """As `execute_query`, the rows as bytes in constant memory: ndjson, json, csv or arrow.

        The source waits while nobody takes the next bytes. A failure is raised, after the first bytes too.

        Raises:
            OperationNotSupported: the statement returns no rows here; nothing was run.
        """
        writer = form_of(form)
        target = await self.target(connector_id, agent_id=agent_id, alias=alias, organization_id=organization_id)
        parts = self.stream(planning.plan_query(self._principal, target, query, params))
        async with aclosing(encoded(parts, writer)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def execute(
        self,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        connector_id: str | None = None,
        agent_id: str | None = None,
        alias: str | None = None,
        organization_id: str | None = None,
    ) -> ResultDict:
        """Run one operation with its arguments, on a connector or on an agent's alias."""
        target = await self.target(
            connector_id, agent_id=agent_id, alias=alias, organization_id=organization_id, operation=operation
        )
        return (await self.run(self.plan(target, operation, arguments or {}))).to_dict()

    async def operations(
        self,
        agent_id: str | None = None,
        alias: str | None = None,
        *,
        connector_id: str | None = None,
        organization_id: str | None = None,
    ) -> list[Record]:
        """The operations that this caller may run there, with their schemas; saved ones come last, by name."""
        target = await self.target(connector_id, agent_id=agent_id, alias=alias, organization_id=organization_id)
        core = await self._home.core()
        own = [] if target.saved_only else [one.describe() for one in target.effective.operations.values()]
        rows = await SavedRows(core.log, target.connector.organization_id).all(target.connector.id)
        described = [*own, *saved.described(rows, target.effective)]
        read_only = bool(target.effective["read_only"])
        return [one for one in described if self._allows(one["effect"], read_only=read_only)]

    def _allows(self, effect: str, *, read_only: bool) -> bool:
        """What hangs on the arguments is listed, and judged when it is called."""
        return effect == BY_ARGUMENTS or policy.allows(self._principal, Effect(effect), read_only=read_only)

    # -- for surfaces that encode results themselves --------------------------------------------

    async def target(
        self,
        connector_id: str | None = None,
        *,
        agent_id: str | None = None,
        alias: str | None = None,
        organization_id: str | None = None,
        operation: str | None = None,
    ) -> Target:
        """What a call is about: a connector by id, or an agent's alias. Raises NotFound, Forbidden, RateLimited.

        `operation` is the one that will be planned; where the provider has none of that name, it is
        looked for among the saved ones.
        """
        core = await self._home.core()
        place = ("target", self._principal, connector_id, agent_id, alias, organization_id, operation)
        turn = core.turns.of(self._principal.organization_id or organization_id or "")
        try:
            if turn is None:
                return await self._known(core, place)
            async with turn:
                return await self._known(core, place)
        except StudioError as exc:
            self._refused("execute", exc, connector_id=connector_id, agent_id=agent_id, alias=alias)
            raise

    async def _known(self, core: Core, place: tuple[Any, ...]) -> Target:
        known: Target | None = core.fresh.now(place)
        if known is None:
            known = await core.fresh.read(place, partial(self._target, *place[2:]))
        return known

    async def _target(
        self,
        connector_id: str | None,
        agent_id: str | None,
        alias: str | None,
        organization_id: str | None,
        operation: str | None,
    ) -> Target:
        if connector_id is not None:
            core, _, connector = await self._find(connector_id, Role.DEVELOPER)
            return await self._with_saved(core, Target(connector, None, core.configs.effective(connector)), operation)
        if agent_id is None or alias is None:
            raise InvalidRequest.at("connector_id", "give connector_id, or agent_id and alias")
        policy.require_agent(self._principal, agent_id_of(agent_id), Role.DEVELOPER)
        core, scope = await self._scope(organization_id)
        return await self._with_saved(
            core, await planning.by_alias(core, scope, self._principal, agent_id, alias), operation
        )

    async def _with_saved(self, core: Core, target: Target, operation: str | None) -> Target:
        if operation is None or (operation in target.effective.operations and not target.saved_only):
            return target
        rows = SavedRows(core.log, target.connector.organization_id)
        row = await rows.named(target.connector.id, operation)
        return target if row is None else replace(target, saved=saved.of(row))

    def plan(self, target: Target, operation: str, arguments: Mapping[str, Any], *, raw: bool = False) -> Planned:
        """Look an operation up and ask policy; see `planning.plan`."""
        try:
            return planning.plan(self._principal, target, operation, arguments, raw=raw)
        except StudioError as exc:
            self._refused_plan(exc, target, operation)
            raise

    def plan_query(self, target: Target, query: str, params: Mapping[str, Any] | None) -> Planned:
        """The same for a statement in the provider's own language."""
        try:
            return planning.plan_query(self._principal, target, query, params)
        except StudioError as exc:
            self._refused_plan(exc, target, "query")
            raise

    def _refused_plan(self, exc: StudioError, target: Target, operation: str) -> None:
        known = operation in target.effective.operations or target.saved is not None
        self._refused(
            "execute",
            exc,
            connector_id=target.connector.id,
            organization_id=target.connector.organization_id,
            agent_id=target.instance.agent_id if target.instance else None,
            alias=target.instance.alias if target.instance else None,
            operation=operation if known else None,  # what nobody declared may hold anything
        )

    async def run(self, planned: Planned) -> Result:
        """Run what was planned; rows stay tuples. Refused credentials are tried once more: see `fallback`."""
        core = await self._home.core()
        try:
            return await execution.run(core, planned)
        except AuthFailed as refused:
            return await fallback.run(core, planned, refused)

    async def upload(self, planned: Planned, chunks: AsyncIterator[bytes]) -> Result:
        """Give raw bytes to what was planned with `raw=True`, in constant memory."""
        core, given = await self._home.core(), fallback.Chunks(chunks)
        try:
            return await execution.run(core, planned, given)
        except AuthFailed as refused:
            if given.begun:  # they cannot be had again
                raise
            return await fallback.run(core, planned, refused, given)

    @asynccontextmanager
    async def download(self, planned: Planned) -> AsyncIterator[Download]:
        """The raw bytes of what was planned with `raw=True`, in constant memory."""
        core = await self._home.core()
        async with AsyncExitStack() as stack:
            try:
                content = await stack.enter_async_context(execution.download(core, planned))
            except AuthFailed as refused:
                content = await fallback.download(core, planned, refused, stack)
            yield content

    async def stream(self, planned: Planned) -> AsyncGenerator[Capped, None]:
        """The rows of what was planned, batch by batch, in constant memory."""
        core = await self._home.core()
        begun = False
        try:
            async for part in execution.stream(core, planned):
                begun = True
                yield part
        except AuthFailed as refused:
            if begun:
                raise
            async for part in fallback.stream(core, planned, refused):
                yield part
