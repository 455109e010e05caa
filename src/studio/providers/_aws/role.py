"""The keys of a role that another account lends: AssumeRole of the AWS Security Token Service (STS)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from botocore.credentials import ReadOnlyCredentials  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from studio.errors import AuthFailed, InvalidConfig, StudioError, UpstreamError
from studio.providers._aws.errors import COMMON
from studio.providers._objects.parts import Stumbled

SESSION_NAME = "studio-connectors"
_MARGIN_S = 300
"""Keys are fetched anew so long before they end."""
_NO_ORGANIZATION = "needs an organization, whose id is the external id; name the organization_id"
_NOT_TRUSTED = (
    "the role may not be assumed with these keys: its trust policy must name their account, with your "
    "organization's id as sts:ExternalId (the provider's page has a policy)"
)
_NO_STS = "the role could not be assumed: the endpoint does not answer as STS does; check role_arn, region and endpoint"


class RoleKeys:
    """What botocore asks for keys. Fetched on first use, once for all who wait, and again before they end."""

    method = "assume-role"

    def __init__(self, sts: Any, role_arn: str, external_id: str | None) -> None:
        if external_id is None:
            raise InvalidConfig.at("config.role_arn", _NO_ORGANIZATION)
        self._sts = sts
        self._asked = {"RoleArn": role_arn, "RoleSessionName": SESSION_NAME, "ExternalId": external_id}
        self._keys: ReadOnlyCredentials | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys of now. Raises AuthFailed, UpstreamError and what botocore raises."""
        async with self._lock:
            if time.time() > self._until - _MARGIN_S:
                try:
                    answer = await self._sts.assume_role(**self._asked)
                except ClientError as exc:
                    raise _refused(exc) from exc
                self._take(answer.get("Credentials") or {})
        return self._keys

    def _take(self, found: dict[str, Any]) -> None:
        try:
            self._until = found["Expiration"].timestamp()
            self._keys = ReadOnlyCredentials(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])
        except KeyError:
            raise UpstreamError(_NO_STS) from None


def _refused(exc: ClientError) -> StudioError:
    """STS's errors, kept apart from those of the service that the keys are for: a 404 here is not a missing object."""
    code = exc.response.get("Error", {}).get("Code", "")
    if code in {"AccessDenied", "403"}:
        return AuthFailed(_NOT_TRUSTED)
    if code in COMMON:
        kind, message = COMMON[code]
        return kind(message)
    if int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500:
        return Stumbled("the role could not be assumed: STS failed; the same call may succeed later")
    return UpstreamError(_NO_STS)
