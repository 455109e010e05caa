"""What the account may do, as far as the brokers tell: authorized operations in Metadata and DescribeGroups (KIP-430).

aiokafka stops at Metadata version 5; version 8 (Kafka 2.3) has the fields, and is the last before the
encoding changes. A broker without an authorizer lets everybody do everything, and says so.
Source: https://cwiki.apache.org/confluence/display/KAFKA/KIP-430+-+Return+Authorized+Operations+in+Describe+Responses
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from studio.providers.kafka.cluster import Cluster

UNTOLD = -(2**31)
"""What stands for authorized operations where a broker does not tell; no negative number is a set of them."""
MOST_TOPICS = 100
_TEXT = String("utf-8")
_NAMES = {
    3: "Read", 4: "Write", 5: "Create", 6: "Delete", 7: "Alter", 8: "Describe", 9: "ClusterAction",
    10: "DescribeConfigs", 11: "AlterConfigs", 12: "IdempotentWrite",
}  # fmt: skip
"""`AclOperation` by its code, which is the bit."""
_READING = {"topic": {"Read", "Describe", "DescribeConfigs"}, "cluster": {"Describe", "DescribeConfigs"},
            "group": {"Describe"}}  # fmt: skip
"""What a reading account may do with each resource. Read on a group moves its offsets, as `receive` does."""


class _Answer(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 3, 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        ("topics", Array(
            ("error_code", Int16), ("topic", _TEXT), ("is_internal", Boolean),
            ("partitions", Array(
                ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                ("replicas", Array(Int32)), ("isr", Array(Int32)), ("offline_replicas", Array(Int32)),
            )),
            ("authorized_operations", Int32),
        )),
        ("authorized_operations", Int32),
    )  # fmt: skip


class _Asked(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = 3, 8, _Answer
    SCHEMA = Schema(
        ("topics", Array(_TEXT)), ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean), ("include_topic_authorized_operations", Boolean),
    )  # fmt: skip


class _Ask(Request[_Asked]):  # type: ignore[misc]
    API_KEY = 3

    def build(self, request_struct_class: type[_Asked]) -> _Asked:
        return request_struct_class(None, False, True, True)


class _AskedGroup(DescribeGroupsRequest_v3):  # type: ignore[misc]
    API_VERSION, RESPONSE_TYPE = 3, DescribeGroupsResponse_v3  # aiokafka 0.14 reads its answer as version 2's


class _AskGroup(Request[_AskedGroup]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_AskedGroup]) -> _AskedGroup:
        return request_struct_class([self._group], True)


async def rights(cluster: Cluster, prefix: str, group: str | None) -> tuple[list[str], bool]:
    """What the account may do beyond reading, in words; and whether the brokers told everything that was asked.

    Args:
        prefix: of the topics that count. At most `MOST_TOPICS` of them are looked at.
        group: the consumer group that counts.

    Raises:
        StudioError, or what aiokafka raises.
    """
    found = await cluster.ask(None, _Ask())
    named = [entry for entry in found.topics if not entry[0] and not entry[2] and entry[1].startswith(prefix)]
    told = {
        "cluster": {"the cluster": found.authorized_operations},
        "topic": {entry[1]: entry[-1] for entry in named[:MOST_TOPICS]},
        "group": {} if group is None else {f"group {group}": await _of_group(cluster, group)},
    }
    every = [bits for those in told.values() for bits in those.values()]
    excess = [line for kind, those in told.items() for line in _excess(kind, those)]
    return excess, bool(told["topic"]) and min(every) >= 0


async def _of_group(cluster: Cluster, group: str) -> int:
    place = await cluster.ask(None, FindCoordinatorRequest(group, 0))
    if place.error_code:
        return UNTOLD
    cluster.learn(place.coordinator_id, place.host, place.port)
    found = await cluster.ask(place.coordinator_id, _AskGroup(group))
    return next((entry[-1] for entry in found.groups if not entry[0]), UNTOLD)


def _excess(kind: str, told: Mapping[str, int]) -> Iterable[str]:
    """Each operation beyond reading, with the resources that it may be done to."""
    for bit, name in _NAMES.items():
        where = [resource for resource, bits in told.items() if bits > 0 and bits >> bit & 1]
        if where and name not in _READING[kind]:
            shown = where[0] if kind != "topic" else f"{len(where)} topic(s), such as {where[0]}"
            yield f"{name} on {shown}"
