"""Bodies in and out of their encodings, with every decoded byte counted."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from studio.errors import UpstreamError

if TYPE_CHECKING:
    from aiohttp import ClientResponse

ACCEPTED = "gzip"
"""What is asked for as Accept-Encoding; anything else that comes is refused."""
MAX_RATIO = 200
"""Decoded bytes for one on the wire, past `RATIO_FROM`: text reaches 20, a bomb 1000."""
RATIO_FROM = 1 << 20
_MAX_MEMBERS = 16
_SLACK = 65_536
_BOMB = "the upstream's answer unpacks to more than {0} times its size; it is not read any further"


@dataclass(slots=True)
class Answer:
    """What came back. `body` is decoded; `cut` says that more than the limit existed."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    cut: bool = False

    @property
    def media_type(self) -> str:
        """The media type, lower case, without parameters; empty where none was given."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class _Plain:
    done = True

    def feed(self, chunk: bytes, room: int) -> bytes:
        return chunk[:room]


class _Gunzip:
    """RFC 1952, a few members at most; never gives more than it is asked for."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._members = 1
        self._taken = 0
        self._given = 0

    @property
    def done(self) -> bool:
        return self._inner.eof

    def feed(self, chunk: bytes, room: int) -> bytes:
        self._taken += len(chunk)
        out: list[bytes] = []
        try:
            while chunk and room > 0:
                part = self._member().decompress(chunk, room)
                out.append(part)
                room -= len(part)
                self._given += len(part)
                chunk = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
        except zlib.error as exc:
            raise UpstreamError("the upstream's answer is not the gzip that it says it is") from exc
        used = self._taken - len(chunk)  # what is left over was not unpacked
        if self._given > RATIO_FROM and self._given > MAX_RATIO * used:
            raise UpstreamError(_BOMB.format(MAX_RATIO))
        return b"".join(out)

    def _member(self) -> zlib._Decompress:
        if self._inner.eof:
            self._members += 1
            if self._members > _MAX_MEMBERS:
                raise UpstreamError("the upstream's answer is gzip in too many pieces")
            self._inner = zlib.decompressobj(wbits=31)
        return self._inner


async def read(response: ClientResponse, limit: int) -> Answer:
    """The whole answer, up to `limit` decoded bytes.

    Raises:
        UpstreamError: an encoding that was not asked for, or one that unpacks beyond reason.
    """
    headers = CIMultiDict(response.headers)
    decoder = _decoder(headers)
    parts: list[bytes] = []
    room, wire = limit + 1, 0  # one more than the limit tells whether there was more
    async for chunk in response.content.iter_any():
        wire += len(chunk)
        part = decoder.feed(chunk, room)
        parts.append(part)
        room -= len(part)
        if room <= 0 or wire > limit + _SLACK:
            response.close()
            return Answer(response.status, headers, b"".join(parts)[:limit], cut=True)
    if wire and not decoder.done:
        raise UpstreamError("the upstream's answer ends in the middle of its gzip")
    return Answer(response.status, headers, b"".join(parts))


def _decoder(headers: CIMultiDict[str]) -> _Plain | _Gunzip:
    encodings = [part.strip().lower() for value in headers.getall("Content-Encoding", []) for part in value.split(",")]
    encodings = [encoding for encoding in encodings if encoding not in {"", "identity"}]
    if not encodings:
        return _Plain()
    if encodings in (["gzip"], ["x-gzip"]):
        return _Gunzip()
    raise UpstreamError("the upstream's answer has a Content-Encoding that was not asked for; only gzip is")
