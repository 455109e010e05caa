"""Redis replies in canonical form and within the caps.

Redis stores bytes. What is valid UTF-8 is answered as text, anything else as base64 (RFC 4648).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from studio.contract import ProviderConfig, Result, canonical
from studio.contract.values import size_of


def text(value: bytes) -> str:
    """Bytes as text, or as base64 where they are not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii")


def plain(reply: Any) -> Any:
    """A reply in canonical form; its sets become lists in order of their members."""
    if isinstance(reply, bytes):
        return text(reply)
    if isinstance(reply, dict):
        return {str(plain(key)): plain(item) for key, item in reply.items()}
    if isinstance(reply, (list, tuple)):
        return [plain(item) for item in reply]
    if isinstance(reply, (set, frozenset)):
        return sorted((plain(item) for item in reply), key=str)
    if isinstance(reply, Exception):
        return str(reply)[:1000]
    return canonical(reply)


def result(reply: Any, config: ProviderConfig) -> Result:
    """An answer: elements of a list and entries of a map are rows, and are capped; anything else is one row."""
    data = plain(reply)
    if isinstance(data, list):
        kept, cut = _fitting(data, map(size_of, data), config)
        return Result(data=kept, row_count=len(kept), truncated=cut)
    if isinstance(data, dict):
        entries = list(data.items())
        kept, cut = _fitting(entries, (size_of(key) + size_of(item) for key, item in entries), config)
        return Result(data=dict(kept), row_count=len(kept), truncated=cut)
    return Result(data=data, row_count=int(data is not None))


def _fitting(items: list[Any], sizes: Iterable[int], config: ProviderConfig) -> tuple[list[Any], bool]:
    """The first items that both caps let through, and whether there were more."""
    left = config.max_bytes
    kept: list[Any] = []
    for item, size in zip(items, sizes, strict=False):
        left -= size
        if left < 0 or len(kept) == config.max_rows:
            return kept, True
        kept.append(item)
    return kept, False


def window(start: int, stop: int, length: int, rows: int) -> tuple[int, int]:
    """`start` and `stop` as Redis means them, from 0, and at most `rows` + 1 places apart."""
    start = max(start + length, 0) if start < 0 else start
    stop = stop + length if stop < 0 else min(stop, length - 1)
    return start, min(stop, start + rows)


def glob_literal(prefix: bytes) -> bytes:
    """A pattern that matches exactly this text."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]^-\\" else bytes([byte]) for byte in prefix)
