"""The verbs of the messaging family: queues, topics and channels by name, below one forced prefix.

A caller's name is relative to the connector's prefix, and so are the names in answers. Taking a message
is a write: it changes the queue, or the group's offset. Only `peek` looks without taking, where the
protocol can. A member offers the verbs that its protocol has and no others: what must be acknowledged
comes from an `AcknowledgingProvider`, what can be looked at from a `Peeking` one, names from a `Listing` one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # Pydantic takes no other before Python 3.12

from studio.contract.operation import Batch, operation
from studio.contract.probe import Probe
from studio.contract.provider import ConfigT, Provider
from studio.errors import InvalidRequest
from studio.models import Effect, Result

MAX_BATCH = 10_000
"""Messages of one publish."""
DEFAULT_MESSAGES = 10
DEFAULT_HOLD_S = 60

Json = str | dict[str, Any] | list[Any]
Scalar = str | int | float | bool
Name = Annotated[
    str,
    Field(min_length=1, max_length=255, description="The queue's, topic's or channel's name, without the prefix."),
]
Message = Annotated[
    Json | None, Field(description="One message: a text, or a JSON object or list, which is sent as JSON.")
]
Messages = Annotated[
    list[Json] | None,
    Field(min_length=1, max_length=MAX_BATCH, description="Several messages with the same key and headers."),
]
Key = Annotated[
    str | None,
    Field(
        max_length=1024,
        description="Kafka: the record's key. RabbitMQ: the routing key, and the name is an exchange. SQS: the message "
        "group of a FIFO queue. Pub/Sub has none.",
    ),
]
Headers = Annotated[dict[str, Scalar] | None, Field(max_length=100, description="Headers or attributes, by name.")]
Encoding = Annotated[
    Literal["text", "base64"], Field(description="base64: every message given is the base64 text of its bytes.")
]
MaxMessages = Annotated[
    int | None, Field(ge=1, description="Messages to answer at most; 10 if left out, and never more than max_rows.")
]
WaitS = Annotated[
    float,
    Field(ge=0, le=300, description="How long to wait for the first message, seconds; less than timeout_s."),
]
AutoAck = Annotated[
    bool,
    Field(description="Acknowledge what is answered at once: if the answer is lost on its way, so are its messages."),
]
HoldS = Annotated[
    int | None,
    Field(
        ge=1, le=1800, description="Seconds after which what was not acknowledged comes back; 60 (SQS: the queue's)."
    ),
]
Handles = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=4096)]],
    Field(min_length=1, max_length=MAX_BATCH, description="Handles that receive gave."),
]


class Entry(TypedDict, total=False):
    """One message of a batch, with a key and headers of its own."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc] # Pydantic's own way

    message: Required[Json]
    key: str | None
    headers: dict[str, Scalar] | None


Entries = Annotated[
    list[Entry] | None,
    Field(min_length=1, max_length=MAX_BATCH, description="Several messages, each with a key and headers of its own."),
]

_VERBS = ("publish", "receive", "peek", "list", "describe", "ack", "nack")
_NAMED = frozenset({"publish", "receive", "peek", "describe"})
_PARAMETER = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)")


class MessagingProvider(Provider[ConfigT]):
    """A message broker: what every one of them can do."""

    family: ClassVar[str] = "messaging"

    @operation(Effect.WRITE)
    @abstractmethod
    async def publish(
        self,
        name: Name,
        message: Message = None,
        messages: Messages = None,
        batch: Entries = None,
        key: Key = None,
        headers: Headers = None,
        encoding: Encoding = "text",
    ) -> Result:
        """Publish one message, or several; the answer comes after the broker has taken them all.

        One row a message, in the order given. A message that is refused or reaches nobody is an error, which
        says which ones were published nevertheless.
        """

    @operation(Effect.WRITE)
    @abstractmethod
    async def receive(
        self,
        name: Name,
        max_messages: MaxMessages = None,
        wait_s: WaitS = 1.0,
        auto_ack: AutoAck = False,
        hold_s: HoldS = None,
    ) -> Result:
        """Take messages: as soon as there is one, it and what is there beside it; none if none comes in time.

        Each row has a handle for ack and nack, unless auto_ack is set. What is neither acknowledged nor given
        back comes back by itself after hold_s. `truncated` says that max_bytes left messages where they were.
        """

    @operation(Effect.READ)
    @abstractmethod
    async def describe(self, name: Name) -> dict[str, Any]:
        """Describe one queue, topic or channel: what it holds and who listens, as far as the broker tells."""

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """A verb and a name, `publish orders`; everything else comes from `params`. See `verb_and_name`."""
        return verb_and_name(query, params or {})

    async def probe(self, probe: Probe) -> None:
        """Stages: resolve, connect, tls (where it is spoken), login, privileges, sample."""
        await self.reach(probe)
        with probe.stage("privileges"):
            probe.privileges = await self.privileges()
        with probe.stage("sample"):
            await self.ping()

    @abstractmethod
    async def reach(self, probe: Probe) -> None:
        """The stages up to a logged-in session: resolve, connect, tls, login."""

    @abstractmethod
    async def privileges(self) -> dict[str, Any]:
        """What can be told of the account's rights without changing anything (see `Probe.privileges`)."""


class AcknowledgingProvider(MessagingProvider[ConfigT]):
    """A broker that keeps a message until it is acknowledged."""

    @operation(Effect.WRITE)
    @abstractmethod
    async def ack(self, handles: Handles) -> int:
        """Acknowledge messages: they do not come back. All of the handles, or an error and none.

        Raises:
            NotFound: a handle's session has ended or its hold_s has passed, so its message comes back.
        """

    @operation(Effect.WRITE)
    @abstractmethod
    async def nack(self, handles: Handles) -> int:
        """Give messages back at once, to be received again by whoever comes first. Raises as ack does."""


class Peeking(ABC):
    """A broker whose messages can be looked at."""

    @operation(Effect.READ)
    @abstractmethod
    async def peek(self, name: Name, max_messages: MaxMessages = None) -> Result:
        """Look at messages without taking them: no offset, lock or counter changes."""


class Listing(ABC):
    """A broker that tells what there is."""

    @operation(Effect.READ)
    @abstractmethod
    def list(self) -> AsyncIterator[Batch]:
        """List the names below the connector's prefix."""


def verb_and_name(query: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read `verb name`; a name that is `:param` as a whole is that parameter's value.

    Raises:
        InvalidRequest: no such verb, or a name that is missing, given twice or not wanted.
    """
    word, _, name = query.strip().partition(" ")
    verb, name = word.lower(), name.strip()
    if verb not in _VERBS:
        raise InvalidRequest.at("query", f"must be a verb and a name; the verbs are {', '.join(_VERBS)}")
    arguments = dict(params)
    if found := _PARAMETER.fullmatch(name):
        if found[1] not in arguments:
            raise InvalidRequest.at(f"params.{found[1]}", "is missing: the query uses it")
        name = arguments.pop(found[1])
    if name and verb not in _NAMED:
        raise InvalidRequest.at("query", f"{verb} takes no name")
    if name and "name" in arguments:
        raise InvalidRequest.at("params.name", "is given by the query already")
    return verb, {**arguments, **({"name": name} if name else {})}
