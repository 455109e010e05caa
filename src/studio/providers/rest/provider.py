"""REST: any HTTP API below one base URL."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from pydantic import Field

from studio.contract import Effect, Operation, Probe, ProviderConfig, Result, operation
from studio.contract.web import ApiKeyAuth, ApiProvider, split_url
from studio.errors import Forbidden, ReadOnly, StudioError, UpstreamError
from studio.providers._http.client import Answer, HttpClient, Request
from studio.providers._http.errors import refused, translate
from studio.providers._http.path import Path, Template, allowed, literal
from studio.providers.rest import call
from studio.providers.rest.answer import Body, body_of, headers_of, result_of
from studio.providers.rest.call import Base64Body, Method, Paginate, Pairs
from studio.providers.rest.config import RestConfig
from studio.providers.rest.named import named
from studio.providers.rest.openapi import EFFECTS, IDEMPOTENT
from studio.providers.rest.pages import collect

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACCEPT = "application/json, */*;q=0.5"
_ELSEWHERE = "the upstream points to a place outside of this connector's base_url or paths; it is not followed"


class Rest(ApiProvider[RestConfig]):
    """REST API over HTTP: any method and path below a base URL, and named operations from an OpenAPI document."""

    kind: ClassVar[str] = "rest"
    Config: ClassVar[type[ProviderConfig]] = RestConfig

    # -- the contract ---------------------------------------------------------------------------

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the client; nothing connects yet."""
        self._base = split_url(self.config.base_url)
        self._prefix = self.config.prefix
        self._patterns = self.config.patterns
        self._client = HttpClient(self.config, self._base, self.network)
        await self._client.open(stack)

    async def ping(self) -> None:
        """Ask for `health_path`, or for the base URL."""
        await self.authenticate()
        await self.sample()

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return translate(exc)

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """`GET /users/{id}`; params fill the path, and are then query, headers, json, body, form, paginate, full."""
        return "request", call.parse_query(query, params)

    @classmethod
    def operations_for(cls, public: Mapping[str, Any]) -> Mapping[str, Operation]:
        """`request`, and the operations of the connector's OpenAPI document that its paths let through."""
        text = public.get("openapi")
        if not text:
            return cls.operations
        return {
            **cls.operations,
            **_named(text, public.get("base_path") or "", tuple(public.get("allowed_paths") or ())),
        }

    async def reach(self, probe: Probe) -> None:
        """The stages resolve, connect and tls."""
        await self._client.reach(probe)

    async def authenticate(self) -> None:
        """Get a token, and ask for the health path."""
        await self._client.prepare()
        self._health = await self._client.send(self._health_request())
        if self._health.status in {401, 407} or (self._health.status == 403 and self.config.health_path):
            raise refused(self._health, self._client.redactor)

    async def sample(self) -> str | None:
        """Whether the answer to that was a good one."""
        status = self._health.status
        if status >= (400 if self.config.health_path else 500):
            raise refused(self._health, self._client.redactor)
        if self.config.health_path:
            return None
        return f"the base URL answers {status}; set health_path to a path that shows that all is well"

    def _health_request(self) -> Request:
        path, _, query = (self.config.health_path or "").partition("?")
        below = literal(path).raw if path else ""
        pairs = tuple(parse_qsl(query, keep_blank_values=True))
        return Request("GET", self._base.path.rstrip("/") + below, pairs, {"Accept": _ACCEPT}, idempotent=True)

    # -- operations -----------------------------------------------------------------------------

    @operation(call.effect_of)
    async def request(
        self,
        method: Method,
        path: Annotated[str, Field(description="Below the base URL: /users/{id}.", max_length=8192)],
        path_params: Annotated[dict[str, Any] | None, Field(description="Values of the {names} in path.")] = None,
        query: Annotated[dict[str, Any] | None, Field(description="Query parameters; a list repeats one.")] = None,
        headers: Annotated[dict[str, str] | None, Field(description="Request headers.")] = None,
        json: Annotated[Any, Field(description="A body to send as JSON.")] = None,
        body: Annotated[str | Base64Body | None, Field(description="A body as text or {base64}.")] = None,
        form: Annotated[dict[str, Any] | None, Field(description="A body to send as a form.")] = None,
        paginate: Annotated[Paginate | None, Field(description="Gather the items of several pages.")] = None,
        full: Annotated[bool, Field(description="Answer status, headers and body, not the body alone.")] = False,
    ) -> Result:
        """Send one request and return the answer's body; the effect is that of the method."""
        filled = self._prefix + Template.parse(path).fill(path_params or {})
        sent, media_type = call.body(json, body, form)
        given = call.headers(headers, self.config.allowed_headers, self._client.own_headers)
        request = self.build(method, filled, call.pairs(query), given, sent, media_type)
        if paginate is not None:
            return await collect(self, request, paginate)
        return self.shape(request, await self.follow(request), full=full)

    def build(
        self, method: str, path: Path, query: Pairs, headers: Mapping[str, str], body: bytes, media_type: str | None
    ) -> Request:
        """A request for a path below the base URL.

        Raises:
            ReadOnly, Forbidden: it is not allowed here.
        """
        if self.config.read_only and EFFECTS[method] is not Effect.READ:
            raise ReadOnly(f"this connector only reads, and {method} does not; ask for one with read_only=false")
        self._require(path)
        auth = self.config.auth
        if isinstance(auth, ApiKeyAuth) and auth.place == "query" and any(name == auth.name for name, _ in query):
            raise Forbidden("the query parameter of the connector's API key is not taken from callers")
        names = {name.lower() for name in headers}
        own = {} if media_type is None or "content-type" in names else {"Content-Type": media_type}
        own |= {} if "accept" in names else {"Accept": _ACCEPT}
        raw = self._base.path.rstrip("/") + path.raw
        return Request(method, raw, query, {**own, **headers}, body, idempotent=method in IDEMPOTENT)

    def _require(self, path: Path) -> None:
        inside = path.parts[: len(self._prefix.parts)] == self._prefix.parts
        if not inside or not allowed(self._patterns, path.parts):
            may = ", ".join(self.config.allowed_paths or [f"{self.config.base_path}/**"])
            raise Forbidden(f"this path may not be called here; these may: {may}"[:1000])

    async def follow(self, request: Request, *, limit: int | None = None) -> Answer:
        """The answer, after the redirects that the connector allows.

        Raises:
            AuthFailed, RateLimited, UpstreamError: what the answer says.
        """
        hops = self.config.follow_redirects if request.method in {"GET", "HEAD"} else 0
        for _ in range(hops):
            answer = await self._client.send(request, limit=limit)
            place = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or place is None:
                break
            request = self.at(request, place)
        else:
            answer = await self._client.send(request, limit=limit)
        if answer.status >= 300 and answer.status != 304:
            raise refused(answer, self._client.redactor)
        return answer

    def at(self, request: Request, place: str) -> Request:
        """The same request for the place that an answer points to.

        Raises:
            UpstreamError: another origin, or a path that may not be called here.
        """
        try:
            target = urlsplit(urljoin(self._base.origin + request.path, place))
            if split_url(f"{target.scheme}://{target.netloc}").origin != self._base.origin:
                raise UpstreamError(_ELSEWHERE)
            raw = literal(target.path or "/")
            base = literal(self._base.path or "/") if self._base.path else Path("", ())
            if raw.parts[: len(base.parts)] != base.parts:
                raise UpstreamError(_ELSEWHERE)
            below = raw.parts[len(base.parts) :]
            self._require(Path("", below))
        except (ValueError, StudioError) as exc:
            raise UpstreamError(_ELSEWHERE) from exc
        auth = self.config.auth
        own = auth.name if isinstance(auth, ApiKeyAuth) and auth.place == "query" else None
        query = tuple(pair for pair in parse_qsl(target.query, keep_blank_values=True) if pair[0] != own)
        return Request(request.method, raw.raw, query, request.headers, idempotent=request.idempotent)

    def place_of(self, request: Request) -> str:
        """Path and query of a request, as a caller would write them to get there."""
        below = request.path.removeprefix(self._base.path.rstrip("/")).removeprefix(self._prefix.raw)
        return self._client.redactor.text(below + (f"?{urlencode(request.query)}" if request.query else ""))

    def shape(self, request: Request, answer: Answer, *, full: bool = False) -> Result:
        """The answer as a result: the body, or status, headers and body. HEAD has nothing but headers."""
        redactor = self._client.redactor
        result = result_of(body_of(answer, redactor, self.config.max_bytes), max_rows=self.config.max_rows)
        if full or request.method == "HEAD":
            result.data = {"status": answer.status, "headers": headers_of(answer, redactor), "body": result.data}
        return result

    def page(self, answer: Answer, limit: int) -> Body:
        """A page's body, for gathering."""
        return body_of(answer, self._client.redactor, limit)


@lru_cache(maxsize=256)
def _named(text: str, base_path: str, patterns: tuple[str, ...]) -> Mapping[str, Operation]:
    return named(text, base_path, patterns)
