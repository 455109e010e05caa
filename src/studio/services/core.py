"""Composition root: settings in, the parts of one running service out, clean-up on the caller's stack."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from studio.errors import StudioError
from studio.security.egress import Egress
from studio.services.configs import Configs
from studio.services.fresh import Fresh
from studio.services.key_service import endpoint_of_kms
from studio.services.master_keys import KEY_FILE, open_audit_log, open_vault
from studio.services.recorder import Recorder
from studio.services.references import References
from studio.services.sessions import Sessions
from studio.services.turns import Turns
from studio.settings import Settings
from studio.store import migrations
from studio.store.audit import AuditLog
from studio.store.engine import Database, endpoint_of, open_database
from studio.store.store import Store

if TYPE_CHECKING:
    from studio.services.issuer import Issuer
    from studio.services.revocation import Course


@dataclass(frozen=True)
class Core:
    """The parts that use cases are made of."""

    settings: Settings
    database: Database
    store: Store
    configs: Configs
    references: References
    egress: Egress
    sessions: Sessions
    log: AuditLog
    recorder: Recorder
    issuer: Issuer | None = None
    """Whose tokens are taken beside API keys."""
    turns: Turns = field(default_factory=Turns)
    running: set[Course] = field(default_factory=set)
    """The operations of this process."""

    @cached_property
    def fresh(self) -> Fresh:
        """What was read of the store and still holds."""
        return Fresh(self.database)


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
    vault = await open_vault(settings, database)
    egress = gate_of(settings, [settings.data_dir.resolve() / KEY_FILE, *database.files()])
    stack.callback(egress.close)
    if endpoint := endpoint_of(database_url(settings)):
        await asyncio.to_thread(egress.reserve, *endpoint)
    references = References(settings, egress.for_operator())
    for store in filter(None, (references.endpoint(), endpoint_of_kms(settings))):
        await asyncio.to_thread(egress.reserve, *store, for_operator=True)
    if settings.port:
        await asyncio.to_thread(egress.reserve, settings.host, settings.port)
    log = await open_audit_log(database, vault)
    recorder = Recorder(log)
    stack.push_async_callback(recorder.close)
    sessions = Sessions(
        max_sessions=settings.max_sessions, max_waiters=settings.max_waiters, idle_s=settings.session_idle_s
    )
    stack.push_async_callback(sessions.close)
    issuer = _issuer(settings, egress, stack) if settings.oidc_issuer else None
    configs = Configs(vault, references)
    return Core(settings, database, Store(log), configs, references, egress, sessions, log, recorder, issuer)


def _issuer(settings: Settings, egress: Egress, stack: AsyncExitStack) -> Issuer:
    """The issuer's address is the operator's own choice, so it may be a private one."""
    from studio.security.oidc import Rules
    from studio.services.issuer import Issuer  # with its libraries, for those who have one

    issuer = Issuer(Rules.of(settings), egress.for_operator())
    stack.push_async_callback(issuer.close)
    return issuer


def gate_of(settings: Settings, own_files: Iterable[Path] = ()) -> Egress:
    """The egress gate that the settings describe."""
    return Egress(
        private_open=settings.listens_on_loopback,
        allow=settings.egress_allow,
        deny=settings.egress_deny,
        files_root=settings.files_root,
        own_files=own_files,
        scratch=settings.data_dir / "tmp",
    )


async def open_store(settings: Settings, stack: AsyncExitStack) -> Database:
    """The metadata database as it is, with whatever schema it has; closed with the stack.

    Raises:
        NotReady: STUDIO_DATABASE_URL names no database that this service can use.
    """
    await asyncio.to_thread(_make_folders, settings)
    try:
        database = open_database(database_url(settings), settings.data_dir)
    except ValueError as exc:
        raise NotReady(str(exc)) from exc
    stack.push_async_callback(database.close)
    return database


def database_url(settings: Settings) -> str | None:
    """The store's URL in clear; None is the embedded one."""
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
