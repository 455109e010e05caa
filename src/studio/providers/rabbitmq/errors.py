"""What aiormq raises, as errors of ours: one table for the log-in, one for the work after it.

Until a log-in is done the other side may be anybody, so nothing that it said is repeated. Later, the
server's reply texts name the virtual host and the user, so ours are said in their place.
"""

from __future__ import annotations

import asyncio

from studio.errors import AuthFailed, NotFound, StudioError, Timeout, Unreachable, UpstreamError

_LOST = "the connection to the server was lost while it worked"
_NO_VHOST = "the server has no such virtual_host, or does not let this user in"
_CUT = "the log-in was cut short: no AMQP 0-9-1 server answers there, or it refused without a reason"
Entry = tuple[type[StudioError], str]

_LOGIN: dict[str, Entry] = {
    # by the name of aiormq's class
    "ProbableAuthenticationError": (AuthFailed, "the server refused the user name or the password"),
    "AuthenticationError": (AuthFailed, "the server does not take user name and password (no PLAIN mechanism)"),
    "ConnectionNotAllowed": (AuthFailed, _NO_VHOST),
    "ConnectionResourceError": (Unreachable, "the server takes no more connections now; try again"),
    "IncompatibleProtocolError": (Unreachable, "the server does not speak AMQP 0-9-1"),
}
_WORK: dict[str, Entry] = {
    "ChannelNotFoundEntity": (NotFound, "there is no queue or exchange of that name"),
    "ChannelAccessRefused": (
        UpstreamError,
        "the account may not do this with that queue or exchange; set its permissions (the provider's page has them)",
    ),
    "ChannelLockedResource": (UpstreamError, "the queue belongs to another connection alone"),
    "ChannelPreconditionFailed": (UpstreamError, "the server refused: the queue or the message does not allow this"),
    "ConnectionNotImplemented": (
        UpstreamError,
        "the server cannot do this with that queue; streams cannot be received from here",
    ),
    "ConnectionResourceError": (UpstreamError, "the server is out of resources; try again later"),
    "PublishError": (NotFound, "nothing is there to take the message: no queue of that name, or none bound to the key"),
    "DeliveryError": (
        UpstreamError,
        "the server refused the message: its queue is full, or the server is in trouble",
    ),
    "ChannelClosed": (Unreachable, "the server closed the channel; try again"),
    "ChannelInvalidStateError": (Unreachable, _LOST),
    "AMQPConnectionError": (Unreachable, _LOST),
    "ProtocolSyntaxError": (UpstreamError, "the server answered something that is not AMQP 0-9-1"),
}


class Lost(Exception):
    """The driver gave up because the connection is gone."""


def login_error(exc: Exception) -> StudioError:
    """A failed log-in as one of ours, without a byte of what the other side sent."""
    if isinstance(exc, StudioError):
        return exc
    return _look_up(_LOGIN, exc) or Unreachable(_CUT)


def work_error(exc: BaseException) -> StudioError | None:
    """The driver's exception after the log-in as one of ours; None for what no driver raises."""
    if found := _look_up(_WORK, exc):
        return found
    if isinstance(exc, Lost | OSError):
        return Unreachable(_LOST)
    if isinstance(exc, TimeoutError | asyncio.TimeoutError):
        return Timeout("the server did not answer in time")
    return None


def lost(exc: BaseException) -> bool:
    """Whether the connection broke, as opposed to a refusal."""
    import aiormq

    return isinstance(exc, Lost | OSError | aiormq.exceptions.ChannelInvalidStateError)


def intact(exc: BaseException) -> bool:
    """Whether a channel can be used after this: only where nothing went wrong with the channel itself."""
    import aiormq

    return isinstance(exc, StudioError | aiormq.exceptions.DeliveryError)


def _look_up(table: dict[str, Entry], exc: BaseException) -> StudioError | None:
    """The entry of the exception's class or of its nearest ancestor."""
    for kind in type(exc).__mro__:
        if entry := table.get(kind.__name__):
            return entry[0](entry[1])
    return None
