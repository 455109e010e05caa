"""How much of a model's context an answer may take: exact in bytes, estimated in tokens."""

from __future__ import annotations

import string
from dataclasses import dataclass

MAX_TOKENS = 10_000
"""Budget of one answer where none is asked for."""
_LETTERS, _DIGITS, _SPACE = string.ascii_letters.encode(), string.digits.encode(), string.whitespace.encode()
_ASCII = bytes(range(128))


@dataclass(frozen=True)
class Budget:
    """A number of tokens, and of bytes where that is asked for too: the narrower one counts."""

    max_tokens: int = MAX_TOKENS
    max_bytes: int | None = None

    def holds(self, text: str) -> bool:
        """Whether a text keeps within both."""
        data = text.encode()
        if self.max_bytes is not None and len(data) > self.max_bytes:
            return False
        # No tokenizer makes more tokens than there are bytes, so most answers need no estimate.
        return len(data) <= self.max_tokens or tokens(data) <= self.max_tokens

    @property
    def bytes(self) -> int:
        """Bytes that surely are within it."""
        return self.max_tokens if self.max_bytes is None else min(self.max_tokens, self.max_bytes)


def tokens(data: bytes) -> float:
    """About how many tokens a text has, on the high side for everything but noise.

    Common tokenizers split at punctuation, take digits by three, and about four letters of a word at
    once. Held against one by `tests/mcp/test_tokens.py`: 1 to 2 times the true number for prose in
    several scripts, numbers, identifiers, times and code; 0.6 to 0.9 times for base64 and random letters.
    """
    letters, digits, space = (len(data) - len(data.translate(None, kind)) for kind in (_LETTERS, _DIGITS, _SPACE))
    other = len(data.translate(None, _ASCII))
    marks = len(data) - letters - digits - space - other
    # A run of digits ends at a mark, a space or a letter: short runs are a token each.
    runs = min(digits, digits / 3 + marks + space + letters)
    return 0.4 * letters + runs + marks + 0.25 * space + 0.65 * min(space, digits) + 0.55 * other
