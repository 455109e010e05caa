"""This service as an OAuth 2.0 protected resource: what it says of itself (RFC 9728) and in a challenge (RFC 6750).

It is how an MCP client finds the issuer by itself. Without an issuer none of it is there.
Source: https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.responses import Response

from studio.api import answers
from studio.api.schemas import PROBLEMS, gives
from studio.api.wire import Scope, Send, answer
from studio.errors import NotFound
from studio.models import Effect
from studio.settings import Settings

WELL_KNOWN = "/.well-known/oauth-protected-resource"
MCP = "/mcp"
_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
router = APIRouter(tags=["system"], responses=PROBLEMS)


@router.get(WELL_KNOWN, summary="Where this service's tokens come from", responses=gives(answers.PROTECTED_RESOURCE))
async def show_metadata(request: Request) -> Response:
    """RFC 9728 metadata of the whole service; for everybody, as the specification has it."""
    return answer(_metadata(request, ""))


@router.get(
    WELL_KNOWN + MCP, summary="Where the MCP endpoint's tokens come from", responses=gives(answers.PROTECTED_RESOURCE)
)
async def show_mcp_metadata(request: Request) -> Response:
    """The same of `/mcp`: a client compares `resource` with the URL that it was given."""
    return answer(_metadata(request, MCP))


def _metadata(request: Request, path: str) -> dict[str, Any]:
    settings: Settings = request.app.state.settings
    if settings.oidc_issuer is None:
        raise NotFound("no such route")
    document = {
        "resource": _base(settings, request.scope) + path,
        "authorization_servers": [settings.oidc_issuer],
        "bearer_methods_supported": ["header"],
        "resource_name": "Studio Connectors",
    }
    if settings.oidc_scope_prefix is not None:
        document["scopes_supported"] = [settings.oidc_scope_prefix + effect for effect in Effect]
    return document


def _base(settings: Settings, scope: Scope) -> str:
    """The service's URL as this client knows it: scheme and path from the audience of that host, if there is one."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        host = "{}:{}".format(*scope["server"])
    for audience in settings.oidc_audience:
        if urlsplit(audience).netloc == host:
            return audience.rstrip("/").removesuffix(MCP)
    return f"{scope['scheme']}://{host}"


class Challenge:
    """Tells a client that was refused where the metadata stands."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        prefix = settings.oidc_scope_prefix
        self._scope = f', scope="{prefix}{Effect.READ}"' if prefix is not None else ""

    def around(self, scope: Scope, send: Send) -> Send:
        """`send` that completes the challenge of a 401, and of a 403 for want of a scope."""

        async def completed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] in {401, 403}:
                message = {**message, "headers": [self._completed(scope, *header) for header in message["headers"]]}
            await send(message)

        return completed

    def _completed(self, scope: Scope, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        if name.lower() != b"www-authenticate":
            return name, value
        path = MCP if scope["path"].rstrip("/") == MCP else ""
        where = f'resource_metadata="{_base(self._settings, scope)}{WELL_KNOWN}{path}"'
        if value != b"Bearer":  # of a 403: it has an error and a scope already
            return name, value + f", {where}".encode("latin-1")
        # Only who sent a credential is told that it was the wrong one (RFC 6750, section 3.1).
        error = ', error="invalid_token"' if b"authorization" in dict(scope["headers"]) else ""
        return name, f"Bearer {where}{self._scope}{error}".encode("latin-1")
