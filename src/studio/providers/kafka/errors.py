"""What aiokafka raises and brokers answer, as errors of ours. Codes: the protocol guide, "Error Codes".

Until a log-in is done the other side may be anybody, so nothing that it said is repeated.
"""

from __future__ import annotations

import asyncio
import re

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

Entry = tuple[type[StudioError], str]
_LOST = "the connection to the broker was lost while it worked"
_MOVED = "the partition's leader is changing; try again"
_AGAIN = "the group was rebalanced meanwhile, so these messages come back; receive them again"
_GROUP = "the consumer group is rebalancing; try again"
_DENIED = "the account may not do this with that {}; give it the ACL (the provider's page has them)"
_TOO_LARGE = "the message is larger than the broker or the topic takes"

_LOGIN: dict[str, Entry] = {
    # by the name of aiokafka's class
    "SaslAuthenticationFailed": (AuthFailed, "the broker refused the user name or the password"),
    "UnsupportedSaslMechanismError": (AuthFailed, "the broker does not offer this sasl_mechanism"),
    "IllegalSaslStateError": (AuthFailed, "the broker wants no SASL log-in on this port; check security_protocol"),
    "UnsupportedVersionError": (UpstreamError, "the broker is too old or too new to be spoken to"),
    "IncompatibleBrokerVersion": (UpstreamError, "the broker is too old to be spoken to"),
}
_CUT = (
    "the log-in was cut short: no Kafka broker answers there in this security_protocol, or it refused without a reason"
)
_WORK: dict[str, Entry] = {
    "UnknownTopicOrPartitionError": (NotFound, "there is no topic of that name"),
    "InvalidTopicError": (InvalidRequest, "name: is not one that Kafka takes for a topic"),
    "TopicAuthorizationFailedError": (UpstreamError, _DENIED.format("topic")),
    "GroupAuthorizationFailedError": (UpstreamError, _DENIED.format("group_id")),
    "ClusterAuthorizationFailedError": (UpstreamError, _DENIED.format("cluster")),
    "InvalidGroupIdError": (UpstreamError, "the broker does not take this group_id"),
    "MessageSizeTooLargeError": (InvalidRequest, _TOO_LARGE),
    "RecordListTooLargeError": (InvalidRequest, _TOO_LARGE),
    "InvalidTimestampError": (UpstreamError, "the broker refused the message's time; check the clocks"),
    "NotEnoughReplicasError": (UpstreamError, "too few replicas are in sync; the message was not stored"),
    "NotEnoughReplicasAfterAppendError": (
        UpstreamError, "too few replicas are in sync; the message may be stored or not",
    ),
    "NotLeaderForPartitionError": (Unreachable, _MOVED),
    "LeaderNotAvailableError": (Unreachable, _MOVED),
    "ReplicaNotAvailableError": (Unreachable, _MOVED),
    "UnsupportedCompressionType": (UpstreamError, "the broker does not know this compression"),
    "CorruptRecordException": (UpstreamError, "the broker and this service do not agree on the message's checksum"),
    "Unpackable": (UpstreamError, "a batch is damaged, unpacks to more than 8 MiB, or has 10,000 headers in a message"),
    "RecordTooLargeError": (UpstreamError, "a message is too large to be fetched"),
    "OffsetOutOfRangeError": (UpstreamError, "the group's offset is not in the topic any more; reset it"),
    "CommitFailedError": (Conflict, _AGAIN),
    "IllegalStateError": (Conflict, _AGAIN),
    "RebalanceInProgressError": (Unreachable, _GROUP),
    "IllegalGenerationError": (Unreachable, _GROUP),
    "UnknownMemberIdError": (Unreachable, _GROUP),
    "GroupCoordinatorNotAvailableError": (Unreachable, "the consumer group has no coordinator now; try again"),
    "CoordinatorNotAvailableError": (Unreachable, "the consumer group has no coordinator now; try again"),
    "NotCoordinatorForGroupError": (Unreachable, "the consumer group's coordinator is changing; try again"),
    "GroupLoadInProgressError": (Unreachable, "the consumer group's coordinator is loading; try again"),
    "InconsistentGroupProtocolError": (
        UpstreamError, "the other members of this group share its partitions in another way; use another group_id",
    ),
    "RequestTimedOutError": (Timeout, "the broker did not answer in time; a message may be stored or not"),
    "KafkaTimeoutError": (Timeout, "the broker did not answer in time"),
    "IncompatibleBrokerVersion": (UpstreamError, "the broker is too old for this"),
    "NodeNotReadyError": (Unreachable, "the broker cannot be reached; try again"),
    "KafkaConnectionError": (Unreachable, _LOST),
    "NoBrokersAvailable": (Unreachable, "no broker answers"),
    "CorrelationIdError": (UpstreamError, "the broker's answers came out of order"),
}  # fmt: skip


_CODES: dict[int, Entry] = {
    # that aiokafka has no class for
    87: (InvalidRequest, "the topic does not take this message (a compacted topic wants a key)"),
    89: (RateLimited, "the broker's quota is used up; try again shortly"),
}


def login_error(exc: Exception) -> StudioError:
    """A connection that came to nothing as one of ours, without a byte of what the other side sent."""
    if isinstance(exc, StudioError):
        return exc
    return _look_up(_LOGIN, exc) or Unreachable(_CUT)


def work_error(exc: BaseException) -> StudioError | None:
    """An exception after the log-in as one of ours; None for what no driver raises."""
    from aiokafka import errors

    if isinstance(exc.__cause__, StudioError):
        return exc.__cause__
    if found := _look_up(_WORK, exc):
        return found
    if isinstance(exc, asyncio.TimeoutError):
        return Timeout("the broker did not answer in time")
    if isinstance(exc, errors.KafkaError):
        return UpstreamError(f"the broker refused ({_word(type(exc).__name__)})")
    if isinstance(exc, OSError):
        return Unreachable(_LOST)
    return None


def answered(code: int) -> StudioError | None:
    """A broker's error code as one of ours; None for success."""
    from aiokafka import errors

    if entry := _CODES.get(code):
        return entry[0](entry[1])
    kind = errors.for_code(code)
    return None if kind is errors.NoError else work_error(kind())


def _look_up(table: dict[str, Entry], exc: BaseException) -> StudioError | None:
    for kind in type(exc).__mro__:
        if entry := table.get(kind.__name__):
            return entry[0](entry[1])
    return None


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)[:64]
