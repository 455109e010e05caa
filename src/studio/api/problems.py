"""Errors as RFC 9457 problem documents: the one table from our errors to HTTP."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from studio import errors, models
from studio.api.wire import ClientGone
from studio.contract.config import said
from studio.errors import FieldError, StudioError, as_studio

__all__ = ["STATUS", "Refused", "as_studio", "install", "problem", "refusal", "require_post", "respond", "status_of"]

STATUS: dict[type[StudioError], int] = {
    errors.NotFound: 404,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.InvalidRequest: 422,
    errors.BadRequest: 400,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.InvalidConfig: 422,
    errors.Conflict: 409,
    errors.InFlight: 409,
    errors.SecretsRequired: 409,
    errors.OverrideNotAllowed: 422,
    errors.Inactive: 409,
    errors.ReadOnly: 403,
    errors.OperationNotSupported: 422,
    errors.EgressDenied: 403,
    errors.Unreachable: 502,
    errors.AuthFailed: 502,
    errors.Timeout: 504,
    errors.UpstreamError: 502,
    errors.PoolBusy: 429,
    errors.RateLimited: 429,
    errors.ResultBlocked: 502,
    errors.EncryptionError: 500,
    errors.Internal: 500,
    errors.StoreAway: 503,
}
_TITLES = {
    400: "Bad request", 401: "Unauthenticated", 403: "Forbidden", 404: "Not found", 405: "Method not allowed",
    406: "Not acceptable", 408: "Request timeout", 409: "Conflict", 413: "Too large", 414: "URI too long",
    415: "Unsupported media type", 422: "Unprocessable", 429: "Too many requests", 431: "Request head too large",
    500: "Internal error", 502: "Upstream failed", 503: "Not ready", 504: "Upstream too slow",
}  # fmt: skip


class Refused(Exception):
    """A request that goes no further: the error, and the HTTP status where it is not the error's own.

    `allow`: for 405, the methods that there are (RFC 9110, 10.2.1).
    """

    def __init__(self, error: StudioError, status: int | None = None, *, allow: str | None = None) -> None:
        super().__init__(error.message)
        self.error, self.status, self.allow = error, status, allow


def require_post(method: str) -> None:
    """Raises Refused for any other method."""
    if method != "POST":
        raise Refused(errors.BadRequest("Method Not Allowed"), 405, allow="POST")


def status_of(error: StudioError) -> int:
    """The HTTP status of an error: its class's row, or its nearest parent's."""
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500)


def problem(error: StudioError, status: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error."""
    status = status or status_of(error)
    # One answer for everything that is not found: the same bytes but for the request's own id,
    # which therefore travels in a header only.
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
    }
    request_id = models.request_id()
    if status != 404:
        document["request_id"] = request_id
    if error.fields:
        document["errors"] = [{"field": entry.field, "message": entry.message} for entry in error.fields]
    headers = {"content-type": "application/problem+json", "x-request-id": request_id}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    elif isinstance(error, errors.InsufficientScope):
        headers["www-authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    if status == 408:
        headers["connection"] = "close"  # the rest of that request may still come
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return status, headers, orjson.dumps(document)


def refusal(refused: Refused) -> tuple[int, dict[str, str], bytes]:
    """The same for a request that goes no further."""
    status, headers, body = problem(refused.error, refused.status)
    if refused.allow:
        headers["allow"] = refused.allow
    return status, headers, body


def respond(error: StudioError, status: int | None = None) -> Response:
    """The error as a Starlette response."""
    status, headers, body = problem(error, status)
    return Response(body, status, headers)


def _methods(app: FastAPI, path: str) -> list[str]:
    """What a path may be asked with, by the OpenAPI document. The router itself names those of one route only."""
    found: set[str] = set()
    paths = app.openapi()["paths"]
    for template, methods in {path: paths[path]}.items() if path in paths else paths.items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            found |= {method.upper() for method in methods}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def install(app: FastAPI) -> None:
    """Answer every error of the management routes as a problem document."""

    @app.exception_handler(StudioError)
    async def _ours(_request: Request, exc: Exception) -> Response:
        return respond(as_studio(exc))

    @app.exception_handler(Refused)
    async def _refused(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, Refused)
        return respond(exc.error, exc.status)

    @app.exception_handler(Exception)
    async def _defect(_request: Request, exc: Exception) -> Response:
        return respond(as_studio(exc))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        fields = [
            FieldError(".".join(str(part) for part in error["loc"][1:]) or "body", said(error["type"], error["msg"]))
            for error in exc.errors()
        ]
        message = "; ".join(f"{entry.field}: {entry.message}" for entry in fields)
        return respond(errors.InvalidRequest(message, fields=fields))

    @app.exception_handler(HTTPException)
    async def _routing(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 404:
            return respond(errors.NotFound("no such route"))
        answer = respond(errors.BadRequest(str(exc.detail)), exc.status_code)
        answer.headers.update(exc.headers or {})
        if exc.status_code == 405 and (methods := _methods(app, request.url.path)):
            answer.headers["allow"] = ", ".join(methods)
        return answer

    @app.exception_handler(ClientGone)
    async def _gone(_request: Request, _exc: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it
