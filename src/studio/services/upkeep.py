"""Upkeep of the store itself, by whoever holds its settings: schema and encryption keys.

These stand beside the service, not in it: they must work where the service does not start, because
its schema is old or a key is lost.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from studio.errors import EncryptionError
from studio.models import Sealed
from studio.security.vault import Vault, new_key
from studio.services.core import ensure_schema, open_store
from studio.services.key_service import KeyService
from studio.services.master_keys import stored_keys, wrap_keys
from studio.settings import Settings
from studio.store import migrations
from studio.store.engine import Database
from studio.store.keys import canaries, sealed_rows

__all__ = ["encryption_status", "new_encryption_key", "store_status", "upgrade_store", "wrap_encryption_keys"]
Record = dict[str, Any]


async def store_status(settings: Settings) -> Record:
    """The store's schema revision beside this version's; nothing is changed."""
    async with AsyncExitStack() as stack:
        return await _schema(await open_store(settings, stack))


async def upgrade_store(settings: Settings) -> Record:
    """Bring the store's schema up to this version's. The answer is `store_status`, and `upgraded_from`."""
    async with AsyncExitStack() as stack:
        database = await open_store(settings, stack)
        before = await _schema(database)
        if not before["current"]:
            await migrations.upgrade(database)
        return {**await _schema(database), "upgraded_from": before["revision"]}


async def _schema(database: Database) -> Record:
    revision = await database.read(migrations.revision)
    return {
        "database": "embedded" if database.embedded else "server",
        "revision": revision,
        "newest": migrations.HEAD,
        "current": revision == migrations.HEAD,
    }


async def new_encryption_key(settings: Settings) -> Record:
    """A fresh `key` as it may be stored. Raises EncryptionError where the key service does not wrap it."""
    return {"key": await asyncio.to_thread(KeyService(settings).wrap, new_key())}


async def wrap_encryption_keys(settings: Settings) -> Record:
    """Wrap the keys that lie plain: the `source` and the `keys`, wrapped. Raises EncryptionError."""
    source, keys = await asyncio.to_thread(wrap_keys, settings)
    return {"source": source, "keys": keys}


async def encryption_status(settings: Settings) -> Record:
    """Which encryption keys are configured, and which ones the store needs.

    Returns:
        `ok`: every key that the store knows is configured and the right one; `source` of the keys;
        `key_service` that they are wrapped by (None: they are stored as they are);
        `keys`, newest first: `key_id`, `configured`, `newest`, `opens` (None where that cannot be
        told), and `rows`, how many sealed values it holds.

    Raises:
        EncryptionError: a configured key is malformed, or the key service does not open it.
        NotReady: a server database whose schema is not this version's.
    """
    source, stored = await asyncio.to_thread(stored_keys, settings)
    texts = await asyncio.to_thread(KeyService(settings).unwrap, stored)
    vault = Vault(texts) if texts else None
    async with AsyncExitStack() as stack:
        database = await open_store(settings, stack)
        await ensure_schema(database)
        known = {sealed.key_id: sealed for sealed in await canaries(database)}
        rows = await sealed_rows(database)
    configured = vault.key_ids if vault else ()
    keys = [
        {
            "key_id": key_id,
            "configured": key_id in configured,
            "newest": bool(vault and vault.key_id == key_id),
            "opens": _opens(vault, known[key_id]) if vault and key_id in configured and key_id in known else None,
            "rows": rows.get(key_id, 0),
        }
        for key_id in dict.fromkeys([*configured, *known, *rows])
    ]
    needed = [key for key in keys if key["key_id"] in known or key["rows"]]
    return {
        "ok": all(key["configured"] and key["opens"] is not False for key in needed),
        "source": source,
        "key_service": settings.key_service,
        "keys": keys,
    }


def _opens(vault: Vault, canary: Sealed) -> bool:
    try:
        vault.check_canary(canary)
    except EncryptionError:
        return False
    return True
