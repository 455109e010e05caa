"""Rotation of the master key: every sealed value is sealed anew by the newest one, while the service runs.

Each row is replaced only if it still holds the token that was read, so it may run beside writers,
beside itself, and be killed at any point: what is left is found by the next run. The old keys stay
configured until no row uses them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from studio.errors import EncryptionError
from studio.models import Sealed
from studio.security.vault import Place, Vault
from studio.services.core import ensure_schema, open_store
from studio.services.master_keys import add_key, open_audit_log, open_vault
from studio.settings import Settings
from studio.store import sealed
from studio.store.engine import Database
from studio.store.keys import sealed_rows

BATCH = 200
"""Rows of one transaction: writers wait for it at most that long."""
BY = "operator"
"""Whoever holds the store's settings, in the audit log."""


@dataclass(frozen=True)
class Progress:
    """How far a rotation has come. `done` of `total` rows; `left` are on an old key at the end (None before)."""

    key_id: str
    done: int
    total: int
    failed: tuple[str, ...] = ()
    left: int | None = None


async def rotate(settings: Settings) -> AsyncGenerator[Progress, None]:
    """Seal every row anew; a key file gets a fresh key first, unless an earlier run was cut short.

    With keys from the settings, the operator puts the new one in front on every replica first.

    Raises:
        EncryptionError: a key is missing or wrong.
        NotReady: the schema is not this version's.
    """
    async with AsyncExitStack() as stack:
        database = await open_store(settings, stack)
        await ensure_schema(database)
        vault = await open_vault(settings, database)
        if settings.encryption_keys is None and not await _on_old_keys(database, vault):
            await asyncio.to_thread(add_key, settings)
            vault = await open_vault(settings, database)
        log = await open_audit_log(database, vault)
        total, done, failed = await _on_old_keys(database, vault), 0, list[str]()
        yield Progress(vault.key_id, 0, total)
        for field in sealed.FIELDS:
            after = ""
            while rows := await sealed.not_sealed_by(database, vault.key_id, field=field, after=after, limit=BATCH):
                changes = [(row, new) for row in rows if (new := _resealed(vault, row, failed))]
                await sealed.replace(log, changes, by=BY)
                after, done = rows[-1].row_id, done + len(rows)
                yield Progress(vault.key_id, done, max(total, done), tuple(failed))
        await sealed.retire_others(log, vault.key_id, by=BY)
        left = await _on_old_keys(database, vault)
        yield Progress(vault.key_id, done, max(total, done), tuple(failed), left)


async def _on_old_keys(database: Database, vault: Vault) -> int:
    return sum(rows for key_id, rows in (await sealed_rows(database)).items() if key_id != vault.key_id)


def _resealed(vault: Vault, row: sealed.SealedRow, failed: list[str]) -> Sealed | None:
    place = Place(row.organization_id, row.row_id, row.field, row.generation)
    try:
        return vault.reseal(place, row.sealed)
    except EncryptionError:
        failed.append(row.row_id)  # moved or damaged: it did not open before either, and is named at the end
        return None
