"""Use cases on API keys: create, list, narrow, revoke."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from studio.errors import BadRequest, InvalidRequest, NotFound
from studio.models import Role
from studio.security import policy
from studio.services import identity
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.inputs import NarrowKey, NewKey, is_id
from studio.services.shapes import key_dict
from studio.store.keys import Keys


class ApiKeys(Bound):
    """See the methods."""

    @refusals("key.create")
    async def create_key(self, body: Mapping[str, Any]) -> Record:
        """Make a key for a role or for one agent. `key` in the answer is shown this once.

        A remote admin makes keys of its own organization; in process, `organization_id` says whose.
        """
        policy.require_role(self._principal, Role.ADMIN)
        given = NewKey.parse(body)
        organization_id = self._principal.organization_id or given.organization_id
        if organization_id is None:
            raise InvalidRequest.at("organization_id", "is missing")
        if given.organization_id not in (None, organization_id):
            raise InvalidRequest.at("organization_id", "must be your own organization, or left out")
        core = await self._home.core()
        return await identity.create(
            core.log, given, organization_id=organization_id, created_by=self._principal.subject
        )

    async def create_first_key(self, organization_id: str = "default") -> str | None:
        """An admin key for a store that has none at all yet; None where it has. Only in process."""
        if self._principal.organization_id is not None:
            return None
        core = await self._home.core()
        return await identity.create_first(core.log, organization_id)

    @refusals("key.list")
    async def list_keys(self, *, organization_id: str | None = None) -> list[Record]:
        """Every key, revoked ones too, without hashes."""
        policy.require_role(self._principal, Role.ADMIN)
        core = await self._home.core()
        keys = Keys(core.log, self._principal.organization_id or organization_id)
        return [key_dict(key) for key in await keys.all()]

    @refusals("key.narrow")
    async def narrow_key(self, key_id: str, body: Mapping[str, Any]) -> Record:
        """Take rights away from a key: a lower `role`, fewer `aliases` or `effects`, an earlier `expires_at`.

        Calls that begin later are judged by what is left, and running ones that it does not cover end.

        Raises:
            NotFound: there is no such key.
            InvalidRequest: a field would give it more, or does not fit this kind of key.
            BadRequest: nothing is named.
        """
        policy.require_role(self._principal, Role.ADMIN)
        given = NarrowKey.parse(body)
        if all(value is None for _, value in given):
            raise BadRequest("name what to narrow: role, aliases, effects or expires_at")
        core = await self._home.core()
        if not is_id(key_id):
            raise NotFound("no such key")
        keys = Keys(core.log, self._principal.organization_id)
        return key_dict(await keys.narrow(key_id, partial(identity.narrowed, given), by=self._principal.subject))

    @refusals("key.revoke")
    async def revoke_key(self, key_id: str) -> Record:
        """Switch a key off for good; calls that begin later are refused. Raises NotFound."""
        policy.require_role(self._principal, Role.ADMIN)
        core = await self._home.core()
        if not is_id(key_id):
            raise NotFound("no such key")
        await Keys(core.log, self._principal.organization_id).revoke(key_id, by=self._principal.subject)
        return {"message": "Key revoked", "id": key_id}
