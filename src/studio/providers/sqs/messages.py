"""Messages as SQS carries them: entries of a batch on their way out, and what comes in."""

from __future__ import annotations

import base64
import datetime as dt
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from studio.contract.messaging import Scalar
from studio.errors import InvalidRequest
from studio.providers._messages import Incoming, Outgoing

BATCH = 10
"""Messages of one request, and of one answer (SQS API)."""
BATCH_BYTES = 1_048_576
MARK = "studio-encoding"
"""An attribute that says that the body is base64: SQS carries texts only."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_ATTRIBUTE = re.compile(
    r"(?!(?:aws|amazon)\.)(?!.*\.\.)[A-Za-z0-9_-]([A-Za-z0-9_.-]{0,254}[A-Za-z0-9_-])?", re.IGNORECASE
)
_NUMBER = re.compile(r"-?\d{1,38}")


@dataclass(frozen=True)
class Queue:
    """One queue. `content` says that SQS itself tells repeated messages by their content."""

    name: str
    url: str
    content: bool

    @property
    def fifo(self) -> bool:
        """Whether it keeps messages of a group in order."""
        return self.name.endswith(".fifo")


def batches(entries: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Entries in groups that one request takes."""
    group: list[dict[str, Any]] = []
    room = BATCH_BYTES
    for entry in entries:
        size = len(entry["MessageBody"].encode()) + sum(
            len(name) + len(str(value)) for name, value in entry.get("MessageAttributes", {}).items()
        )
        if size > BATCH_BYTES:
            raise InvalidRequest.at("message", "is larger than SQS takes: 1 MiB with its headers")
        if group and (len(group) == BATCH or size > room):
            yield group
            group, room = [], BATCH_BYTES
        group.append(entry)
        room -= size
    if group:
        yield group


def entry(number: int, message: Outgoing, queue: Queue, dedup: str | None) -> dict[str, Any]:
    """One message as an entry of `SendMessageBatch`; bytes that are no text travel as base64, marked so."""
    attributes = {name: _attribute(name, value) for name, value in message.headers.items()}
    body = _text(message.body)
    if body is None:
        body = base64.b64encode(message.body).decode()
        attributes[MARK] = {"DataType": "String", "StringValue": "base64"}
    if not body:
        raise InvalidRequest.at("message", "is empty, which SQS does not take")
    if len(attributes) > BATCH:
        raise InvalidRequest.at("headers", "are more than SQS takes: ten, one less beside bytes")
    made: dict[str, Any] = {"Id": str(number), "MessageBody": body}
    if attributes:
        made["MessageAttributes"] = attributes
    if message.key is not None:
        made["MessageGroupId"] = message.key
    elif queue.fifo:
        raise InvalidRequest.at("key", "is needed: a FIFO queue keeps the messages of a key in order")
    if dedup is not None:
        made["MessageDeduplicationId"] = dedup
    elif queue.fifo and not queue.content:
        made["MessageDeduplicationId"] = uuid.uuid4().hex
    return made


def _text(body: bytes) -> str | None:
    """A body as the text that SQS can carry (SendMessage, MessageBody); None if it cannot."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _attribute(name: str, value: Scalar) -> dict[str, str]:
    if not _ATTRIBUTE.fullmatch(name):
        raise InvalidRequest.at("headers", "have a name that SQS does not take: letters, digits, _ - and . between")
    if isinstance(value, bool):
        return {"DataType": "String", "StringValue": "true" if value else "false"}
    if isinstance(value, int | float):
        return {"DataType": "Number", "StringValue": repr(value)}
    if not value:
        raise InvalidRequest.at(f"headers.{name}", "is empty, which SQS does not take")
    return {"DataType": "String", "StringValue": value}


def incoming(message: dict[str, Any]) -> Incoming:
    """A message in the family's shape."""
    system = message.get("Attributes", {})
    attributes = dict(message.get("MessageAttributes", {}))
    body = str(message.get("Body", "")).encode()
    if attributes.pop(MARK, {}).get("StringValue") == "base64":
        body = base64.b64decode(body)
    sent, times = system.get("SentTimestamp"), int(system.get("ApproximateReceiveCount", 0))
    return Incoming(
        body=body,
        key=system.get("MessageGroupId"),
        headers={name: _header(value) for name, value in attributes.items()},
        id=message.get("MessageId"),
        published_at=dt.datetime.fromtimestamp(int(sent) / 1000, dt.UTC) if sent else None,
        redelivered=times > 1,
        more=(times, system.get("SequenceNumber")),
    )


def _header(value: dict[str, Any]) -> Any:
    if "BinaryValue" in value:
        return value["BinaryValue"]
    text = value.get("StringValue", "")
    whole = str(value.get("DataType", "")).startswith("Number") and _NUMBER.fullmatch(text)
    return int(text) if whole else text
