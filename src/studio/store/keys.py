"""API keys and the canaries of encryption keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from studio.errors import NotFound
from studio.models import ApiKey, AuditEntry, Sealed, now
from studio.store.audit import AuditLog
from studio.store.engine import Database, lock_table, upsert
from studio.store.tables import (
    api_keys,
    audit_heads,
    audit_keys,
    connector_instances,
    connector_secrets,
    connectors,
    key_canaries,
)

_BY_PREFIX = select(api_keys).where(api_keys.c.prefix == bindparam("prefix"))


class Keys:
    """API keys of one organization; of all for None. `by_prefix` is the one look-up before a scope is known."""

    def __init__(self, log: AuditLog, organization_id: str | None = None) -> None:
        self._log = log
        self._database = log.database
        self._mine = [] if organization_id is None else [api_keys.c.organization_id == organization_id]

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""
        statement = insert(api_keys).values(**asdict(key))
        await self._log.write(lambda connection: connection.execute(statement), _made(key))

    async def add_first(self, key: ApiKey) -> bool:
        """Store a key if there is none at all yet; whether it was stored. Two starting processes make one."""

        def work(connection: Connection) -> bool:
            lock_table(connection, api_keys)
            if connection.execute(select(api_keys.c.id).limit(1)).first():
                return False
            connection.execute(insert(api_keys).values(**asdict(key)))
            return True

        return await self._log.write(work, lambda stored: _made(key) if stored else None)

    async def by_prefix(self, prefix: str) -> ApiKey | None:
        """The key of a prefix, of whichever organization."""
        rows = await self._database.lookup(_BY_PREFIX, {"prefix": prefix})
        return ApiKey(*rows[0]) if rows else None

    async def all(self) -> list[ApiKey]:
        """Every key, in the order of creation."""
        statement = select(api_keys).where(*self._mine).order_by(api_keys.c.id)
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [ApiKey(*row) for row in rows]

    async def narrow(self, key_id: str, change: Callable[[ApiKey], Mapping[str, Any]], *, by: str) -> ApiKey:
        """Change columns of a key, judged on the row as it is: the key as it is then. Raises NotFound, as `change`."""
        mine = (api_keys.c.id == key_id, *self._mine)

        def work(connection: Connection) -> tuple[ApiKey, Mapping[str, Any]]:
            row = connection.execute(select(api_keys).where(*mine).with_for_update()).first()
            if row is None:
                raise NotFound("no such key")
            key = ApiKey(*row)
            values = change(key)
            connection.execute(update(api_keys).where(*mine).values(**values))
            return replace(key, **values), values

        def entry(found: tuple[ApiKey, Mapping[str, Any]]) -> AuditEntry:
            details = orjson.dumps({"fields": sorted(found[1])}).decode()
            return AuditEntry(found[0].organization_id, "key.narrow", by, target=key_id, details=details)

        return (await self._log.write(work, entry))[0]

    async def revoke(self, key_id: str, *, by: str) -> None:
        """Switch a key off for good. Raises NotFound."""
        mine = (api_keys.c.id == key_id, *self._mine)

        def work(connection: Connection) -> str:
            owner: str | None = connection.scalar(select(api_keys.c.organization_id).where(*mine))
            if owner is None:
                raise NotFound("no such key")
            connection.execute(update(api_keys).where(*mine).values(revoked_at=now()))
            return owner

        await self._log.write(work, lambda owner: AuditEntry(owner, "key.revoke", by, target=key_id))

    async def touch(self, key_id: str, *, before: str) -> None:
        """Note that a key was used, if the last note is older than `before`."""
        old = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < before)
        statement = update(api_keys).where(api_keys.c.id == key_id, old).values(last_used_at=now())
        await self._database.write(lambda connection: connection.execute(statement))


def _made(key: ApiKey) -> AuditEntry:
    return AuditEntry(key.organization_id, "key.create", key.created_by, agent_id=key.agent_id, target=key.id)


def _canaries(connection: Connection) -> list[Sealed]:
    rows = connection.execute(select(key_canaries.c.token, key_canaries.c.key_id)).all()
    return [Sealed(*row) for row in rows]


async def canaries(database: Database) -> list[Sealed]:
    """The canary of each encryption key that rows may still need."""
    return await database.read(_canaries)


async def admit_canary(database: Database, sealed: Sealed, check: Callable[[Sealed], None]) -> None:
    """Keep a canary if every one that is there by then passes `check`; one that is there already stays.

    In one transaction: of two machines that start on an empty store, each with a key of its own,
    the second is refused before it seals anything.
    """
    values = {"key_id": sealed.key_id, "token": sealed.token, "created_at": now()}

    def work(connection: Connection) -> None:
        lock_table(connection, key_canaries)
        for known in _canaries(connection):
            check(known)
        upsert(connection, key_canaries, values, {})

    await database.write(work)


async def audit_key(database: Database) -> Sealed | None:
    """The sealed key of the audit log, where it has one by now."""
    return await database.read(_audit_key)


async def admit_audit_key(database: Database, sealed: Sealed) -> Sealed | None:
    """Keep the first key of the audit log; the one that is there by then, and None for a log that lost its key."""

    def work(connection: Connection) -> Sealed | None:
        lock_table(connection, audit_keys)
        found = _audit_key(connection)
        if found is None and connection.execute(select(audit_heads.c.organization_id).limit(1)).first() is None:
            values = {"id": "audit", "organization_id": "", "token": sealed.token, "key_id": sealed.key_id}
            connection.execute(insert(audit_keys).values(**values))
            return sealed
        return found

    return await database.write(work)


def _audit_key(connection: Connection) -> Sealed | None:
    row = connection.execute(select(audit_keys.c.token, audit_keys.c.key_id)).first()
    return Sealed(*row) if row else None


async def sealed_rows(database: Database) -> dict[str, int]:
    """How many values each encryption key seals: configs, overrides, other secrets, the audit log's key; by key id."""

    def work(connection: Connection) -> dict[str, int]:
        found: dict[str, int] = {}
        for column in (
            connectors.c.key_id,
            connector_instances.c.key_id,
            connector_secrets.c.key_id,
            audit_keys.c.key_id,
        ):
            counted = select(column, func.count()).where(column.is_not(None)).group_by(column)
            for key_id, rows in connection.execute(counted):
                found[key_id] = found.get(key_id, 0) + rows
        return found

    return await database.read(work)
