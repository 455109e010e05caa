"""What Azure Blob Storage answers, as errors of ours ("Blob service error codes")."""

from __future__ import annotations

import re
from collections.abc import Mapping

from studio.errors import (
    AuthFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    RateLimited,
    StudioError,
    Timeout,
    Unreachable,
    UpstreamError,
)
from studio.providers._objects.parts import PastEnd, Stumbled

_DENIED = (
    "the credential may not do this there; give the SAS the permission for it "
    "(the provider's page has a least-privilege one)"
)
_WRONG = "the account key or the SAS is not valid for the account"
_NO_BLOB = "there is no such object below the connector's prefix"
_TAKEN = "there is an object under this key already, or it is being changed; nothing was stored"
_CODES: Mapping[str, tuple[type[StudioError], str]] = {
    "AuthenticationFailed": (AuthFailed, _WRONG),
    "InvalidAuthenticationInfo": (AuthFailed, _WRONG),
    "NoAuthenticationInformation": (UpstreamError, _DENIED),
    "PublicAccessNotPermitted": (UpstreamError, _DENIED),
    "AuthorizationFailure": (AuthFailed, f"{_WRONG}, or the account's firewall does not let this machine in"),
    "ContainerNotFound": (UpstreamError, "the container does not exist there; check account, container and endpoint"),
    "ContainerBeingDeleted": (UpstreamError, "the container is being deleted"),
    "ContainerDisabled": (UpstreamError, "the container is disabled"),
    "AccountIsDisabled": (UpstreamError, "the storage account is disabled"),
    "BlobNotFound": (NotFound, _NO_BLOB),
    "CannotVerifyCopySource": (NotFound, _NO_BLOB),
    "BlobArchived": (UpstreamError, "the object is archived; have it rehydrated first"),
    "SnapshotsPresent": (UpstreamError, "the object has snapshots; have them deleted first"),
    "LeaseIdMissing": (UpstreamError, "somebody holds a lease on the object"),
    "InvalidBlobType": (UpstreamError, "the object is not a block blob, which are the ones written here"),
    "BlobAlreadyExists": (Conflict, _TAKEN),
    "ConditionNotMet": (Conflict, _TAKEN),
    "TargetConditionNotMet": (Conflict, _TAKEN),
    "RequestBodyTooLarge": (InvalidRequest, "the content is larger than the service takes"),
    "BlobNameTooLong": (InvalidRequest, "key: is too long for the server"),
    "InvalidResourceName": (InvalidRequest, "key: is not one that the server takes"),
    "ServerBusy": (RateLimited, "the service asks to slow down; try again shortly"),
}
_STATUS: Mapping[int, tuple[type[StudioError], str]] = {
    400: (InvalidRequest, "the service does not take this request; check key and arguments"),
    401: (AuthFailed, _WRONG),
    403: (UpstreamError, _DENIED),
    404: (NotFound, _NO_BLOB),
    409: (Conflict, _TAKEN),
    412: (Conflict, _TAKEN),
    413: (InvalidRequest, "the content is larger than the service takes"),
    429: (RateLimited, "the service asks to slow down; try again shortly"),
}


def error_of(exc: BaseException) -> StudioError | None:
    """`exc` as one of ours; None where neither azure-core nor the network raised it."""
    from azure.core import exceptions as azure

    from studio.providers._objects.net import transport_error

    if isinstance(exc, azure.HttpResponseError) and exc.status_code:
        code = getattr(exc, "error_code", None)
        return _refused(int(exc.status_code), str(getattr(code, "value", code) or ""))
    found = transport_error(exc)
    if found is not None:
        return found
    if isinstance(exc, azure.ServiceRequestTimeoutError | azure.ServiceResponseTimeoutError | TimeoutError):
        return Timeout("the server sent nothing within timeout_s")
    if isinstance(exc, azure.ServiceRequestError | azure.ServiceResponseError):
        return Unreachable("the server closed the connection before its answer was complete")
    if isinstance(exc, azure.AzureError):
        return UpstreamError("the other side does not answer as Azure Blob Storage does; check the endpoint")
    return None


def _refused(status: int, code: str) -> StudioError:
    if status == 416 or code == "InvalidRange":
        return PastEnd()
    if code in _CODES:
        kind, text = _CODES[code]
        return kind(text)
    if code.startswith("Authorization") or code == "InsufficientAccountPermissions":
        return UpstreamError(_DENIED)
    if 300 <= status < 400:
        return UpstreamError("the endpoint answers with a redirect, which is not followed; check the endpoint")
    word = code if re.fullmatch(r"[A-Za-z0-9]{1,64}", code) else str(status)
    if status >= 500:
        return Stumbled(f"the service failed ({word}); the same call may succeed later")
    if status in _STATUS:
        kind, text = _STATUS[status]
        return kind(text)
    return UpstreamError(f"the service refused the request, or does not answer as Azure Blob Storage does ({word})")
