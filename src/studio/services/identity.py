"""API keys: making one; and telling whose a presented key or token is."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from datetime import datetime
from time import time as unix_time
from typing import Any

from studio.errors import InvalidRequest, Unauthenticated
from studio.models import ApiKey, Effect, Principal, Role, new_id, now
from studio.security import tokens
from studio.services.core import Core
from studio.services.inputs import NarrowKey, NewKey
from studio.services.shapes import key_dict
from studio.store.audit import AuditLog
from studio.store.keys import Keys

logger = logging.getLogger(__name__)
_TOUCH_EVERY_S = 60
_NARROWER = "must lie within what the key has now; make a new key for more"
UNKNOWN = "the API key is missing, unknown, expired or revoked; send it as Authorization: Bearer <key>"


def _drafted(body: NewKey, organization_id: str, created_by: str) -> tuple[ApiKey, str]:
    if body.role is None and body.agent_id is None:
        raise InvalidRequest.at("role", "give role (a person or service) or agent_id (an agent's own key)")
    if body.agent_id is None and (body.aliases or body.effects):
        raise InvalidRequest.at("agent_id", "aliases and effects limit an agent's key; give agent_id")
    token = tokens.new_token()
    key = ApiKey(
        id=new_id(),
        organization_id=organization_id,
        prefix=token.prefix,
        digest=token.digest,
        name=body.name,
        role=body.role.value if body.role and not body.agent_id else None,  # an agent's key has no role
        agent_id=body.agent_id,
        aliases=",".join(body.aliases) if body.aliases else None,
        effects=",".join(body.effects) if body.effects else None,
        created_by=created_by,
        created_at=now(),
        expires_at=body.expires_at,
        last_used_at=None,
        revoked_at=None,
    )
    return key, token.text


def narrowed(body: NarrowKey, key: ApiKey) -> dict[str, Any]:
    """The columns of a key that change. Raises InvalidRequest where one would allow more than now."""
    changed: dict[str, Any] = {}
    if body.role is not None:
        if key.role is None or not Role(key.role).includes(body.role):
            raise InvalidRequest.at("role", _NARROWER)
        changed["role"] = body.role.value
    for name, given in (("aliases", body.aliases), ("effects", body.effects)):
        held = getattr(key, name)
        if given is not None:
            if key.agent_id is None or (held is not None and not set(given) <= set(held.split(","))):
                raise InvalidRequest.at(name, _NARROWER)
            changed[name] = ",".join(given)
    if body.expires_at is not None:
        if key.expires_at is not None and body.expires_at > key.expires_at:
            raise InvalidRequest.at("expires_at", _NARROWER)
        changed["expires_at"] = body.expires_at
    return changed


async def create(log: AuditLog, body: NewKey, *, organization_id: str, created_by: str) -> dict[str, Any]:
    """Make a key. The answer is the only place where its text (`key`) ever stands."""
    key, text = _drafted(body, organization_id, created_by)
    await Keys(log).add(key)
    return {**key_dict(key), "key": text}


async def create_first(log: AuditLog, organization_id: str) -> str | None:
    """An admin key for a store that has no key at all; None where it has."""
    body = NewKey(name="first admin", role=Role.ADMIN)
    key, text = _drafted(body, organization_id, "first start")
    return text if await Keys(log).add_first(key) else None


async def identify(core: Core, text: str | None, background: set[asyncio.Task[Any]]) -> Principal:
    """Whose key this is, re-read from its row; or whose token, where there is an issuer.

    Raises:
        Unauthenticated: of a key with one message for every reason.
        StudioError: see `Issuer.identify`.
    """
    text = text or ""
    prefix = tokens.prefix_of(text)
    if prefix is None:
        if text and core.issuer is not None:
            return await core.issuer.identify(text)
        raise Unauthenticated(UNKNOWN)
    place = ("key", tokens.digest_of(text))
    holder: _Holder = core.fresh.now(place) or await core.fresh.read(place, lambda: _holder(core.log, prefix, text))
    time = unix_time()
    if holder.expires_at <= time:
        raise Unauthenticated(UNKNOWN)
    if holder.touch_at <= time:
        holder.touch_at = time + _TOUCH_EVERY_S
        _note_use(core.log, holder.key_id, background)
    return holder.principal


@dataclass(slots=True)
class _Holder:
    """Whose a key is. Times are in seconds since 1970."""

    principal: Principal
    key_id: str
    expires_at: float
    touch_at: float


async def _holder(log: AuditLog, prefix: str, text: str) -> _Holder:
    key = await Keys(log).by_prefix(prefix)
    if key is None or not tokens.matches(text, key.digest) or key.revoked_at is not None:
        raise Unauthenticated(UNKNOWN)
    principal = holder_of(key)
    expires_at = datetime.fromisoformat(key.expires_at).timestamp() if key.expires_at else math.inf
    used_at = datetime.fromisoformat(key.last_used_at).timestamp() if key.last_used_at else 0.0
    return _Holder(principal, key.id, expires_at, used_at + _TOUCH_EVERY_S)


def holder_of(key: ApiKey) -> Principal:
    """Who calls with a key."""
    return Principal(
        organization_id=key.organization_id,
        subject=f"key:{key.id}",
        role=Role(key.role) if key.role else Role.MEMBER,
        agent_id=key.agent_id,
        aliases=frozenset(key.aliases.split(",")) if key.aliases else None,
        effects=frozenset(map(Effect, key.effects.split(","))) if key.effects else None,
    )


def _note_use(log: AuditLog, key_id: str, background: set[asyncio.Task[Any]]) -> None:
    """`last_used_at` is exact to a minute; writing it does not hold the call up."""
    task = asyncio.create_task(_touch(log, key_id, now(-_TOUCH_EVERY_S)))
    background.add(task)
    task.add_done_callback(background.discard)


async def _touch(log: AuditLog, key_id: str, before: str) -> None:
    try:
        await Keys(log).touch(key_id, before=before)
    except Exception as exc:
        # The call itself was answered; a store that cannot be written to shows in the calls that write.
        logger.warning("a key's last use was not noted: %s", type(exc).__name__)
