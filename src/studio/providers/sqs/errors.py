"""What SQS answers, as errors of ours. Codes: Amazon SQS API Reference, "Common errors" and those of each action."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from studio.errors import (
    AuthFailed,
    InvalidRequest,
    NotFound,
    RateLimited,
    StudioError,
    Timeout,
    Unreachable,
    UpstreamError,
)
from studio.providers._objects.net import transport_error
from studio.providers._objects.parts import TooSlow

_WRONG_KEY = "the access key id is not known there, or not active"
_WRONG_SECRET = "the secret access key does not belong to the access key id"  # noqa: S105 - a sentence
_ENDED = "the session token has expired or is not valid; update the connector"
_NO_QUEUE = "there is no queue of that name in this region and account"
_HANDLE = "the handle is not valid any more: the message comes back, receive it again (and ask for a longer hold_s)"
_SLOW = "the service asks to slow down; try again shortly"
_DENIED = "the account may not do this there; give it the right (the provider's page has a least-privilege policy)"

Entry = tuple[type[StudioError], str]


class Denied(UpstreamError):
    """The credentials are good, but not for this."""

    def __init__(self, message: str = _DENIED) -> None:
        super().__init__(message)


_CODES: Mapping[str, Entry] = {
    "InvalidClientTokenId": (AuthFailed, _WRONG_KEY),
    "InvalidAccessKeyId": (AuthFailed, _WRONG_KEY),
    "UnrecognizedClientException": (AuthFailed, _WRONG_KEY),
    "SignatureDoesNotMatch": (AuthFailed, _WRONG_SECRET),
    "InvalidSignatureException": (AuthFailed, _WRONG_SECRET),
    "IncompleteSignature": (AuthFailed, "the server wants signed requests; give access_key_id and secret_access_key"),
    "MissingAuthenticationToken": (AuthFailed, "the server wants access_key_id and secret_access_key"),
    "ExpiredToken": (AuthFailed, _ENDED),
    "ExpiredTokenException": (AuthFailed, _ENDED),
    "InvalidSecurity": (AuthFailed, _ENDED),
    "AccessDenied": (Denied, _DENIED),
    "AccessDeniedException": (Denied, _DENIED),
    "KmsAccessDenied": (Denied, "the account may not use the key that the queue is encrypted with"),
    "NonExistentQueue": (NotFound, _NO_QUEUE),
    "QueueDoesNotExist": (NotFound, _NO_QUEUE),
    "QueueDeletedRecently": (UpstreamError, "the queue was deleted less than a minute ago; try again then"),
    "ReceiptHandleIsInvalid": (NotFound, _HANDLE),
    "MessageNotInflight": (NotFound, _HANDLE),
    "InvalidMessageContents": (
        InvalidRequest, "message: holds characters that SQS does not take (control characters); send it as base64",
    ),
    "BatchRequestTooLong": (InvalidRequest, "messages: are larger than SQS takes at once"),
    "UnsupportedOperation": (InvalidRequest, "this queue cannot do that"),
    "OverLimit": (RateLimited, "too many messages of this queue are in flight; acknowledge some first"),
    "RequestThrottled": (RateLimited, _SLOW),
    "Throttling": (RateLimited, _SLOW),
    "ThrottlingException": (RateLimited, _SLOW),
    "KmsThrottled": (RateLimited, _SLOW),
    "RequestExpired": (UpstreamError, "the clocks of this machine and of the server differ too much"),
    "PermanentRedirect": (UpstreamError, "the service is elsewhere; set region and endpoint_url to that place"),
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z]{6,64}")


def error_of(exc: BaseException) -> StudioError | None:
    """`exc` as one of ours; None where neither botocore nor the network raised it."""
    from botocore import exceptions as boto  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

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
        return InvalidRequest("the request does not fit the SQS protocol; check the name, the key and the headers")
    if isinstance(exc, ResponseParserError | boto.BotoCoreError):
        return UpstreamError("the other side does not answer as SQS does; check the endpoint_url")
    return None


def refused(response: Mapping[str, Any]) -> StudioError:
    """An error answer of the server."""
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return coded(str(error.get("Code", "")), str(error.get("Message", "")), status)


def coded(code: str, message: str, status: int = 400) -> StudioError:
    """One error by its code. A code that is a number only has the real one in its message (an emulator's way)."""
    words = [code.rpartition(".")[2]] if not code.isdigit() else _WORD.findall(message)
    for word in words:
        if entry := _CODES.get(word):
            return entry[0](entry[1])
    if status >= 500:
        return Unreachable("the service failed; the same call may succeed later")
    if status in {401, 403}:
        return Denied()
    if 300 <= status < 400:
        return UpstreamError("the service is elsewhere, and redirects are not followed; check region and endpoint_url")
    kind = InvalidRequest if words[:1] and words[0] in _INPUT else UpstreamError
    return kind(f"the service refused: {re.sub(r'[^ -~]', '?', message)[:300]}")


_INPUT = frozenset(
    {"InvalidParameterValue", "InvalidAttributeValue", "MissingParameter", "InvalidParameterCombination"}
)
