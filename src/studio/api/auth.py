"""The way in that all routes share: who calls, how often, and the body that they bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from studio.api.problems import Refused
from studio.api.wire import Receive, Scope, json_object, read_body
from studio.errors import BadRequest, Unauthenticated
from studio.services.connector_service import ConnectorService
from studio.services.rates import Rates
from studio.settings import Settings

_bearer = HTTPBearer(
    auto_error=False, description="An API key, as printed once when it was made; or a token of the OIDC issuer."
)
_JSON = {"", "application/json", "application/octet-stream"}
"""Types under which JSON is taken: some clients name none, or the general one."""


def bearer_of(header: str | None) -> str | None:
    """The key in an `Authorization: Bearer …` header (RFC 6750), else None."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


class Door:
    """Authentication, rates and bodies, the same for management, hot routes and MCP."""

    def __init__(self, service: ConnectorService, settings: Settings) -> None:
        self._service = service
        self._rates = Rates(settings)
        self._max_body_bytes, self._body_timeout_s = settings.max_body_bytes, settings.body_timeout_s

    async def caller(self, scope: Scope, headers: Mapping[bytes, bytes]) -> ConnectorService:
        """The service as the caller may use it. Raises Unauthenticated, RateLimited."""
        try:
            caller = await self._service.authenticate(bearer_of(headers.get(b"authorization", b"").decode("latin-1")))
        except Unauthenticated:
            self._rates.failed((scope.get("client") or ("",))[0])
            raise
        self._rates.admit(caller.principal)
        return caller

    async def body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """The whole body of a request in JSON. Raises Refused, TooLarge, TooSlow, ClientGone."""
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if kind not in _JSON and not kind.endswith("+json"):
            raise Refused(BadRequest.at("Content-Type", "must be application/json"), 415)
        return await self.raw_body(receive)

    async def raw_body(self, receive: Receive) -> bytes:
        """The same for a route that judges the type itself."""
        return await read_body(receive, self._max_body_bytes, self._body_timeout_s)


CALLER = "studio.caller"
"""Where a layer before the routes leaves the caller whom it has let in."""


async def _caller(
    request: Request, _shown: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> ConnectorService:
    known: ConnectorService | None = request.scope.get(CALLER)
    if known is not None:
        return known
    door: Door = request.app.state.door
    return await door.caller(request.scope, dict(request.headers.raw))


Caller = Annotated[ConnectorService, Depends(_caller)]
"""The service as the caller may use it. Every route but health takes one."""


async def _body(request: Request, _after: Caller) -> dict[str, Any]:
    """After the key, so that a stranger's body is not even read."""
    door: Door = request.app.state.door
    return json_object(await door.body(request.receive, dict(request.headers.raw)))


JsonBody = Annotated[dict[str, Any], Depends(_body)]
"""The request's JSON object; the service validates its fields."""
