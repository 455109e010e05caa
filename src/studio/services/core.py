"""Composition root: settings in, the parts of one running service out, clean-up on the caller's stack."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from studio.errors import EncryptionError, StudioError
from studio.security.egress import Egress
from studio.security.vault import Vault, new_key
from studio.services.configs import Configs
from studio.services.sessions import Sessions
from studio.settings import Settings
from studio.store import migrations
from studio.store.engine import Database, endpoint_of, open_database
from studio.store.keys import admit_canary, canaries
from studio.store.store import Store

KEY_FILE = "encryption.key"


@dataclass(frozen=True)
class Core:
    """The parts that use cases are made of."""

    settings: Settings
    database: Database
    store: Store
    configs: Configs
    egress: Egress
    sessions: Sessions


class NotReady(StudioError):
    """The store cannot be used as it stands; the message says which command mends it."""


async def open_core(settings: Settings, stack: AsyncExitStack) -> Core:
    """Open store, keys, gate and sessions. Nothing connects to an upstream here.

    Raises:
        EncryptionError: a key is lost or wrong; nothing has been written.
        NotReady: a server database whose schema is not this version's.
    """
    database = await open_store(settings, stack)
    await ensure_schema(database)
    vault = await _open_vault(settings, database)
    egress = Egress(
        private_open=settings.listens_on_loopback,
        allow=settings.egress_allow,
        deny=settings.egress_deny,
        files_root=settings.files_root,
        own_files=[settings.data_dir.resolve() / KEY_FILE, *database.files()],
    )
    stack.callback(egress.close)
    if endpoint := endpoint_of(_url(settings)):
        await asyncio.to_thread(egress.reserve, *endpoint)
    if settings.port:
        await asyncio.to_thread(egress.reserve, settings.host, settings.port)
    sessions = Sessions(
        max_sessions=settings.max_sessions, max_waiters=settings.max_waiters, idle_s=settings.session_idle_s
    )
    stack.push_async_callback(sessions.close)
    return Core(settings, database, Store(database), Configs(vault), egress, sessions)


async def open_store(settings: Settings, stack: AsyncExitStack) -> Database:
    """The metadata database as it is, with whatever schema it has; closed with the stack.

    Raises:
        NotReady: STUDIO_DATABASE_URL names no database that this service can use.
    """
    await asyncio.to_thread(_make_folders, settings)
    try:
        database = open_database(_url(settings), settings.data_dir)
    except ValueError as exc:
        raise NotReady(str(exc)) from exc
    stack.push_async_callback(database.close)
    return database


def _url(settings: Settings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else None


async def ensure_schema(database: Database) -> None:
    """Bring an embedded store up to date; refuse a server database that is not. Raises NotReady."""
    if await migrations.current(database):
        return
    if not database.embedded:
        raise NotReady("the metadata database has another schema version; run: studio db upgrade")
    await migrations.upgrade(database)


def _make_folders(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.files_root.mkdir(parents=True, exist_ok=True, mode=0o700)


async def _open_vault(settings: Settings, database: Database) -> Vault:
    """The vault, proved against every canary before anything else may use it."""
    known = await canaries(database)
    given = settings.encryption_keys.get_secret_value() if settings.encryption_keys else None
    texts = given.split(",") if given else await asyncio.to_thread(_key_file, settings.data_dir, bool(known))
    vault = Vault([text for text in texts if text.strip()])
    for sealed in known:
        vault.check_canary(sealed)
    if vault.key_id not in {sealed.key_id for sealed in known}:
        await admit_canary(database, vault.canary(), vault.check_canary)
    return vault


def _key_file(data_dir: Path, must_exist: bool) -> list[str]:
    """The keys of the key file, one a line, newest first; it is made once, mode 0600, never overwritten."""
    path = data_dir / KEY_FILE
    if not path.exists():
        if must_exist:
            raise EncryptionError(
                f"the store holds sealed configs, but its key file {KEY_FILE} is gone from the data folder and "
                "STUDIO_ENCRYPTION_KEYS is not set; put the key back"
            )
        _make_key_file(path)
    if path.stat().st_mode & 0o077:
        raise EncryptionError(f"the key file {KEY_FILE} can be read by others; run: chmod 600 on it")
    return path.read_bytes().decode("ascii", "replace").split()


def _make_key_file(path: Path) -> None:
    """Write beside, then link: two processes that start together end up with one key."""
    handle, name = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=path.parent)  # mode 0600
    try:
        os.write(handle, f"{new_key()}\n".encode())
        os.fsync(handle)
        os.link(name, path)
        _sync_folder(path.parent)
    except FileExistsError:
        pass
    finally:
        os.close(handle)
        os.unlink(name)


def _sync_folder(folder: Path) -> None:
    """A key that a row is sealed with must outlive a power cut as the row does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
