"""Configuration of the `rest` provider."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from studio.contract import Destination, Overridable
from studio.contract.web import CREDENTIAL_HEADERS, BaseUrl, HeaderName, WebConfig, plain_path
from studio.errors import StudioError
from studio.providers._http.path import Path, Pattern, literal
from studio.providers.rest.openapi import compact

_METHOD_CHANGERS = frozenset(
    {"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"}
)
"""Headers that make some servers run another method or path than the one that was judged."""


def _base_path(text: str) -> str:
    path = plain_path(text).rstrip("/")
    if text and not text.startswith("/"):
        raise ValueError("must begin with a slash")
    return path


def _pattern(text: str) -> str:
    Pattern.parse(text)
    return text


def _path_and_query(text: str) -> str:
    path, _, query = text.partition("?")
    try:
        literal(path)
    except StudioError as exc:
        raise ValueError(exc.message) from None
    if not query.isascii() or any(char in query for char in ' #"<>'):
        raise ValueError("has a query that is not percent-encoded")
    return text


def _callers_header(name: str) -> str:
    if name.lower() in CREDENTIAL_HEADERS | _METHOD_CHANGERS:
        raise ValueError("is never taken from callers")
    return name


def _below(stored: str, wanted: Any) -> bool:
    return isinstance(wanted, str) and (wanted == stored or wanted.startswith(stored + "/"))


def _narrower(stored: list[str] | None, wanted: Any) -> bool:
    if stored is None:
        return True
    outer = [Pattern.parse(text) for text in stored]
    return bool(wanted) and all(any(o.covers(Pattern.parse(text)) for o in outer) for text in wanted)


def _subset(stored: list[str], wanted: Any) -> bool:
    return {name.lower() for name in wanted or ()} <= {name.lower() for name in stored}


BASE_PATH = Overridable(_below, "must be the connector's own base_path or a path below it")
PATHS = Overridable(_narrower, "may only name paths that the connector's own allowed_paths let through")
HEADERS = Overridable(_subset, "may only name headers of the connector's own list")
PathPattern = Annotated[str, Field(max_length=1024), AfterValidator(_pattern)]


class RestConfig(WebConfig):
    """One REST API below one base URL."""

    base_url: Annotated[BaseUrl, Destination()] = Field(
        description="http(s)://host[:port][/path]; every path of a call is below it."
    )
    base_path: Annotated[str, Field(max_length=1024), AfterValidator(_base_path), BASE_PATH] = Field(
        "", description="A path below base_url that calls are bound to, such as /teams/7."
    )
    allowed_paths: Annotated[list[PathPattern] | None, Field(min_length=1, max_length=500), PATHS] = Field(
        None,
        description="Paths below base_url that may be called, base_path included: * is one segment, ** at the end "
        "is everything below. All paths if left out.",
    )
    allowed_headers: Annotated[
        list[Annotated[HeaderName, AfterValidator(_callers_header)]], Field(max_length=50), HEADERS
    ] = Field([], description="Headers that callers may set beside the usual ones (Accept, If-Match, Range, ...).")
    health_path: Annotated[str, Field(max_length=2048), AfterValidator(_path_and_query)] | None = Field(
        None, description="A path below base_url that answers GET with 2xx while all is well; used by the test."
    )
    follow_redirects: Annotated[int, Overridable(lambda stored, wanted: wanted <= stored, "may only be lowered")] = (
        Field(0, ge=0, le=3, description="Redirects that a GET follows; only to the same origin and to allowed paths.")
    )
    openapi: Annotated[str, BeforeValidator(compact)] | None = Field(
        None,
        description="An OpenAPI 3 document, as an object or as JSON or YAML text: each of its operations becomes one "
        "of this connector. Only what that takes is kept.",
    )

    @property
    def prefix(self) -> Path:
        """`base_path` as a path."""
        return literal(self.base_path) if self.base_path else Path("", ())

    @property
    def patterns(self) -> list[Pattern]:
        """`allowed_paths`, read."""
        return [Pattern.parse(text) for text in self.allowed_paths or ()]
