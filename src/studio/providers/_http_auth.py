"""How a request gets its credentials: one small class for each variant of `contract.web.Auth`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from studio.contract.web import ApiKeyAuth, AwsSigV4Auth, BasicAuth, BearerAuth, OAuth2Auth, WebConfig
from studio.providers._http_oauth import Post, TokenSource
from studio.providers._http_redact import Redactor, is_credential
from studio.providers._http_sigv4 import signed_headers


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

    async def apply(self, request: Request, headers: Mapping[str, str], host: str) -> Request:
        """The request with its credentials.

        Args:
            headers: those of the connector, which are sent as well.
            host: the Host header as it will be sent.
        """
        return request

    def spoil(self, request: Request) -> bool:
        """The upstream refused this one. Whether another try would carry other credentials."""
        return False

    async def prepare(self) -> bool:
        """Get ready ahead of the first request. Whether that proved the credentials."""
        return False

    async def close(self) -> None:
        """End what is under way."""


class _Header(Credentials):
    def __init__(self, name: str, value: str) -> None:
        self._added = {name: value}

    async def apply(self, request: Request, headers: Mapping[str, str], host: str) -> Request:
        return replace(request, headers={**request.headers, **self._added})


class _Query(Credentials):
    def __init__(self, name: str, value: str) -> None:
        self._pair = (name, value)

    async def apply(self, request: Request, headers: Mapping[str, str], host: str) -> Request:
        return replace(request, query=(*request.query, self._pair))


class _OAuth2(Credentials):
    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def apply(self, request: Request, headers: Mapping[str, str], host: str) -> Request:
        token = await self._source.token()
        return replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})

    def spoil(self, request: Request) -> bool:
        self._source.spoil(request.headers["Authorization"].removeprefix("Bearer "))
        return True

    async def prepare(self) -> bool:
        await self._source.token()
        return True

    async def close(self) -> None:
        await self._source.close()


class _SigV4(Credentials):
    def __init__(self, auth: AwsSigV4Auth) -> None:
        self._auth = auth

    async def apply(self, request: Request, headers: Mapping[str, str], host: str) -> Request:
        added = signed_headers(
            self._auth,
            method=request.method,
            host=host,
            path=request.path,
            query=request.query,
            headers={**headers, **request.headers},
            body=request.body,
            now=datetime.now(UTC),
        )
        return replace(request, headers={**request.headers, **added})


def credentials(config: WebConfig, post: Post, redactor: Redactor) -> Credentials:
    """What the connector's `auth` asks for.

    Args:
        post: reaches the token endpoint, for OAuth 2.0.
        redactor: learns the tokens that are fetched.
    """
    auth = config.auth
    if isinstance(auth, BasicAuth):
        pair = f"{auth.username}:{auth.password.get_secret_value()}"
        return _Header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    if isinstance(auth, BearerAuth):
        return _Header("Authorization", f"Bearer {auth.token.get_secret_value()}")
    if isinstance(auth, ApiKeyAuth):
        return (_Header if auth.place == "header" else _Query)(auth.name, auth.key.get_secret_value())
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
