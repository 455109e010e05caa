"""How a request gets its credentials: one small class for each variant of `contract.web.Auth`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from studio.contract.web import ApiKeyAuth, AwsSigV4Auth, BasicAuth, BearerAuth, OAuth2Auth, WebConfig
from studio.providers._http.oauth import Post, TokenSource
from studio.providers._http.redact import Redactor, is_credential
from studio.providers._http.sigv4 import signed_headers


@dataclass(frozen=True, slots=True)
class Request:
    """One request below a client's origin.

    Attributes:
        path: the whole path, percent-encoded; it goes out as it stands.
        query: decoded names and values, in order.
        idempotent: sending it twice does what sending it once does, so it may be tried again.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    idempotent: bool = False


class Credentials:
    """No credentials; the base of the variants."""

    query: tuple[tuple[str, str], ...] = ()
    """Query parameters to add."""

    async def headers(self, request: Request, host: str) -> Mapping[str, str]:
        """Headers to add to a request that is complete but for them.

        Args:
            host: the Host header as it will be sent.
        """
        return {}

    def spoil(self, request: Request) -> bool:
        """The upstream refused this one. Whether another try would carry other credentials."""
        return False

    async def prepare(self) -> None:
        """Get ready ahead of the first request. Raises AuthFailed."""

    async def close(self) -> None:
        """End what is under way."""


class _Fixed(Credentials):
    def __init__(self, *, header: tuple[str, str] | None = None, query: tuple[str, str] | None = None) -> None:
        self._headers = dict([header] if header else [])
        self.query = (query,) if query else ()

    async def headers(self, request: Request, host: str) -> Mapping[str, str]:
        return self._headers


class _OAuth2(Credentials):
    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def headers(self, request: Request, host: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {await self._source.token()}"}

    def spoil(self, request: Request) -> bool:
        self._source.spoil(request.headers["Authorization"].removeprefix("Bearer "))
        return True

    async def prepare(self) -> None:
        await self._source.token()

    async def close(self) -> None:
        await self._source.close()


class _SigV4(Credentials):
    def __init__(self, auth: AwsSigV4Auth) -> None:
        self._auth = auth

    async def headers(self, request: Request, host: str) -> Mapping[str, str]:
        return signed_headers(
            self._auth,
            method=request.method,
            host=host,
            path=request.path,
            query=request.query,
            headers=request.headers,
            body=request.body,
            now=datetime.now(UTC),
        )


def credentials(config: WebConfig, post: Post, redactor: Redactor) -> Credentials:
    """What the connector's `auth` asks for.

    Args:
        post: reaches the token endpoint, for OAuth 2.0.
        redactor: learns the tokens that are fetched.
    """
    auth = config.auth
    if isinstance(auth, BasicAuth):
        login = f"{auth.username}:{auth.password.get_secret_value()}"
        return _Fixed(header=("Authorization", "Basic " + base64.b64encode(login.encode()).decode()))
    if isinstance(auth, BearerAuth):
        return _Fixed(header=("Authorization", f"Bearer {auth.token.get_secret_value()}"))
    if isinstance(auth, ApiKeyAuth):
        pair = (auth.name, auth.key.get_secret_value())
        return _Fixed(header=pair) if auth.place == "header" else _Fixed(query=pair)
    if isinstance(auth, OAuth2Auth):
        return _OAuth2(TokenSource(auth, post, redactor.add))
    if isinstance(auth, AwsSigV4Auth):
        return _SigV4(auth)
    return Credentials()


def secrets_of(config: WebConfig) -> Iterator[str]:
    """What must never stand in an answer."""
    auth = config.auth
    if isinstance(auth, BasicAuth):
        password = auth.password.get_secret_value()
        yield password
        yield base64.b64encode(f"{auth.username}:{password}".encode()).decode()
    elif isinstance(auth, BearerAuth):
        yield auth.token.get_secret_value()
    elif isinstance(auth, ApiKeyAuth):
        yield auth.key.get_secret_value()
    elif isinstance(auth, OAuth2Auth):
        yield auth.client_secret.get_secret_value()
    elif isinstance(auth, AwsSigV4Auth):
        yield auth.secret_access_key.get_secret_value()
        if auth.session_token is not None:
            yield auth.session_token.get_secret_value()
    for name, value in config.headers.items():
        text = value.get_secret_value()
        if is_credential(name, text):
            yield text
            yield from text.split(" ")[1:]  # `Bearer abc` is echoed as `abc` by some
