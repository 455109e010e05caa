"""The headers of a modern request, which must say the same as its body.

What stands between client and service may route by headers; the body is what runs. Where the two
differ, somebody was misled, and the request is refused (-32020).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

from studio.api.problems import Refused
from studio.errors import BadRequest
from studio.mcp.protocol import HEADER_MISMATCH, VERSION_KEY, Message, RpcError, meta_of

VERSION, METHOD, NAME = "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PREFIX, _SUFFIX = "=?base64?", "?="


def check_media(headers: Mapping[bytes, bytes]) -> None:
    """Raises Refused where the body is not announced as JSON, or the client takes none."""
    if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
        raise Refused(BadRequest("content-type must be application/json"), 415)
    accept = headers.get(b"accept", b"*/*").lower()
    if not any(kind in accept for kind in (b"application/json", b"application/*", b"*/*")):
        raise Refused(BadRequest("accept must include application/json and text/event-stream"), 406)


def check_headers(message: Message, raw: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises RpcError where a header is missing, stands twice, or differs from the body."""
    wanted = {VERSION: meta_of(message)[VERSION_KEY], METHOD: message["method"]}
    parameter = NAMED.get(message["method"])
    if parameter is not None:
        wanted[NAME] = (message.get("params") or {}).get(parameter)
    found = _found(raw, wanted)
    for header, value in wanted.items():
        if header not in found:
            raise RpcError(HEADER_MISMATCH, f"the header {header} is missing")
        said = _decoded(found[header]) if header == NAME else found[header]
        if value is not None and said != value:
            raise RpcError(HEADER_MISMATCH, f"the header {header} differs from the body")


def _found(raw: Iterable[tuple[bytes, bytes]], names: Iterable[str]) -> dict[str, str]:
    """The headers of these names. Raises RpcError for one that stands twice: readers would pick different ones."""
    spelled = {name.lower().encode(): name for name in names}
    found: dict[str, str] = {}
    for name, value in raw:
        header = spelled.get(name)
        if header is None:
            continue
        if header in found:
            raise RpcError(HEADER_MISMATCH, f"the header {header} stands twice")
        found[header] = value.decode("latin-1").strip()
    return found


def _decoded(value: str) -> str | None:
    """A value that may be written as `=?base64?…?=`; None for one that is not well-formed."""
    if not (value.startswith(_PREFIX) and value.endswith(_SUFFIX) and len(value) >= len(_PREFIX + _SUFFIX)):
        return value if value.isascii() else None
    try:
        return base64.b64decode(value[len(_PREFIX) : -len(_SUFFIX)], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def single(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    """One header's value."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1").strip()
