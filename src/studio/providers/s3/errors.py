"""What S3 and its likes answer, as errors of ours. Codes: Amazon S3 API Reference, "Error responses"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from studio.errors import AuthFailed, Conflict, InvalidRequest, NotFound, RateLimited, StudioError, UpstreamError
from studio.providers._aws.errors import COMMON, Entry, translate
from studio.providers._objects.parts import PastEnd, Stumbled

_DENIED = (
    "the account may not do this there; give it the right in the bucket's policy "
    "(the provider's page has a least-privilege policy)"
)
_ELSEWHERE = "the bucket is in another region or behind another endpoint; set region (or endpoint) to that one"
_NO_OBJECT = "there is no such object below the connector's prefix"
_NO_BUCKET = "the bucket does not exist there; check bucket, region and endpoint"
_TAKEN = "there is an object under this key already, or it is being written; nothing was stored"

_CODES: Mapping[str, Entry] = {
    **COMMON,
    "AccessDenied": (UpstreamError, _DENIED),
    "AllAccessDisabled": (UpstreamError, _DENIED),
    "AccountProblem": (UpstreamError, _DENIED),
    "NoSuchBucket": (UpstreamError, _NO_BUCKET),
    "InvalidBucketName": (UpstreamError, _NO_BUCKET),
    "NoSuchKey": (NotFound, _NO_OBJECT),
    "NoSuchVersion": (NotFound, _NO_OBJECT),
    "InvalidObjectState": (UpstreamError, "the object is archived; have it restored first"),
    "PermanentRedirect": (UpstreamError, _ELSEWHERE),
    "TemporaryRedirect": (UpstreamError, _ELSEWHERE),
    "Redirect": (UpstreamError, _ELSEWHERE),
    "AuthorizationHeaderMalformed": (UpstreamError, _ELSEWHERE),
    "IllegalLocationConstraintException": (UpstreamError, _ELSEWHERE),
    "PreconditionFailed": (Conflict, _TAKEN),
    "ConditionalRequestConflict": (Conflict, _TAKEN),
    "KeyTooLongError": (InvalidRequest, "key: is too long for the server"),
    "XMinioInvalidObjectName": (InvalidRequest, "key: is not one that the server takes"),
    "EntityTooLarge": (InvalidRequest, "the content is larger than the server takes"),
}
_STATUS: Mapping[int, Entry] = {
    301: (UpstreamError, _ELSEWHERE),
    302: (UpstreamError, _ELSEWHERE),
    307: (UpstreamError, _ELSEWHERE),
    308: (UpstreamError, _ELSEWHERE),
    400: (UpstreamError, "the server refused the request; check region, keys and endpoint"),
    401: (AuthFailed, "the server does not take these credentials"),
    403: (UpstreamError, _DENIED),
    404: (NotFound, _NO_OBJECT),
    409: (Conflict, _TAKEN),
    412: (Conflict, _TAKEN),
    429: (RateLimited, "the service asks to slow down; try again shortly"),
}


def error_of(exc: BaseException) -> StudioError | None:
    """`exc` as one of ours; None where neither botocore nor the network raised it."""
    return translate(
        exc,
        refused,
        misfit="the request does not fit the S3 protocol; check the key",
        stranger="the other side does not answer as an S3 server does; check the endpoint",
    )


def refused(response: Mapping[str, Any]) -> StudioError:
    """An error answer of the server."""
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.get("Code", ""))
    if code == "InvalidRange" or status == 416:
        return PastEnd()
    found = _CODES.get(code)
    if found is None and not (code.isdigit() or not code) and status in {400, 409}:
        return UpstreamError(_said(code, str(error.get("Message", ""))))
    found = found or _STATUS.get(status)
    if found is not None:
        return found[0](found[1])
    if status >= 500:
        return Stumbled(f"the service failed ({_word(code) or status}); the same call may succeed later")
    return UpstreamError(_said(code, str(error.get("Message", ""))))


def _word(code: str) -> str:
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else ""


def _said(code: str, message: str) -> str:
    text = re.sub(r"[^ -~]", "?", message)[:300]
    return f"the service refused: {text} ({_word(code) or 'no code'})"
