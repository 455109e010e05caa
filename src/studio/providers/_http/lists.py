"""Trees of values within `max_rows`: a list anywhere in an answer is no longer than that."""

from __future__ import annotations

from typing import Any


def cut_lists(value: Any, most: int) -> tuple[Any, bool]:
    """The value with each list cut to `most` items, and whether any was cut."""
    if isinstance(value, dict):
        pairs = [(key, *cut_lists(item, most)) for key, item in value.items()]
        return {key: item for key, item, _ in pairs}, any(cut for _, _, cut in pairs)
    if isinstance(value, list):
        items = [cut_lists(item, most) for item in value[:most]]
        return [item for item, _ in items], len(value) > most or any(cut for _, cut in items)
    return value, False


def longest(value: Any) -> int:
    """Items of the longest list in a tree of values."""
    if isinstance(value, dict):
        return max(map(longest, value.values()), default=0)
    if isinstance(value, list):
        return max(len(value), max(map(longest, value), default=0))
    return 0


def rows_in(value: Any) -> int:
    """How many rows an answer is: the items of the one list that it consists of, or one."""
    while isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, list):
        return len(value)
    return int(value is not None)
