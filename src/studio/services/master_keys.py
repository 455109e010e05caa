"""Where the master keys come from: the settings, or a key file in the data folder; proved at every start.

They are stored as `KeyService` has it: plain, or wrapped.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from studio.errors import EncryptionError
from studio.security.vault import Place, Vault, new_key
from studio.services.key_service import WRAPPED, KeyService
from studio.settings import Settings
from studio.store.audit import AuditLog
from studio.store.engine import Database
from studio.store.keys import admit_audit_key, admit_canary, audit_key, canaries

KEY_FILE = "encryption.key"
_AUDIT = Place("", "audit", "audit", 1)


async def open_vault(settings: Settings, database: Database) -> Vault:
    """The vault, proved against every canary before anything else may use it.

    Raises:
        EncryptionError: a key is missing, malformed or another one. Nothing has been written.
    """
    known = await canaries(database)
    service = KeyService(settings)
    texts = await asyncio.to_thread(_texts, settings, service, bool(known))
    # Another process may put a new key into the file at any time; settings stay as they are.
    again: Callable[[], list[str]] | None = (
        None if settings.encryption_keys else lambda: _texts(settings, service, True)
    )
    vault = Vault(texts, again=again)
    for sealed in known:
        vault.check_canary(sealed)
    if vault.key_id not in {sealed.key_id for sealed in known}:
        await admit_canary(database, vault.canary(), vault.check_canary)
    return vault


async def open_audit_log(database: Database, vault: Vault) -> AuditLog:
    """The audit log under its own key, which is made on first use and sealed like a config.

    Raises:
        EncryptionError: the key does not open, or was taken away from a log that has rows.
    """
    sealed = await audit_key(database)
    if sealed is None:
        made = vault.seal(_AUDIT, {"key": secrets.token_urlsafe(32)}, {}, "")
        sealed = await admit_audit_key(database, made)
    if sealed is None:
        raise EncryptionError("the key of the audit log is gone from the store; put the table audit_keys back")
    return AuditLog(database, vault.open(_AUDIT, sealed)[0]["key"].encode())


def add_key(settings: Settings) -> None:
    """Put a fresh key in front of the key file's others, in one step that a crash cannot halve.

    Raises:
        EncryptionError: the keys come from the settings, where only an operator can add one; or the
            key service does not wrap it.
    """
    if settings.encryption_keys:
        raise EncryptionError("put a new key in front of the others in STUDIO_ENCRYPTION_KEYS, then rotate")
    path = settings.data_dir / KEY_FILE
    made = KeyService(settings).wrap(new_key())
    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write(path, [made, *_read(path)], os.replace)


def wrap_keys(settings: Settings) -> tuple[str, list[str]]:
    """Wrap each key that lies plain; those of the key file in their place, those of the settings for the operator.

    Returns:
        As `stored_keys`, all wrapped.

    Raises:
        EncryptionError: there is no key service, or it does not wrap them. Nothing has been written.
    """
    if settings.key_service is None:
        raise EncryptionError("no key service is set up to wrap keys with; set STUDIO_KEY_SERVICE")
    service, path = KeyService(settings), settings.data_dir / KEY_FILE

    def wrapped() -> tuple[str, list[str]]:
        source, keys = stored_keys(settings)
        return source, [key if key.startswith(WRAPPED) else service.wrap(key) for key in keys]

    if settings.encryption_keys is not None or not path.exists():
        return wrapped()
    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        source, keys = wrapped()
        _write(path, keys, os.replace)
    return source, keys


def stored_keys(settings: Settings) -> tuple[str, list[str]]:
    """Where the keys are (`STUDIO_ENCRYPTION_KEYS`, `key file`, `none`), and each as it is stored, newest first."""
    if settings.encryption_keys is not None:
        found = [key.strip() for key in settings.encryption_keys.get_secret_value().split(",")]
        return "STUDIO_ENCRYPTION_KEYS", [key for key in found if key]
    path = settings.data_dir / KEY_FILE
    return ("key file", _read(path)) if path.exists() else ("none", [])


def _texts(settings: Settings, service: KeyService, must_exist: bool) -> list[str]:
    """The keys themselves as text, newest first."""
    if settings.encryption_keys is not None:
        return service.unwrap(stored_keys(settings)[1])
    path = settings.data_dir / KEY_FILE
    if not path.exists():
        if must_exist:
            raise EncryptionError(
                f"the store holds sealed configs, but its key file {KEY_FILE} is gone from the data folder and "
                "STUDIO_ENCRYPTION_KEYS is not set; put the key back"
            )
        _write(path, [service.wrap(new_key())], _link)
    if path.stat().st_mode & 0o077:
        raise EncryptionError(f"the key file {KEY_FILE} can be read by others; run: chmod 600 on it")
    return service.unwrap(_read(path))


def _read(path: Path) -> list[str]:
    return path.read_bytes().decode("ascii", "replace").split()


def _link(name: str, path: Path) -> None:
    """Put a first file in place: of two processes that start together the second keeps the first one's."""
    with suppress(FileExistsError):
        os.link(name, path)
    os.unlink(name)


def _write(path: Path, keys: list[str], place: Callable[[str, Path], None]) -> None:
    """Write beside, mode 0600, durable; then `place` it."""
    handle, name = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=path.parent)
    try:
        os.write(handle, ("\n".join(keys) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    place(name, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A key that a row is sealed with must outlive a power cut as the row does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
