"""Walking over keys and members with SCAN and its kin, in bounded steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import InvalidRequest
from studio.providers.redis.errors import TooLarge

Ask = Callable[..., Awaitable[Any]]

STEP = 1_000
"""How many places one round trip looks at."""
ROUNDS = 200
"""Round trips of one call; a pattern that fits nothing does not walk through a whole server."""


@dataclass(frozen=True)
class Cursor:
    """Redis's cursor, and how many names of its page were answered already.

    A page is split only where it alone is longer than the caps: names could be missed in a page that
    changes meanwhile.
    """

    at: int = 0
    skip: int = 0

    def __str__(self) -> str:
        return f"{self.at}.{self.skip}" if self.skip else str(self.at)

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read what `str` wrote. Raises InvalidRequest."""
        parts = (text or "0").split(".")
        if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) <= 20 for part in parts):
            raise InvalidRequest.at("cursor", "is not a next_cursor of this operation")
        return cls(*map(int, parts))


async def scan(
    ask: Ask, options: Sequence[Any], rows: int, size: int, cursor: Cursor
) -> tuple[list[bytes], Cursor | None]:
    """Up to `rows` names of `size` bytes from `cursor` on, and where to go on; None at the end.

    Raises:
        TooLarge: one name is larger than `size`.
    """
    found: list[bytes] = []
    at, skip, count = cursor.at, cursor.skip, STEP
    for _ in range(ROUNDS):
        after, names = await ask("SCAN", at, *options, "COUNT", count)
        fresh = names[skip:]
        fit = _fitting(fresh, rows - len(found), size)
        if fit < len(fresh):
            if found:
                break
            if count > rows:
                count = rows  # a shorter page from the same place
                continue
            if not fit:
                raise TooLarge
            return fresh[:fit], Cursor(at, skip + fit)
        found += fresh
        size -= sum(map(_size, fresh))
        at, skip = int(after), max(0, skip - len(names))
        if at == 0:
            return found, None
    return found, Cursor(at, skip)


async def count(ask: Ask, options: Sequence[Any]) -> tuple[int, bool]:
    """How many names there are, and whether all were counted."""
    total = at = 0
    for _ in range(ROUNDS):
        after, names = await ask("SCAN", at, *options, "COUNT", STEP)
        total += len(names)
        at = int(after)
        if at == 0:
            return total, True
    return total, False


async def members(ask: Ask, command: str, key: bytes, rows: int, size: int) -> dict[bytes, bytes]:
    """Members of a set, or fields of a hash with their values, until there are more than `rows` or `size` bytes."""
    found: dict[bytes, bytes] = {}
    width = 2 if command == "HSCAN" else 1
    cursor = 0
    while True:
        after, parts = await ask(command, key, cursor, "COUNT", STEP)
        size -= sum(map(len, parts))
        found.update(zip(parts[::width], parts[width - 1 :: width], strict=True))
        cursor = int(after)
        if cursor == 0 or len(found) > rows or size < 0:
            return found


def _fitting(names: Sequence[bytes], rows: int, size: int) -> int:
    for at, name in enumerate(names):
        size -= _size(name)
        if at == rows or size < 0:
            return at
    return len(names)


def _size(name: bytes) -> int:
    """At least what the name takes in an answer, be it as text or as base64."""
    return len(name) * 4 // 3 + 6
