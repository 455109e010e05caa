"""What Google Cloud Storage answers, as errors of ours ("HTTP status and error codes for JSON")."""

from __future__ import annotations

from collections.abc import Mapping

from studio.errors import (
    AuthFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    RateLimited,
    StudioError,
    Timeout,
    UpstreamError,
)
from studio.providers._objects.parts import PastEnd, Stumbled

_NO_BUCKET = "the bucket does not exist there; check bucket and endpoint"
_NO_OBJECT = "there is no such object below the connector's prefix"
_DENIED = (
    "the service account may not do this there; give it a role on the bucket "
    "(the provider's page has a least-privilege one)"
)


class Refused(Exception):
    """An answer that is no success.

    `message` is what the service says, for telling cases apart; `bucket`: it is the bucket that is missing.
    """

    bucket = False

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status)
        self.status = status
        self.message = message


_STATUS: Mapping[int, tuple[type[StudioError], str]] = {
    400: (InvalidRequest, "the service does not take this request; check key and arguments"),
    401: (AuthFailed, "the service does not take the service account's token"),
    403: (UpstreamError, _DENIED),
    404: (NotFound, _NO_OBJECT),
    409: (Conflict, "the object is being changed by somebody else; nothing was stored"),
    412: (Conflict, "there is an object under this key already, or it has changed; nothing was stored"),
    413: (InvalidRequest, "the content is larger than the service takes"),
    429: (RateLimited, "the service asks to slow down; try again shortly"),
}


def error_of(exc: BaseException) -> StudioError | None:
    """`exc` as one of ours; None where neither the service nor the network raised it."""
    if isinstance(exc, Refused):
        return _refused(exc)
    from studio.providers._objects.net import transport_error

    found = transport_error(exc)
    if found is not None:
        return found
    if isinstance(exc, TimeoutError):
        return Timeout("the server sent nothing within timeout_s")
    return None


def _refused(exc: Refused) -> StudioError:
    if exc.status == 416:
        return PastEnd()
    if exc.bucket:
        return UpstreamError(_NO_BUCKET)
    if exc.status == 401 and "Anonymous caller" in exc.message:
        return UpstreamError(_DENIED)
    if 300 <= exc.status < 400:
        return UpstreamError("the endpoint answers with a redirect, which is not followed; check the endpoint")
    if exc.status >= 500:
        return Stumbled(f"the service failed ({exc.status}); the same call may succeed later")
    kind, text = _STATUS.get(exc.status, (UpstreamError, f"the service refused the request ({exc.status})"))
    return kind(text)
