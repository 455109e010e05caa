"""Use cases on connectors: create, get, list, update, delete, test, and the catalogue."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from studio import providers
from studio.contract import Provider
from studio.errors import BadRequest, Conflict, InvalidRequest, NotFound, StudioError
from studio.models import AuditEntry, Connector, Role, new_id, now
from studio.security import policy
from studio.services import execution, health, impact, planning, probes
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.configs import Kind, parse_config
from studio.services.core import Core
from studio.services.inputs import ConnectorChange, Listing, NewConnector, NewTest, OwnedConnector, OwnedTest
from studio.services.shapes import connector_dict, kind_dict
from studio.store.audit import STORE
from studio.store.store import Filters

_MERGE_TRIES = 5


class Connectors(Bound):
    """See the methods."""

    async def types(self) -> Record:
        """All kinds by connector type, and which of them this version can use (`available`)."""
        policy.require_role(self._principal, Role.MEMBER)
        kinds = providers.kinds()
        built = set(providers.built())
        return {
            "types": {family: list(names) for family, names in kinds.items()},
            "available": [name for names in kinds.values() for name in names if name in built],
            "not_built_yet": [name for names in kinds.values() for name in names if name not in built],
        }

    async def describe_type(self, provider: str) -> Record:
        """One provider: config schema, operations, what may be overridden. Raises NotFound."""
        policy.require_role(self._principal, Role.MEMBER)
        try:
            return kind_dict(providers.load(provider))
        except InvalidRequest:
            raise NotFound("no such provider") from None

    @refusals("connector.create")
    async def create(self, body: Mapping[str, Any], *, test: bool = False) -> Record:
        """Register a connector; its config is sealed before anything is stored.

        With `test`, it is tested first and stored only if that passes.

        Raises:
            InvalidRequest, InvalidConfig, BadRequest, OperationNotSupported: the input.
            Conflict: the name is taken in this organization.
        """
        policy.require_role(self._principal, Role.ADMIN)
        given, organization_id, created_by = self._owned(body)
        kind = _kind(given.connector_type, given.provider)
        core = await self._home.core()
        config = await execution.pinned(core, kind, parse_config(kind, given.config), organization_id)
        connector_id, time = new_id(), now()
        sealed = core.configs.seal(organization_id, connector_id, 1, config)
        connector = Connector(
            id=connector_id,
            organization_id=organization_id,
            name=given.name,
            connector_type=given.connector_type,
            provider=given.provider,
            config_encrypted=sealed.token,
            status="active",
            last_tested_at=None,
            last_test_result=None,
            last_error=None,
            created_by=created_by,
            created_at=time,
            updated_at=time,
            version=1,
            key_id=sealed.key_id,
            secret_set_at=time if config.split()[1] else None,
        )
        if test:
            await self._must_pass(core, connector)
        await core.store.scope(organization_id, created_by).add_connector(connector)
        return connector_dict(connector, core.configs.effective(connector))

    @refusals("connector.get")
    async def get(self, connector_id: str) -> Record:
        """One connector. Raises NotFound."""
        core, _, connector = await self._find(connector_id, Role.MEMBER)
        return connector_dict(connector, core.configs.effective(connector))

    @refusals("connector.list")
    async def list(
        self,
        *,
        organization_id: str | None = None,
        connector_type: str | None = None,
        provider: str | None = None,
        status: str | None = None,
        q: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        offset: int = 0,
    ) -> Record:
        """A page: `{"records": […], "total": n, "next_cursor": …}`, oldest first. `limit` is 1 to 200.

        Of long texts in a config, such as an OpenAPI document, a record has the beginning; `get` has all of it.
        """
        policy.require_role(self._principal, Role.MEMBER)
        asked = Listing.parse(
            {
                "connector_type": connector_type,
                "provider": provider,
                "status": status,
                "q": q,
                "limit": limit,
                "cursor": cursor,
                "offset": offset,
            }
        )
        core, scope = await self._scope(organization_id)
        filters = Filters(asked.connector_type, asked.provider, asked.status, asked.q)
        page = await scope.connectors(filters, limit=asked.limit, after=asked.cursor, offset=asked.offset)
        records = [connector_dict(record, core.configs.effective_or_none(record), row=True) for record in page.records]
        return {"records": records, "total": page.total, "next_cursor": page.next_id}

    @refusals("connector.update")
    async def update(
        self, connector_id: str, body: Mapping[str, Any], *, version: int | None = None, test: bool = False
    ) -> Record:
        """Change name, status or config (merged, RFC 7396).

        Args:
            version: the version that the caller read; another one stored is a Conflict.
            test: try the new config first; store only if it passes.

        Raises:
            NotFound, BadRequest, InvalidRequest, InvalidConfig, Conflict, SecretsRequired.
        """
        for left in reversed(range(_MERGE_TRIES)):
            core, scope, connector = await self._find(connector_id, Role.ADMIN)
            change = ConnectorChange.parse(body)
            if version is not None and version != connector.version:
                raise Conflict(f"the connector is at version {connector.version} now; read it again")
            values = await self._changed(core, connector, change)
            if not values:
                return connector_dict(connector, core.configs.effective(connector))
            if test:
                await self._must_pass(core, replace(connector, version=connector.version + 1, **values))
            try:
                changed = await scope.change_connector(
                    connector.id, version=connector.version, values=values, changes=change.names()
                )
            except Conflict as exc:
                # Somebody else's change came between. A caller who named no version wants a merge: merge again.
                if exc.fields or version is not None or not left:
                    raise
                continue
            core.sessions.retire(connector.id, below=changed.version)
            return connector_dict(changed, core.configs.effective(changed))
        raise AssertionError("the last try returns or raises")

    async def _changed(self, core: Core, connector: Connector, change: ConnectorChange) -> dict[str, Any]:
        """The columns to store, sealed for the next version; none where the change changes nothing."""
        config = core.configs.merged(connector, change.config or {})
        if change.config:
            kind = providers.load(connector.provider)
            config = await execution.pinned(core, kind, config, connector.organization_id)
        name, status = change.name or connector.name, change.status or connector.status
        same_config = config.split() == core.configs.release(connector).split()
        if same_config and (name, status) == (connector.name, connector.status):
            return {}
        sealed = core.configs.seal(connector.organization_id, connector.id, connector.version + 1, config)
        given = config.split()[1] != core.configs.release(connector).split()[1]
        age = {"secret_set_at": now(), "secret_expires_at": None} if given else {}
        return {"config_encrypted": sealed.token, "key_id": sealed.key_id, "name": name, "status": status, **age}

    @refusals("connector.delete")
    async def delete(self, connector_id: str, *, confirm: str | None = None) -> Record:
        """Delete a connector, its attachments and its saved operations.

        Raises:
            NotFound.
            Conflict: it is in use, as STUDIO_CONFIRM_DELETE says, and `confirm` is not the token of the
                present `preview_delete`.
        """
        core, scope, connector = await self._find(connector_id, Role.ADMIN)
        use = await impact.use_of(core, scope, connector)
        impact.must_be_confirmed(core, use, confirm)
        await scope.remove_connector(connector.id)
        core.sessions.retire(connector.id)
        return {"message": "Connector deleted", "id": connector.id, "detached": len(use.instances)}

    @refusals("connector.test")
    async def test_connection(self, connector_id: str) -> Record:
        """Test a connector and keep the outcome on its record; a failing test is an answer, not an error."""
        core, scope, connector = await self._find(connector_id, Role.DEVELOPER)
        answer, error = await self._probe(core, connector)
        entry = scope.test_entry(connector, error)
        await health.record(core, connector, health.found_of(answer), decisive=True, entry=entry)
        return answer

    @refusals("config.test")
    async def test_config(self, body: Mapping[str, Any]) -> Record:
        """Test a config without saving it."""
        policy.require_role(self._principal, Role.ADMIN)
        owner = self._principal.organization_id
        given = NewTest.parse(body) if owner is not None else OwnedTest.parse(body)
        organization_id = given.organization_id if isinstance(given, OwnedTest) else owner
        kind = _kind(given.connector_type, given.provider)
        config = parse_config(kind, given.config)
        core = await self._home.core()

        def opener(stack: AsyncExitStack) -> Awaitable[Provider[Any]]:
            return execution.open_session(core, kind, config, stack, organization_id)

        answer, error = await probes.test(
            opener, timeout_s=min(config.timeout_s, core.settings.max_timeout_s), quick=False
        )
        verdict, code = ("failed", error.code) if error else ("ok", None)
        subject, organization_id = self._principal.subject, self._principal.organization_id or STORE
        core.recorder.add(AuditEntry(organization_id, "config.test", subject, verdict, code, operation=given.provider))
        return answer

    # -- parts ----------------------------------------------------------------------------------

    def _owned(self, body: Mapping[str, Any]) -> tuple[NewConnector, str, str]:
        """The body, for which organization, and by whom: a remote caller's own, or as the program says."""
        if self._principal.organization_id is not None:
            return NewConnector.parse(body), self._principal.organization_id, self._principal.subject
        owned = OwnedConnector.parse(body)
        return owned, owned.organization_id, owned.created_by

    async def _probe(self, core: Core, connector: Connector) -> tuple[Record, StudioError | None]:
        target = planning.Target(connector, None, core.configs.effective(connector))
        timeout_s = min(target.timeout_s, core.settings.max_timeout_s)
        return await probes.test(
            lambda stack: execution.open_provider(core, target, stack), timeout_s=timeout_s, quick=False
        )

    async def _must_pass(self, core: Core, connector: Connector) -> None:
        _, error = await self._probe(core, connector)
        if error is not None:
            raise error


def _kind(connector_type: str, provider: str) -> Kind:
    """The provider class. Raises BadRequest where it is not of that type, or there is none such."""
    names = providers.kinds().get(connector_type, ())
    if provider not in names:
        raise BadRequest.at("provider", f"is not of the type {connector_type}; those are: {', '.join(names)}")
    return providers.load(provider)
