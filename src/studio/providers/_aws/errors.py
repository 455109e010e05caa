"""What is the same for every AWS service: errors about keys and pace, and exchanges without an answer.

Codes: "Common errors" in the API references of Amazon S3, SQS and STS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from json import JSONDecodeError
from typing import Any

from studio.errors import AuthFailed, InvalidRequest, RateLimited, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers._objects.parts import TooSlow

_WRONG_KEY = "the access key id is not known there, or not active"
_WRONG_SECRET = "the secret access key does not belong to the access key id"  # noqa: S105 - a sentence
_ENDED = "the session token has expired or is not valid; update the connector"
_UNSIGNED = "the server wants signed requests; give access_key_id and secret_access_key"
_SLOW = "the service asks to slow down; try again shortly"
_CLOCKS = "the clocks of this machine and of the server differ too much"

Entry = tuple[type[StudioError], str]
COMMON: Mapping[str, Entry] = {
    "InvalidAccessKeyId": (AuthFailed, _WRONG_KEY),
    "InvalidClientTokenId": (AuthFailed, _WRONG_KEY),
    "UnrecognizedClientException": (AuthFailed, _WRONG_KEY),
    "SignatureDoesNotMatch": (AuthFailed, _WRONG_SECRET),
    "InvalidSignatureException": (AuthFailed, _WRONG_SECRET),
    "IncompleteSignature": (AuthFailed, _UNSIGNED),
    "MissingAuthenticationToken": (AuthFailed, _UNSIGNED),
    "ExpiredToken": (AuthFailed, _ENDED),
    "ExpiredTokenException": (AuthFailed, _ENDED),
    "InvalidToken": (AuthFailed, _ENDED),
    "InvalidSecurity": (AuthFailed, _ENDED),
    "TokenRefreshRequired": (AuthFailed, _ENDED),
    "NotSignedUp": (AuthFailed, "the account is not signed up for the service"),
    "SlowDown": (RateLimited, _SLOW),
    "RequestLimitExceeded": (RateLimited, _SLOW),
    "RequestThrottled": (RateLimited, _SLOW),
    "Throttling": (RateLimited, _SLOW),
    "ThrottlingException": (RateLimited, _SLOW),
    "TooManyRequests": (RateLimited, _SLOW),
    "RequestExpired": (UpstreamError, _CLOCKS),
    "RequestTimeTooSkewed": (UpstreamError, _CLOCKS),
}


def translate(
    exc: BaseException, refused: Callable[[Mapping[str, Any]], StudioError], *, misfit: str, stranger: str
) -> StudioError | None:
    """`exc` as one of ours; None where neither botocore nor the network raised it.

    Args:
        refused: reads a service's own error answer.
        misfit: what to say of a request that does not fit the protocol.
        stranger: what to say of an answer that is none of the service's.
    """
    from botocore import exceptions as boto  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

    from studio.providers._objects.net import transport_error

    if isinstance(exc, boto.ClientError):
        return refused(exc.response)
    found = transport_error(exc)
    if found is not None:
        return found
    if isinstance(exc, boto.ConnectTimeoutError):
        return TooSlow()
    if isinstance(exc, boto.ReadTimeoutError | TimeoutError):
        return Timeout("the server sent nothing within timeout_s")
    if isinstance(exc, boto.HTTPClientError):
        return Unreachable("the request could not be sent or its answer not be read")
    if isinstance(exc, boto.ParamValidationError):
        return InvalidRequest(misfit)
    if isinstance(
        exc, ResponseParserError | boto.BotoCoreError | JSONDecodeError | UnicodeDecodeError | RecursionError
    ):
        return UpstreamError(stranger)
    return None
