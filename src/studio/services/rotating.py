"""Rotation of a connector's credentials: verified before it counts, undone by nothing that may happen in between.

A secret that the caller gives is tried with a session of its own and then put in force in one
transaction. One that is made here is *staged* first: it is in the store before the upstream hears
of it, so whatever dies in between, one of the two sets that the store has is the one that works.
"""

from __future__ import annotations

import asyncio
import secrets as random
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from studio.contract import ProviderConfig
from studio.errors import (
    AuthFailed,
    BadRequest,
    Conflict,
    Internal,
    InvalidRequest,
    OperationNotSupported,
    StudioError,
    Timeout,
)
from studio.models import Connector, Role, new_id, now
from studio.services import execution, health, metrics, probes, tracing
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.core import Core
from studio.services.inputs import WHOLE, Body, Time
from studio.services.planning import Target
from studio.store import rotations
from studio.store.health import Found
from studio.store.rotations import PREVIOUS, STAGED, OtherSecrets

GRACE_S = 3600
_TRIES = 5


class NewSecrets(Body):
    """The new secrets, or `generate` to have the password made here and set upstream."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["config"], "properties": {"config": {"type": "object", "minProperties": 1}}},
                {"required": ["generate"], "properties": {"generate": {"const": True}}},
            ]
        }
    )
    config: dict[str, Any] | None = Field(None, description="The secrets to replace, where the config has them.")
    generate: bool = Field(False, description="Make a password and set it upstream, under the account itself.")
    grace_s: Annotated[int, Field(ge=0, le=30 * 86_400), WHOLE] = Field(
        GRACE_S, description="How long the old secrets are kept to fall back on, seconds."
    )
    expires_at: Time | None = Field(None, description="When the new secrets end; reminders are sent before.")

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> NewSecrets:
        """See `Body.parse`. Raises BadRequest unless exactly one of config and generate is given."""
        body = super().parse(raw)
        if bool(body.config) == body.generate:
            raise BadRequest('give the new secrets under config, such as {"config": {"password": "…"}}, or generate')
        return body


class Rotating(Bound):
    """See the method."""

    @refusals("connector.rotate")
    async def rotate(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """Put new secrets in force; the old ones are kept for `grace_s` and then forgotten.

        Running operations end on their old sessions; none is cut.

        Raises:
            NotFound, BadRequest, InvalidRequest, InvalidConfig, OperationNotSupported: the input.
            AuthFailed, Unreachable …: the new secrets do not work; nothing has changed.
            Conflict: another rotation is under way.
        """
        core, _, connector = await self._find(connector_id, Role.ADMIN)
        given = NewSecrets.parse(body)
        by = self._principal.subject
        with _told(connector.provider):
            connector = await settled(core, connector, by)
            changed, to_do = await (_generated if given.generate else _given)(core, connector, given, by)
        previous = (await rotations.of(core.database, changed.id)).get(PREVIOUS)
        return {
            "message": "Credentials rotated",
            "id": changed.id,
            "version": changed.version,
            "generated": given.generate,
            "secret_set_at": changed.secret_set_at,
            "secret_expires_at": changed.secret_expires_at,
            "previous_until": previous.until if previous else None,
            **({"to_do": to_do} if to_do else {}),
        }


@contextmanager
def _told(provider: str) -> Iterator[None]:
    """A span and a count of one rotation."""
    outcome = "internal"
    with tracing.span(f"rotate {provider}", "internal", {"studio.provider": provider}) as span:
        try:
            yield
            outcome = "ok"
        except StudioError as exc:
            outcome = exc.code
            raise
        finally:
            if outcome != "ok":
                tracing.failed(span, outcome)
            metrics.rotated(provider, outcome)


async def settled(core: Core, connector: Connector, by: str) -> Connector:
    """The connector after a rotation that died half-way, if there is one, has been ended: finished or taken back.

    Raises:
        Conflict: it is still under way.
        StudioError: neither set can be verified now.
    """
    staged = (await rotations.of(core.database, connector.id)).get(STAGED)
    if staged is None:
        return connector
    if not staged.over:
        raise Conflict("another rotation of this connector is under way; read the connector again in a moment")
    try:
        await _verify(core, core.configs.exchanged(connector, staged.id, staged.sealed))
    except AuthFailed:
        await _verify(core, connector)
        await rotations.discard(core.log, staged, by=by)
        return connector
    return await _promoted(core, connector, staged, NewSecrets(generate=True), by)


async def _given(core: Core, connector: Connector, given: NewSecrets, by: str) -> tuple[Connector, str | None]:
    for _ in range(_TRIES):
        old = core.configs.release(connector)
        new = core.configs.merged(connector, given.config or {})
        if new.split()[0] != old.split()[0]:
            raise InvalidRequest.at("config", "only secrets are rotated; change other fields with an update")
        if new.split()[1] == old.split()[1]:
            raise BadRequest("the new secrets are those in force already")
        beside = _beside(core, connector, new, STAGED, 0)
        await _verify(core, core.configs.exchanged(connector, beside.id, beside.sealed))
        changed = await _swapped(core, connector, new, given, staged=None, by=by)
        if changed is not None:
            return changed, None
        connector = await _again(core, connector)
    raise Conflict("the connector keeps changing; try again")


async def _generated(core: Core, connector: Connector, given: NewSecrets, by: str) -> tuple[Connector, str | None]:
    effective = core.configs.effective(connector)
    field = effective.kind.rotates
    if field is None:
        able = "change it there, and give the new one under config"
        raise OperationNotSupported(f"{connector.provider}: a password cannot be set upstream from here; {able}")
    if field not in effective.secrets_set:
        raise InvalidRequest.at("generate", f"this connector has no {field} that could be replaced")
    if field in core.configs.referenced(connector):
        raise InvalidRequest.at("generate", f"{field} is kept elsewhere; rotate it there, where the reference leads")
    password = random.token_urlsafe(32)
    deadline = _deadline(core, connector)
    staged = _beside(core, connector, core.configs.merged(connector, {field: password}), STAGED, 3 * deadline + 30)
    await rotations.stage(core.log, staged, by=by)
    try:
        to_do = await _set_upstream(core, connector, password)
    except StudioError as exc:
        if not exc.retryable and not isinstance(exc, Internal):  # refused: it did not happen
            await rotations.discard(core.log, staged, by=by)
            raise
        # It may have happened, or happen yet: only the upstream knows, so both sets are kept.
        to_do = None
        try:
            await _verify(core, core.configs.exchanged(connector, staged.id, staged.sealed))
        except StudioError:
            raise exc from None
    else:
        await _verify(core, core.configs.exchanged(connector, staged.id, staged.sealed))
    return await _promoted(core, connector, staged, given, by), to_do


async def _set_upstream(core: Core, connector: Connector, password: str) -> str | None:
    target = Target(connector, None, core.configs.effective(connector))
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(_deadline(core, connector)):
            provider = await execution.open_provider(core, target, stack)
            try:
                return await provider.set_password(password)
            except StudioError:
                raise  # from itself it would be a cycle, and keep megabytes until one is looked for
            except Exception as exc:
                raise provider.error(exc) from exc
    except TimeoutError:
        raise Timeout(
            "the upstream did not take the new password in time; whether it did is found out next time"
        ) from None


async def _verify(core: Core, connector: Connector) -> None:
    """Test with a real session. Raises what the test found."""
    target = Target(connector, None, core.configs.effective(connector))
    _, error = await probes.test(
        lambda stack: execution.open_provider(core, target, stack), timeout_s=_deadline(core, connector), quick=False
    )
    if error is not None:
        raise error


async def _promoted(core: Core, connector: Connector, staged: OtherSecrets, given: NewSecrets, by: str) -> Connector:
    for _ in range(_TRIES):
        new = core.configs.release(core.configs.exchanged(connector, staged.id, staged.sealed))
        changed = await _swapped(core, connector, new, given, staged=staged, by=by)
        if changed is not None:
            return changed
        connector = await _again(core, connector)
        if STAGED not in await rotations.of(core.database, connector.id):
            return connector  # somebody else ended this rotation
    raise Conflict("the connector keeps changing; try again")


async def _swapped(
    core: Core, connector: Connector, new: ProviderConfig, given: NewSecrets, *, staged: OtherSecrets | None, by: str
) -> Connector | None:
    """Put `new` in force and let the old sessions drain; None where the connector changed meanwhile."""
    sealed = core.configs.seal(connector.organization_id, connector.id, connector.version + 1, new)
    time = now()
    values = {
        "config_encrypted": sealed.token,
        "key_id": sealed.key_id,
        "secret_set_at": time,
        "secret_expires_at": given.expires_at,
    }
    old = core.configs.release(connector)
    previous = _beside(core, connector, old, PREVIOUS, given.grace_s) if given.grace_s else None
    changed = await rotations.swap(core.log, connector, values, staged=staged, previous=previous, by=by)
    if changed is None:
        return None
    core.sessions.retire(connector.id, below=changed.version)
    await health.record(core, changed, Found(), decisive=True)  # it was verified a moment ago
    return changed


def _beside(core: Core, connector: Connector, config: ProviderConfig, kind: str, seconds: float) -> OtherSecrets:
    row_id = new_id()
    sealed = core.configs.seal_secrets(connector, row_id, config)
    return OtherSecrets(
        id=row_id,
        organization_id=connector.organization_id,
        connector_id=connector.id,
        kind=kind,
        token=sealed.token,
        key_id=sealed.key_id,
        until=now(seconds),
    )


async def _again(core: Core, connector: Connector) -> Connector:
    return await core.store.scope(connector.organization_id, "studio").connector(connector.id)


def _deadline(core: Core, connector: Connector) -> float:
    return min(float(core.configs.effective(connector)["timeout_s"]), core.settings.max_timeout_s)
