"""Rows over HTTP as they come: which form a request asks for, and what its end looks like on the wire.

The forms themselves stand in `services/streams.py`, since a program and the command line use them too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from studio.api import problems
from studio.api.wire import Send
from studio.contract.caps import Capped
from studio.services.forms import Form
from studio.services.streams import encoded, form_of

_ACCEPT = {
    "application/x-ndjson": "ndjson",
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
}
_JSON = re.compile(r"application/json\s*;\s*stream=(?:true|\"true\")")


def asked(accept: str) -> Form | None:
    """The form that an Accept header names; None for an ordinary result. Raises OperationNotSupported."""
    if accept in {"", "*/*", "application/json"}:
        return None
    accept = accept.lower()
    if _JSON.search(accept):
        return form_of("json")
    name = next((name for media_type, name in _ACCEPT.items() if media_type in accept), None)
    return None if name is None else form_of(name)


async def send_stream(parts: AsyncGenerator[Capped, None], form: Form, send: Send) -> None:
    """Send the rows; each send waits while the reader is slow.

    A failure before the first row is raised. After it, the form's own last words tell of it; where
    readers may overlook them, the answer then stays incomplete, and the connection is cut.
    """
    began = False
    try:
        async with aclosing(encoded(parts, form)) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    await send(_start(form.media_type))
                await send(_chunk(chunk, more=True))
    except Exception as exc:
        if not began:
            raise
        told = orjson.loads(problems.problem(problems.as_studio(exc))[2])
        last = form.end({"success": False, "row_count": getattr(exc, "row_count", 0), **told})
        await send(_chunk(last, more=True))
        if form.cut_on_failure:
            return
    if not began:  # no rows and no words about them
        await send(_start(form.media_type))
    await send(_chunk(b"", more=False))


def _start(media_type: str) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type.encode())]}


def _chunk(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def openapi_content() -> dict[str, Any]:
    """The media types of streams, for the OpenAPI document."""
    return {
        media_type: {"schema": {"type": "string", **({"format": "binary"} if name == "arrow" else {})}}
        for media_type, name in _ACCEPT.items()
    }
