"""Bombs in the contents of objects: a store that answers ranges, and the bounds of `served`."""

from __future__ import annotations

import gzip
import re
from functools import partial
from typing import Any

import pytest
from tests.attack.served import LIMITS, MIB, Bounds, Served, config
from tests.attack.sink import answer, sink

KINDS = ["s3", "minio", "gcs", "azure_blob"]
SMALL = b"{}," * 1_300_000
ZIPPED = gzip.compress(bytes(400 * MIB), 9)
OBJECTS: dict[str, tuple[str, str, bytes]] = {
    "text": ("get", "a.txt", b"x" * 64 * MIB),
    "bytes": ("get", "a.bin", b"\xff" * 64 * MIB),
    "small values": ("get", "a.json", b"[" + SMALL[: 4 * MIB - 10] + b"]"),
    "as many values as are read": ("get", "a.json", b"[" + b",".join([b"{}"] * 49_000) + b"]"),
    "deep": ("get", "a.json", b"[" * 2 * MIB + b"]" * 2 * MIB),
    "one long number": ("get", "a.json", b"1" * 4 * MIB),
    "gzip as CSV": ("rows", "a.csv.gz", ZIPPED),
    "gzip as lines": ("rows", "a.txt.gz", gzip.compress(b"\n" * 200 * MIB, 9)),
    "gzip as JSON": ("rows", "a.ndjson.gz", gzip.compress((b"[" + b"{}," * 85_000 + b"{}]\n") * 100, 9)),
    "lines": ("rows", "a.txt", b"\n" * 32 * MIB),
    "one long line": ("rows", "a.txt", b"x" * 32 * MIB),
    "fields": ("rows", "a.csv", b"," * 3 * MIB + b"\n" + (b"," * 3 * MIB + b"\n") * 8),
    "one long field": ("rows", "a.csv", b'a,"' + b"x" * 32 * MIB),
    "short records": ("rows", "a.csv", b"a\n" * 8 * MIB),
    "one long record of JSON": ("rows", "a.ndjson", b"[" + SMALL[: 3_900_000] + b"{}]\n"),
    "records of other names": (
        "rows", "a.ndjson", b"".join(b"{%s}\n" % b",".join(b'"m%d":1' % (n * 100 + m) for m in range(100)) for n in range(3000)),
    ),
    "small elements": ("rows", "a.json", b"[" + SMALL + b"{}]"),
    "lists of small elements": ("rows", "a.json", b"[" + b",".join([b"[" + SMALL[: 3_000_000] + b"{}]"] * 8) + b"]"),
    "members": ("rows", "a.json", b"{" + b",".join(b'"%d":1' % n for n in range(300_000)) + b"}"),
    "deep elements": ("rows", "a.json", b"[" * 2 * MIB),
}  # fmt: skip


def store(body: bytes, request: bytes) -> bytes:
    """The answer of any of the four services to a request for (a range of) an object."""
    found = re.search(rb"range: bytes=(\d+)-(\d*)", request, re.IGNORECASE)
    first, last = (int(found[1]), int(found[2] or len(body) - 1)) if found else (0, len(body) - 1)
    part = body[first : min(last + 1, len(body))]
    headers: dict[str, Any] = {
        "etag": '"0x1"', "last_modified": "Mon, 23 Nov 2026 10:00:00 GMT", "x_ms_blob_type": "BlockBlob",
        "x_goog_stored_content_length": str(len(body)), "x_goog_generation": "1", "x_ms_version": "2024-01-01",
    }  # fmt: skip
    if found:
        headers["content_range"] = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
    made = answer(part, 206 if found else 200, **headers)
    return made.replace(b"content-type: application/json", b"content-type: application/octet-stream")


@pytest.mark.parametrize("kind", KINDS)
async def test_no_object_takes_memory_or_time_beyond_its_bounds(served: Served, kind: str) -> None:
    bounds = Bounds(kind)
    for operation, key, body in [("get", "a.json", b"[1]"), ("rows", "a.csv", b"a\n1\n"), ("rows", "a.json", b"[1]")]:
        async with sink(kind) as upstream:
            upstream.say = partial(store, body)
            made = await served.create(kind, config(kind, upstream.port))
            await served.warm(partial(served.operate, made, operation, key=key))
            assert (await served.operate(made, operation, key=key)).status == 200
    for name, (operation, key, body) in OBJECTS.items():
        async with sink(kind) as upstream:
            upstream.say = partial(store, body)
            made = await served.create(kind, {**config(kind, upstream.port), **LIMITS})
            await bounds.hold(name, partial(served.operate, made, operation, key=key))
    assert not bounds.broken
