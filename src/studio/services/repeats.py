"""Sending a request again without doing it again: what an `Idempotency-Key` means.

After draft-ietf-httpapi-idempotency-key-header. A key belongs to one principal of one organization and
is kept for a day. What is stored opens only with the master key and the Idempotency-Key together, and the
store holds a digest of the latter: an answer may hold a new API key's text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from studio.errors import Conflict, EncryptionError, InFlight, InvalidRequest
from studio.models import Principal, Sealed, new_id, now
from studio.services.core import Core
from studio.store import repeats
from studio.store.engine import along
from studio.store.repeats import Repeat

KEPT = timedelta(days=1)
MAX_ANSWER_BYTES = 256 << 10
"""A larger answer is not kept; that the request was carried out is."""
_GRACE_S = 60.0
HEADER = "Idempotency-Key"


@dataclass(frozen=True)
class Answer:
    """What was answered: HTTP status, headers, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Repeatable:
    """One request under one key. Management changes: `recall`, `within`, `keep`. Operations: `reserve`, `keep`."""

    def __init__(self, core: Core, principal: Principal, key: str, request: bytes) -> None:
        """`request` is everything that makes it this request and no other. Raises InvalidRequest."""
        if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
            raise InvalidRequest.at(HEADER, "must be 1 to 255 printable ASCII characters, such as a UUID")
        organization = principal.organization_id or ""
        scope = json.dumps([organization, principal.subject, principal.agent_id, key])
        self._core, self._key = core, key
        self._request = hashlib.sha256(request).hexdigest()
        self._active = True
        time = now()
        self._row = Repeat(
            id=hashlib.sha256(scope.encode()).hexdigest(),
            organization_id=organization,
            owner=new_id(),
            done=False,
            token="",
            key_id="",
            created_at=time,
            expires_at=_text(_time(time) + KEPT),
        )
        self._row = self._sealed(None)

    async def recall(self) -> Answer | None:
        """The answer that was given before; None for a key that is new.

        Raises:
            InvalidRequest: the key was used for another request.
            InFlight: the first one has not been answered yet.
            Conflict: it was carried out, or cut short, and its answer is not to be had.
        """
        found = await repeats.find(self._core.database, self._row.id)
        return None if found is None else self._answer(found)

    async def reserve(self) -> Answer | None:
        """Claim the key before an operation runs; as `recall` where somebody was first."""
        if await self._core.database.write(lambda connection: repeats.claim(connection, self._row)):
            return None
        answer = await self.recall()
        if answer is None:  # it expired or was released in this moment
            raise _in_flight()
        return answer

    @contextmanager
    def within(self) -> Iterator[None]:
        """Let the transaction of the change take the key along: both are stored, or neither."""
        before = along.set(self._claim)
        try:
            yield
        finally:
            self._active = False  # for what was started meanwhile and outlives the request
            along.reset(before)

    def _claim(self, connection: Connection) -> None:
        if self._active and not repeats.claim(connection, self._row):
            raise _in_flight()

    async def keep(self, answer: Answer) -> None:
        """Keep what was answered."""
        await repeats.keep(self._core.database, self._sealed(answer))

    async def release(self) -> None:
        """Forget the key: nothing was changed, and the same request may be tried again."""
        await repeats.release(self._core.database, self._row)

    def _sealed(self, answer: Answer | None) -> Repeat:
        kept = None
        if answer is not None and len(answer.body) <= MAX_ANSWER_BYTES:
            kept = [answer.status, dict(answer.headers), answer.body.decode()]
        value = {"request": self._request, "answer": kept}
        sealed = self._core.configs.seal_repeat(self._row.organization_id, self._row.id, self._key, value)
        return replace(self._row, done=answer is not None, token=sealed.token, key_id=sealed.key_id)

    def _answer(self, found: Repeat) -> Answer:
        sealed = Sealed(found.token, found.key_id)
        try:
            value = self._core.configs.open_repeat(found.organization_id, found.id, self._key, sealed)
        except EncryptionError:
            raise _gone() from None
        if value["request"] != self._request:
            raise InvalidRequest.at(HEADER, "was used for another request; take a new key for a new request")
        if not found.done:
            limit = timedelta(seconds=self._core.settings.max_timeout_s + _GRACE_S)
            if _time(now()) - _time(found.created_at) < limit:
                raise _in_flight()
            raise _gone()
        if value["answer"] is None:
            raise _gone()
        status, headers, body = value["answer"]
        return Answer(status, headers, body.encode())


def _in_flight() -> InFlight:
    return InFlight("the first request with this Idempotency-Key has not been answered yet", retry_after_s=1)


def _gone() -> Conflict:
    return Conflict(
        "the first request with this Idempotency-Key was carried out or cut short, and its answer was not kept; "
        "look at what it left before repeating it under a new key"
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
