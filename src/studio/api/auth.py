"""Who calls: the bearer key or token of a request becomes a service bound to its principal."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from studio.api.wire import json_object, read_body
from studio.services.connector_service import ConnectorService

_bearer = HTTPBearer(
    auto_error=False, description="An API key, as printed once when it was made; or a token of the OIDC issuer."
)


def bearer_of(header: str | None) -> str | None:
    """The key in an `Authorization: Bearer …` header (RFC 6750), else None."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


async def _caller(
    request: Request, _shown: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> ConnectorService:
    service: ConnectorService = request.app.state.service
    return await service.authenticate(bearer_of(request.headers.get("authorization")))


Caller = Annotated[ConnectorService, Depends(_caller)]
"""The service as the caller may use it. Every route but health takes one."""


async def _body(request: Request, _after: Caller) -> dict[str, Any]:
    """After the key, so that a stranger's body is not even read."""
    return json_object(await read_body(request.receive, request.app.state.settings.max_body_bytes))


JsonBody = Annotated[dict[str, Any], Depends(_body)]
"""The request's JSON object; the service validates its fields."""
