"""What the conformance suites of queues stand on: publishing, collecting, and what a broker says of itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from studio.services.connector_service import ConnectorService
from studio.testing.messaging import MessagingConformance


class QueueBase(MessagingConformance):
    """What a broker does that keeps messages until they are acknowledged."""

    settle_s: ClassVar[float] = 5
    """How long a message may take from one session to the next."""
    session_holds: ClassVar[bool] = True
    """Whether handles end with their session; else they hold wherever they are used (SQS)."""
    keyed: ClassVar[bool] = True
    """Whether a message for `orders` may have a key."""
    most_headers: ClassVar[dict[str, Any]] = {"text": "ünï", "number": 7, "half": 1.5, "yes": True}
    """Headers to send; they come back as these or as their texts."""
    out_of_order: ClassVar[bool] = True
    """Whether what was acknowledged stays away although something before it was not."""

    async def publish(self, service: ConnectorService, connector_id: str, *messages: Any, **more: Any) -> Any:
        """Publish to `orders`."""
        return await service.execute_query(connector_id, f"publish {self.name}", {"messages": list(messages), **more})

    async def collect(self, service: ConnectorService, connector_id: str, count: int, **more: Any) -> list[Any]:
        """Receive until there are `count` rows: one receive may answer fewer than there are."""
        rows: list[Any] = []
        until = asyncio.get_running_loop().time() + self.settle_s
        while len(rows) < count and asyncio.get_running_loop().time() < until:
            given = {"max_messages": min(count - len(rows), 1000), **more}
            rows += (await service.execute_query(connector_id, f"receive {self.name}", given))["data"]
        return rows

    async def nothing(self, service: ConnectorService, connector_id: str) -> bool:
        """Whether there is nothing to receive; a consumer group is joined by then."""
        answer = await service.execute_query(connector_id, f"receive {self.name}", {"wait_s": 0.3})
        return bool(answer["row_count"] == 0)


def as_text(value: Any) -> str:
    """A header as a broker that knows only text gives it back."""
    return value if isinstance(value, str) else json.dumps(value)
