"""API keys: made once, shown once, stored as a hash, found by prefix."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

_FORM = re.compile(r"studio_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class NewToken:
    """A fresh key. `text` is for its owner, `digest` (SHA-256, hex) for the store."""

    text: str = field(repr=False)
    prefix: str
    digest: str


def new_token() -> NewToken:
    """Make an API key with 256 random bits; a plain hash is enough for such a key (no dictionary exists)."""
    prefix = secrets.token_hex(8)
    text = f"studio_{prefix}_{secrets.token_urlsafe(32)}"
    return NewToken(text, prefix, digest_of(text))


def prefix_of(text: str) -> str | None:
    """The look-up prefix of a well-formed key, else None."""
    found = _FORM.fullmatch(text)
    return found[1] if found else None


def matches(text: str, digest: str) -> bool:
    """Whether `text` is the key behind `digest`, in constant time."""
    return hmac.compare_digest(digest_of(text), digest)


def digest_of(text: str) -> str:
    """SHA-256 in hex, as the store has it."""
    return hashlib.sha256(text.encode()).hexdigest()
