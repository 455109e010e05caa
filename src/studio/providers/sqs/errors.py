"""What SQS answers, as errors of ours. Codes: Amazon SQS API Reference, "Common errors" and those of each action."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from studio.errors import InvalidRequest, NotFound, RateLimited, StudioError, Unreachable, UpstreamError
from studio.providers._aws.errors import COMMON, Entry, translate

_NO_QUEUE = "there is no queue of that name in this region and account"
_HANDLE = "the handle is not valid any more: the message comes back, receive it again (and ask for a longer hold_s)"
_DENIED = "the account may not do this there; give it the right (the provider's page has a least-privilege policy)"


class Denied(UpstreamError):
    """The credentials are good, but not for this."""

    def __init__(self, message: str = _DENIED) -> None:
        super().__init__(message)


_CODES: Mapping[str, Entry] = {
    **COMMON,
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
    "KmsThrottled": COMMON["Throttling"],
    "PermanentRedirect": (UpstreamError, "the service is elsewhere; set region and endpoint_url to that place"),
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z]{6,64}")


def error_of(exc: BaseException) -> StudioError | None:
    """`exc` as one of ours; None where neither botocore nor the network raised it."""
    return translate(
        exc,
        refused,
        misfit="the request does not fit the SQS protocol; check the name, the key and the headers",
        stranger="the other side does not answer as SQS does; check the endpoint_url",
    )


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
