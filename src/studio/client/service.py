"""The service over HTTP: the methods of `ConnectorService`, the same dicts and the same errors.

    async with RemoteService("https://studio.example.com", key) as service:
        page = await service.list(connector_type="database")

What the key may do is decided by the server. `organization_id` arguments are taken for the sake of
one calling convention and count for nothing, as for every principal that belongs to an organization.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from studio import errors
from studio.client.streams import accept_of, streamed
from studio.client.transport import Transport

Record = dict[str, Any]
Records = list[Record]


class RemoteService(Transport):
    """`ConnectorService` on the other side of `/api/v1`. Errors are the service's own, rebuilt from `code`."""

    async def types(self) -> Record:
        """See `ConnectorService.types`."""
        return await self._record("GET", "connectors", "types")

    async def describe_type(self, provider: str) -> Record:
        """See `ConnectorService.describe_type`."""
        return await self._record("GET", "connectors", "types", provider)

    async def create(self, body: Mapping[str, Any], *, test: bool = False) -> Record:
        """See `ConnectorService.create`; for whom is the key's business."""
        return await self._record("POST", "connectors", body=body, query={"test": test})

    async def get(self, connector_id: str) -> Record:
        """See `ConnectorService.get`."""
        return await self._record("GET", "connectors", connector_id)

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
        """See `ConnectorService.list`."""
        query = {
            "connector_type": connector_type,
            "provider": provider,
            "status": status,
            "q": q,
            "limit": limit,
            "cursor": cursor,
            "offset": offset,
        }
        return await self._record("GET", "connectors", query=query)

    async def update(
        self, connector_id: str, body: Mapping[str, Any], *, version: int | None = None, test: bool = False
    ) -> Record:
        """See `ConnectorService.update`; `version` travels as `If-Match`."""
        headers = {} if version is None else {"if-match": f'"v{version}"'}
        return await self._record("PUT", "connectors", connector_id, body=body, query={"test": test}, headers=headers)

    async def delete(self, connector_id: str, *, confirm: str | None = None) -> Record:
        """See `ConnectorService.delete`."""
        return await self._record("DELETE", "connectors", connector_id, query={"confirm": confirm})

    async def preview_delete(self, connector_id: str) -> Record:
        """See `ConnectorService.preview_delete`."""
        return await self._record("DELETE", "connectors", connector_id, query={"dry_run": True})

    async def preview_update(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.preview_update`."""
        return await self._record("PUT", "connectors", connector_id, body=body, query={"dry_run": True})

    async def preview_rotate(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.preview_rotate`."""
        return await self._record("POST", "connectors", connector_id, "rotate", body=body, query={"dry_run": True})

    async def rotate(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.rotate`."""
        return await self._record("POST", "connectors", connector_id, "rotate", body=body)

    async def test_connection(self, connector_id: str) -> Record:
        """See `ConnectorService.test_connection`."""
        return await self._record("POST", "connectors", connector_id, "test")

    async def test_config(self, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.test_config`."""
        return await self._record("POST", "connectors", "test", body=body)

    async def attach_to_agent(
        self, connector_id: str, agent_id: str, alias: str, config_override: Mapping[str, Any] | None = None
    ) -> Record:
        """See `ConnectorService.attach_to_agent`."""
        body = {"agent_id": agent_id, "alias": alias, "config_override": config_override}
        return await self.attach(connector_id, body)

    async def attach(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.attach`."""
        return await self._record("POST", "connectors", connector_id, "attach", body=body)

    async def detach_from_agent(self, instance_id: str) -> Record:
        """See `ConnectorService.detach_from_agent`."""
        return await self._record("DELETE", "connectors", "instances", instance_id)

    async def list_instances(self, connector_id: str) -> Record:
        """See `ConnectorService.list_instances`."""
        return await self._record("GET", "connectors", connector_id, "instances")

    async def list_agent_connectors(self, agent_id: str, *, organization_id: str | None = None) -> Records:
        """See `ConnectorService.list_agent_connectors`."""
        return await self._records("records", "agents", agent_id, "connectors")

    async def execute_query(
        self,
        connector_id: str | None = None,
        query: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        agent_id: str | None = None,
        alias: str | None = None,
        organization_id: str | None = None,
    ) -> Record:
        """See `ConnectorService.execute_query`."""
        body = {"query": query, "params": dict(params) if params is not None else None}
        return await self._record("POST", *_target(connector_id, agent_id, alias), "query", body=body)

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
        """See `ConnectorService.stream_query`. The form's last words are among the bytes."""
        body = {"query": query, "params": dict(params) if params is not None else None}
        path = (*_target(connector_id, agent_id, alias), "query")
        async with aclosing(streamed(self._chunks(*path, body=body, accept=accept_of(form)), form)) as chunks:
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
    ) -> Record:
        """See `ConnectorService.execute`."""
        target = _target(connector_id, agent_id, alias)
        return await self._record("POST", *target, "operations", operation, body=arguments or {})

    async def operations(
        self,
        agent_id: str | None = None,
        alias: str | None = None,
        *,
        connector_id: str | None = None,
        organization_id: str | None = None,
    ) -> Records:
        """See `ConnectorService.operations`."""
        return await self._records("operations", *_target(connector_id, agent_id, alias), "operations")

    async def health(self, connector_id: str) -> Record:
        """See `ConnectorService.health`."""
        return await self._record("GET", "connectors", connector_id, "health")

    async def set_health(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.set_health`."""
        return await self._record("PUT", "connectors", connector_id, "health", body=body)

    async def test_alerts(self) -> Record:
        """See `ConnectorService.test_alerts`."""
        return await self._record("POST", "alerts", "test", body={})

    async def create_saved_operation(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.create_saved_operation`."""
        return await self._record("POST", "connectors", connector_id, "saved-operations", body=body)

    async def list_saved_operations(self, connector_id: str) -> Records:
        """See `ConnectorService.list_saved_operations`."""
        return await self._records("records", "connectors", connector_id, "saved-operations")

    async def delete_saved_operation(self, connector_id: str, name: str) -> Record:
        """See `ConnectorService.delete_saved_operation`."""
        return await self._record("DELETE", "connectors", connector_id, "saved-operations", name)

    async def create_key(self, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.create_key`."""
        return await self._record("POST", "keys", body=body)

    async def list_keys(self, *, organization_id: str | None = None) -> Records:
        """See `ConnectorService.list_keys`."""
        return await self._records("records", "keys")

    async def narrow_key(self, key_id: str, body: Mapping[str, Any]) -> Record:
        """See `ConnectorService.narrow_key`."""
        return await self._record("PUT", "keys", key_id, body=body)

    async def revoke_key(self, key_id: str) -> Record:
        """See `ConnectorService.revoke_key`."""
        return await self._record("DELETE", "keys", key_id)

    async def list_audit(
        self,
        *,
        organization_id: str | None = None,
        filters: Mapping[str, str | None] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        oldest_first: bool = False,
    ) -> Record:
        """See `ConnectorService.list_audit`."""
        query = {**(filters or {}), "limit": limit, "cursor": cursor, "oldest_first": oldest_first}
        return await self._record("GET", "audit", query=query)

    async def verify_audit(self, *, organization_id: str | None = None, head: str | None = None) -> Record:
        """See `ConnectorService.verify_audit`."""
        return await self._record("GET", "audit", "verify", query={"head": head})

    async def _record(self, method: str, *path: str, **more: Any) -> Record:
        answer: Record = await self._call(method, *path, **more)
        return answer

    async def _records(self, name: str, *path: str) -> Records:
        answer: Records = (await self._call("GET", *path))[name]
        return answer


def _target(connector_id: str | None, agent_id: str | None, alias: str | None) -> tuple[str, ...]:
    if connector_id is not None:
        return ("connectors", connector_id)
    if agent_id is None or alias is None:
        raise errors.InvalidRequest.at("connector_id", "give connector_id, or agent_id and alias")
    return ("agents", agent_id, "connectors", alias)
