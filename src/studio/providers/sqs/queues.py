"""Queues of one SQS endpoint: addresses of queues by name, batches, and messages in the family's shape.

The client is aiobotocore's on the session and the guarded HTTP of the `s3` provider: no credential is
looked for anywhere, every address passes the gate, redirects are not followed, nothing is retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from studio.errors import StudioError, UpstreamError
from studio.providers._messages import Outgoing
from studio.providers._objects.net import TooMuch
from studio.providers.sqs.errors import coded, error_of
from studio.providers.sqs.messages import BATCH, Queue, batches, entry

LONG_POLL_S = 20
AT_ONCE_BYTES = 1 << 20
"""Of the messages that are asked for at once, as large as the last ones were; SQS gives ten of 1 MiB each."""
MISFIT_BYTES = 512
_HIDDEN = (
    "the messages that came are too large to be taken together: they come back when their hold_s has passed, and are "
    "taken one at a time then; receive again"
)
PAUSE_S = 0.2


class Queues:
    """The queues that a connector may reach, by their whole names."""

    def __init__(self, client: Any, only_url: str | None) -> None:
        self._client = client
        self._only = only_url
        self._known: dict[str, Queue] = {}
        self._largest: dict[str, int] = {}
        """The largest message of a queue lately, bytes. Where nothing is known, one is asked for first."""

    async def get(self, name: str) -> Queue:
        """A queue. Raises what botocore raises, and NotFound."""
        found = self._known.get(name)
        if found is None:
            if self._only is None:
                url = str((await self._client.get_queue_url(QueueName=name))["QueueUrl"])
            elif name_of(self._only) == name:
                url = self._only
            else:
                raise coded("QueueDoesNotExist", "")
            found = self._known[name] = Queue(name, url, name.endswith(".fifo") and await self._by_content(url))
        return found

    async def _by_content(self, url: str) -> bool:
        try:
            wanted = ["ContentBasedDeduplication"]
            found = await self._client.get_queue_attributes(QueueUrl=url, AttributeNames=wanted)
        except Exception as exc:
            if error_of(exc) is None:
                raise
            return False  # not allowed to ask: an id of our own for each message is right as well
        return bool(found.get("Attributes", {}).get("ContentBasedDeduplication") == "true")

    async def names(self, prefix: str) -> AsyncIterator[list[str]]:
        """Pages of whole names that begin with a prefix."""
        if self._only is not None:
            yield [name_of(self._only)]
            return
        token = None
        while True:
            more: dict[str, str] = {"NextToken": token} if token else {}
            page = await self._client.list_queues(
                MaxResults=1000, **({"QueueNamePrefix": prefix} if prefix else {}), **more
            )
            yield [name for name in map(name_of, page.get("QueueUrls", ())) if name.startswith(prefix)]
            token = page.get("NextToken")
            if not token:
                return

    # -- messages ---------------------------------------------------------------------------------

    async def send(self, queue: Queue, messages: Sequence[Outgoing], dedup: str | None) -> list[tuple[str, str | None]]:
        """Send in batches; id and sequence number of each message.

        Raises:
            StudioError: saying how many were taken.
        """
        entries = [entry(number, message, queue, dedup) for number, message in enumerate(messages)]
        placed: dict[int, tuple[str, str | None]] = {}
        for batch in list(batches(entries)):  # all of them are made before any is sent
            failures = await self._send(queue, batch, placed)
            if failures:
                raise _reason(failures, len(placed), len(messages))
        return [placed[number] for number in range(len(messages))]

    async def _send(
        self, queue: Queue, batch: Sequence[dict[str, Any]], placed: dict[int, tuple[str, str | None]]
    ) -> dict[int, StudioError]:
        try:
            answer = await self._client.send_message_batch(QueueUrl=queue.url, Entries=batch)
        except Exception as exc:
            known = error_of(exc)
            if known is None or not placed:
                raise
            return {int(entry["Id"]): known for entry in batch}
        for sent in answer.get("Successful", ()):
            placed[int(sent["Id"])] = (sent["MessageId"], sent.get("SequenceNumber"))
        return {int(one["Id"]): coded(one.get("Code", ""), one.get("Message", "")) for one in answer.get("Failed", ())}

    async def receive(
        self, queue: Queue, count: int, wait_s: float, hold_s: int | None, room: int
    ) -> list[dict[str, Any]]:
        """Up to `count` messages: those of the first answer that has any, and what short polls find beside them.

        No more are asked for when their bodies fill `room` bytes. Raises UpstreamError, and what botocore raises.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        found: list[dict[str, Any]] = []
        while len(found) < count and room > 0:
            left = 0.0 if found else max(until - loop.time(), 0.0)
            wanted = min(count - len(found), self._at_once(queue, room))
            try:
                more = await self._poll(queue, wanted, int(min(left, LONG_POLL_S)), hold_s)
            except TooMuch:
                self._largest[queue.url] = AT_ONCE_BYTES
                if not found:
                    raise UpstreamError(_HIDDEN) from None
                break
            sizes = [_size(message) for message in more]
            if sizes:
                self._largest[queue.url] = max(*sizes, self._largest.get(queue.url, 0) // 2)
            room -= sum(sizes)
            found += more
            if not more and (found or left <= 0):
                break
            if not more and left < 1:
                await asyncio.sleep(min(left, PAUSE_S))
        return found

    def _at_once(self, queue: Queue, room: int) -> int:
        largest = self._largest.get(queue.url, AT_ONCE_BYTES)
        return max(1, min(BATCH, min(room, AT_ONCE_BYTES) // max(largest, 1)))

    async def _poll(self, queue: Queue, count: int, wait_s: int, hold_s: int | None) -> list[dict[str, Any]]:
        hold = {} if hold_s is None else {"VisibilityTimeout": hold_s}
        answer = await self._client.receive_message(
            QueueUrl=queue.url, MaxNumberOfMessages=min(count, BATCH), WaitTimeSeconds=wait_s,
            MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"], **hold,
        )  # fmt: skip
        return list(answer.get("Messages", ()))

    async def settle(self, queue: Queue, receipts: Sequence[str], *, back: bool) -> None:
        """Delete messages, or make them visible at once. Raises StudioError, and what botocore raises."""
        call = self._client.change_message_visibility_batch if back else self._client.delete_message_batch
        more = {"VisibilityTimeout": 0} if back else {}
        entries = [{"Id": str(n), "ReceiptHandle": receipt, **more} for n, receipt in enumerate(receipts)]
        for start in range(0, len(entries), BATCH):
            answer = await call(QueueUrl=queue.url, Entries=entries[start : start + BATCH])
            for failed in answer.get("Failed", ()):
                raise coded(failed.get("Code", ""), failed.get("Message", ""))

    async def attributes(self, queue: Queue) -> dict[str, str]:
        """What SQS tells of a queue."""
        found = await self._client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["All"])
        return dict(found.get("Attributes", {}))


def _size(message: dict[str, Any]) -> int:
    """Bytes of a message's body and attributes. SQS has ten of these at most; what is beyond counts as objects."""
    values = message.get("MessageAttributes", {}).values()
    texts = (value.get("StringValue") or value.get("BinaryValue") or "" for value in values)
    return len(message.get("Body", "")) + sum(map(len, texts)) + MISFIT_BYTES * max(0, len(values) - BATCH)


def name_of(url: str) -> str:
    """The name of the queue in its address."""
    return url.rstrip("/").rpartition("/")[2]


def _reason(failures: dict[int, StudioError], taken: int, total: int) -> StudioError:
    first = next(iter(failures.values()))
    if not taken:
        return first
    numbers = ", ".join(map(str, sorted(failures)[:20]))
    left = total - taken - len(failures)
    rest = f", and the {left} after these were not sent" if left else ""
    kind = type(first) if first.retryable else UpstreamError
    return kind(f"{taken} of {total} messages were published; the ones at {numbers} were not{rest}: {first.message}")
