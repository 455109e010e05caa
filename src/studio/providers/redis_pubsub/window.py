"""A subscription window on one Redis session, and what Redis says of channels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis

from studio.errors import NotFound, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers._messages import Outgoing
from studio.providers.redis.errors import TooLarge, work_error
from studio.providers.redis.sessions import Session

AT_ONCE = 1000
"""Publications that go out before their answers are read."""
UNHEARD = (
    "nobody listens on this channel, so the message is gone; publish while somebody does, "
    "or say unheard_ok=true where that is no loss"
)


class Window:
    """One subscription. The session is closed at its end: that is how it ends."""

    def __init__(self, session: Session, limit: int) -> None:
        self._session = session
        self._limit = limit
        self._pushes: list[Sequence[Any]] = []
        self._told: bytes | None = None
        session._wire._parser.pubsub_push_handler_func = self._push

    async def _push(self, push: Sequence[Any]) -> None:
        self._pushes.append(push)

    async def subscribe(self, channel: bytes) -> None:
        """Begin: returns when the server has confirmed. Raises what redis-py raises."""
        parser = self._session._wire._parser
        parser.left = self._limit
        self._session._wire._writer.write(_command(b"SUBSCRIBE", channel))
        await self._session._wire._writer.drain()
        while not self._pushes:
            # an error is an ordinary reply; a confirmation is a push
            await self._session.read(pushes=True)
        self._pushes.clear()

    async def collect(self, count: int, seconds: float) -> tuple[list[bytes], bool]:
        """Messages until there are `count`, or the time is over; and whether something else ended it before that.

        Raises:
            Unreachable: the connection broke, and nothing had come. What has come is never thrown away.
        """
        try:
            async with asyncio.timeout(seconds):
                while len(self._pushes) < count:
                    await self._session.read(pushes=True)
        except TimeoutError:
            pass
        except TooLarge:
            return self._bodies(count), True
        except (redis.ConnectionError, OSError) as exc:
            if not self._pushes:
                raise Unreachable("the connection to the server was lost while it listened") from exc
            return self._bodies(count), True
        return self._bodies(count), False

    def close(self) -> None:
        """Let go of what has come: the session knows this window, which knows the session."""
        self._pushes.clear()
        self._session._wire._parser.pubsub_push_handler_func = None

    def _bodies(self, count: int) -> list[bytes]:
        return [bytes(push[2]) for push in self._pushes if bytes(push[0]) == b"message"][:count]


def _command(*parts: bytes) -> bytes:
    import hiredis

    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type] # its stub takes one argument
    return packed


async def publish(session: Session, channel: bytes, messages: Sequence[Outgoing], *, unheard_ok: bool) -> list[int]:
    """Publish; how many sessions heard each.

    Raises:
        NotFound: nobody heard, and that is not said to be in order.
        UpstreamError: the same of some messages of several, which it names.
    """
    heard: list[int] = []
    for start in range(0, len(messages), AT_ONCE):
        part = messages[start : start + AT_ONCE]
        answers = await session.calls([("PUBLISH", channel, message.body) for message in part])
        refused = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if refused is not None:
            raise refused
        heard += answers
        if not unheard_ok and not all(answers):
            raise _unheard(heard, len(messages))
    return heard


def _unheard(heard: Sequence[int], total: int) -> StudioError:
    if total == 1 or not any(heard):
        return NotFound(UNHEARD)
    missed = [number for number, count in enumerate(heard) if not count]
    rest = f", and the {total - len(heard)} after these were not sent" if total > len(heard) else ""
    numbers = ", ".join(map(str, missed[:20])) + (" …" if len(missed) > 20 else "")
    return UpstreamError(f"of {total} messages those at {numbers} were heard by nobody{rest}: {UNHEARD}")


def error_of(exc: Exception) -> StudioError | None:
    """As `_redis_errors.work_error`, for channels."""
    if isinstance(exc, redis.exceptions.NoPermissionError) and "channel" in str(exc):
        return UpstreamError(
            "the server's ACL does not allow this account that channel; grant it, or use another account"
        )
    if isinstance(exc, asyncio.TimeoutError):
        return Timeout("the server did not answer in time")
    return work_error(exc)


async def may_publish(calls: Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]], channel: bytes) -> bool:
    """Whether the account may publish, tried on a channel that nobody knows: nobody hears it."""
    [answer] = await calls([("PUBLISH", channel, b"")])
    return not isinstance(answer, redis.exceptions.NoPermissionError)
