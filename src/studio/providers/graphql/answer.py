"""Answers of a GraphQL server as results or errors (GraphQL over HTTP, section 6; GraphQL, section 7)."""

from __future__ import annotations

import re
from typing import Any

from studio.errors import AuthFailed, InvalidRequest, RateLimited, StudioError, UpstreamError
from studio.models import Result
from studio.providers._http.body import Answer
from studio.providers._http.errors import refused, retry_after
from studio.providers._http.lists import cut_lists, longest, rows_in
from studio.providers._http.redact import Redactor
from studio.providers.rest.answer import body_of

_SHOWN_ERRORS = 20
_TOLD_ERRORS = 3
_MESSAGE = 300
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AUTH = frozenset({"UNAUTHENTICATED", "INVALID_TOKEN", "TOKEN_EXPIRED"})
_RATE = frozenset({"RATE_LIMITED", "RATELIMITED", "THROTTLED", "TOO_MANY_REQUESTS", "MAX_COST_EXCEEDED"})
_NO_GRAPHQL = "the endpoint does not answer in GraphQL; check its path"


def result_of(answer: Answer, redactor: Redactor, *, max_bytes: int, max_rows: int) -> Result:
    """`data`; beside its `errors` where only a part of it could be had.

    Raises:
        StudioError: nothing was answered, or the answer is no GraphQL.
    """
    document = document_of(answer, redactor, max_bytes)
    data, errors = document.get("data"), errors_in(document)
    if data is None:
        raise _refusal(answer, errors) if errors else UpstreamError(_NO_GRAPHQL)
    cut = False
    if longest(data) > max_rows:
        data, cut = cut_lists(data, max_rows)
    rows = rows_in(data)
    return Result(data={"data": data, "errors": errors} if errors else data, row_count=rows, truncated=cut)


def document_of(answer: Answer, redactor: Redactor, limit: int) -> dict[str, Any]:
    """The JSON object that a GraphQL server answers with, also where the status says error.

    Raises:
        StudioError: the answer is none.
    """
    if answer.status in {401, 407, 429} or 300 <= answer.status < 400:
        raise refused(answer, redactor)
    kind = answer.media_type
    document = None
    if kind == "application/json" or kind.endswith("+json"):
        try:
            document = body_of(answer, redactor, limit).value
        except StudioError:
            if answer.status < 400:
                raise
    spoken = isinstance(document, dict) and ("data" in document or errors_in(document))
    if not spoken:
        raise refused(answer, redactor) if answer.status >= 400 else UpstreamError(_NO_GRAPHQL)
    assert isinstance(document, dict)
    return document


def errors_in(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The errors as message, path and code, and nothing of what else the server adds to them."""
    found = document.get("errors")
    if not isinstance(found, list):
        return []
    return [_shown(error) for error in found[:_SHOWN_ERRORS]]


def _shown(error: Any) -> dict[str, Any]:
    if not isinstance(error, dict):
        error = {"message": error}
    message, path, extensions = error.get("message"), error.get("path"), error.get("extensions")
    code = extensions.get("code") if isinstance(extensions, dict) else None
    shown: dict[str, Any] = {"message": _NOT_SHOWN.sub(" ", str(message or "no message"))[:_MESSAGE]}
    if isinstance(path, list):
        shown["path"] = ".".join(_NOT_SHOWN.sub(" ", str(step))[:100] for step in path[:20])
    if isinstance(code, str) and _CODE.fullmatch(code):
        shown["code"] = code
    return shown


def _refusal(answer: Answer, errors: list[dict[str, Any]]) -> StudioError:
    """What an answer without data means."""
    codes = {error.get("code", "").upper() for error in errors}
    said = "; ".join(_told(error) for error in errors[:_TOLD_ERRORS])
    if codes & _AUTH:
        return AuthFailed(f"the API refused the connector's credentials: {said}")
    if codes & _RATE:
        return RateLimited(f"the API asks for fewer or smaller requests: {said}", retry_after_s=retry_after(answer))
    if codes & {"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "BAD_USER_INPUT"}:
        return InvalidRequest(f"the API does not take this: {said}")
    return UpstreamError(f"the API answered with errors and no data: {said}")


def _told(error: dict[str, Any]) -> str:
    return f"{error['path']}: {error['message']}" if error.get("path") else str(error["message"])
