"""The one tree of errors: code, retryable, and details that are safe to show.

No HTTP, exit or MCP status stands here; each surface owns a table from these classes
(`api/problems.py`, `cli.py`). A message never holds a configuration value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FieldError:
    """One wrong input. `field` is a dotted path (`config.port`); `message` never repeats the value."""

    field: str
    message: str


class StudioError(Exception):
    """Root of every error that a caller can see.

    `code` is stable and machine-readable; `retryable` says whether the same call may succeed later;
    `retry_after_s` is seconds, where known.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, fields: Iterable[FieldError] = (), retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = tuple(fields)
        self.retry_after_s = retry_after_s

    @classmethod
    def at(cls, field: str, message: str) -> StudioError:
        """An error about one input field: the message names it and `fields` holds it."""
        return cls(f"{field}: {message}", fields=[FieldError(field, message)])


class NotFound(StudioError):
    """No such thing, or not in this organization: both answer the same."""

    code = "not_found"


class Unauthenticated(StudioError):
    """No credential, or one that is unknown, expired or revoked."""

    code = "unauthenticated"


class Forbidden(StudioError):
    """The right organization, but the role or the key's scope does not allow it."""

    code = "forbidden"


class InsufficientScope(Forbidden):
    """A token's scopes do not allow it; `scope` is what to ask the issuer for, names separated by spaces."""

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message)
        self.scope = scope


class InvalidRequest(StudioError):
    """A field of the request is wrong; `fields` names it."""

    code = "invalid_request"


class BadRequest(InvalidRequest):
    """The request as a whole cannot be taken: malformed, contradicting itself, or asking for nothing."""


class TooLarge(InvalidRequest):
    """The request is larger than this service reads."""


class TooSlow(InvalidRequest):
    """The request did not arrive in time."""

    retryable = True


class InvalidConfig(StudioError):
    """A connector's configuration does not fit its provider's schema; `fields` names what."""

    code = "invalid_config"


class Conflict(StudioError):
    """A name or alias is taken, or the record changed since it was read."""

    code = "conflict"


class InFlight(Conflict):
    """The same request is being carried out already."""

    retryable = True


class SecretsRequired(StudioError):
    """The destination changed, so the secrets that were sealed to the old one must be given again."""

    code = "secrets_required"


class OverrideNotAllowed(StudioError):
    """An attachment tried to set a field that it may not, or to widen one that it may only narrow."""

    code = "override_not_allowed"


class Inactive(StudioError):
    """The connector is switched off."""

    code = "inactive"


class ReadOnly(StudioError):
    """A write was asked of a connector or an attachment that allows reads only."""

    code = "read_only"


class OperationNotSupported(StudioError):
    """The provider has no such operation, or is not built yet; the message names what exists."""

    code = "operation_not_supported"


class EgressDenied(StudioError):
    """The address may not be dialled from here; the message names the range and the setting."""

    code = "egress_denied"


class Unreachable(StudioError):
    """No connection to the upstream: refused, no route, unknown name, TLS failed, or cut."""

    code = "unreachable"
    retryable = True


class AuthFailed(StudioError):
    """The upstream refused the connector's credentials."""

    code = "auth_failed"


class Timeout(StudioError):
    """The operation's deadline passed; its work upstream was cancelled."""

    code = "timeout"
    retryable = True


class UpstreamError(StudioError):
    """The upstream understood and refused, or failed while it worked."""

    code = "upstream_error"


class PoolBusy(StudioError):
    """Every session of the connector stayed in use; nothing was sent upstream."""

    code = "pool_busy"
    retryable = True


class RateLimited(StudioError):
    """Too many calls from this caller, or the upstream said so."""

    code = "rate_limited"
    retryable = True


class ResultBlocked(StudioError):
    """The result was withheld because it held a secret or could not be shown safely."""

    code = "result_blocked"


class EncryptionError(StudioError):
    """A sealed value does not open: wrong or lost key, or a token that was moved or changed."""

    code = "encryption_error"


class Internal(StudioError):
    """A defect of this service. The log has it under the request's id."""

    code = "internal"


class StoreAway(Internal):
    """The metadata database does not answer. Nothing was done."""

    retryable = True


def codes() -> dict[str, type[StudioError]]:
    """Every code and the class that owns it; a subclass that shares its parent's code is not listed."""
    found: dict[str, type[StudioError]] = {}
    for cls in StudioError.__subclasses__():
        found.setdefault(cls.code, cls)
    return found


def as_studio(exc: Exception) -> StudioError:
    """Any exception as one of ours; what is not ours is logged by class and place, never by its text."""
    if isinstance(exc, StudioError):
        return exc
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    logger.error("unexpected %s at %s", type(exc).__name__, where)
    return Internal("something went wrong inside the service; its log names the place")
