"""The last look at what leaves a connector: a result that holds the connector's own secret is withheld.

A secret comes back when an account may read where it is kept (`pg_shadow`, a config table, an object
`.env`), or from an upstream that echoes. What is encoded for the caps anyway is searched once for every
known spelling, at the speed of `memmem`; a secret that is cut up or enciphered is not found, and nobody
who may write queries can be kept from that: an account that cannot read its own secret is the guard.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from studio.errors import ResultBlocked

MIN_LENGTH = 8
"""Shorter ones would stand in ordinary data by chance."""
PLAIN_LENGTH = 16
"""The same for ones of letters only, or of digits only: `password`, `minioadmin`, a year and a date."""
_PLAIN = re.compile(r"[A-Za-z]+|[0-9]+")
_TELLING = re.compile(r"auth|key|token|secret|passw|cookie|session|sign|cred", re.IGNORECASE)
_PUBLIC = frozenset({"session_token"})
"""Stands in presigned URLs, and is of no use without the secret key."""
_BLOCKED = (
    "the result holds a secret of this connector itself, so it is withheld; ask for other columns or rows, "
    "or have the connector use an account that cannot read it"
)


class Watch:
    """Knows the spellings of a config's secrets. Costs some 50 ns a spelling and kilobyte; nothing where there is none.

    Args:
        secrets: by dotted path, see `ProviderConfig.split`.
    """

    __slots__ = ("_longest", "_needles", "_raw")

    def __init__(self, secrets: Mapping[str, str]) -> None:
        worth = [piece for path, secret in secrets.items() if _is_credential(path) for piece in _pieces(secret)]
        # UTF-16 has a NUL in every other byte, which JSON never has.
        self._needles = tuple(dict.fromkeys(form for piece in worth for form in _spellings(piece)))
        self._raw = (*self._needles, *(piece.encode("utf-16-le") for piece in worth))
        self._longest = max(map(len, self._raw), default=0)

    def finds(self, content: bytes) -> bool:
        """Whether a secret stands in the bytes."""
        return any(needle in content for needle in self._needles)

    def check(self, encoded: bytes) -> None:
        """Raises ResultBlocked where a secret stands in a value that was encoded as JSON."""
        for needle in self._needles:
            if needle in encoded:
                raise ResultBlocked(_BLOCKED)

    def check_value(self, *values: Any) -> None:
        """The same for values in canonical form."""
        if self._needles:
            self.check(orjson.dumps(values))

    def over_chunks(self) -> Callable[[bytes], None]:
        """A `check` for bytes that come in pieces: each is searched together with the end of those before it.

        What went out before the piece that completes a secret is at most its beginning.
        """
        end = b""

        def check(chunk: bytes) -> None:
            nonlocal end
            if self._raw:
                seen = end + chunk
                if any(needle in seen for needle in self._raw):
                    raise ResultBlocked(_BLOCKED)
                end = seen[1 - self._longest :]

        return check


def _is_credential(path: str) -> bool:
    """All secrets but headers, which are sealed because they may be one: of these, those that sound like it."""
    if path in _PUBLIC:
        return False
    return not path.startswith("headers.") or _TELLING.search(path.partition(".")[2]) is not None


def _pieces(secret: str) -> Iterator[str]:
    """What to look for: the longest line of a key in PEM, the values of a token like `sv=…&sig=…`, else the whole."""
    if "-----BEGIN" in secret:
        lines = [line.strip() for line in secret.splitlines() if not line.startswith("-----")]
        yield from _long_enough([max(lines, key=len, default="")])
        return
    yield from _long_enough([secret])
    if "&" in secret:
        yield from (value for _, _, value in (part.partition("=") for part in secret.split("&")) if len(value) >= _LONG)


_LONG = 20


def _long_enough(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        if len(piece) >= (PLAIN_LENGTH if _PLAIN.fullmatch(piece) else MIN_LENGTH):
            yield piece


def _spellings(secret: str) -> Iterator[bytes]:
    """As it is; in JSON; in a URL; in hexadecimal; and in base64, wherever it begins in what was encoded."""
    raw = secret.encode()
    yield raw
    for ascii_only in (False, True):
        escaped = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        yield escaped.encode()
        yield json.dumps(escaped)[1:-1].encode()  # JSON in a text
        yield json.dumps(escaped, ensure_ascii=False)[1:-1].encode()
    yield quote(secret, safe="").encode()
    yield quote_plus(secret).encode()
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw)
        # Only whole groups of secret bytes: the first one and the last one depend on what stands around.
        inner = coded[4 if before else 0 : (before + len(raw)) // 3 * 4]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))
