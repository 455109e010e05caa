"""The api family: what REST, GraphQL and SOAP share in configuration, connection test and promises.

A provider of this family sends its requests through `studio.providers._http.client.HttpClient`, which
holds the rules for addresses, credentials, redirects, retries and sizes in one place.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, model_validator

from studio.contract.config import Destination, Host, Pem, ProviderConfig, Secret, Text, secret_check
from studio.contract.probe import Probe
from studio.contract.provider import ConfigT, Provider

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]\\]+)(?::(?P<port>\d{1,5}))?(?P<path>/.*)?"
)
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})*)*")
_ADDRESS_LIKE = re.compile(r"(?:\d+|0[xX][0-9A-Fa-f]*)")
_HOST = TypeAdapter(Host)

RESERVED_HEADERS = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "expect", "host", "http2-settings",
    "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
"""Headers that belong to the connection (RFC 9110, section 7.6.1) or to the client: nobody sets them."""
CREDENTIAL_HEADERS = frozenset({"authorization", "cookie"})
"""Headers that only a connector's own configuration may set."""


class Url(NamedTuple):
    """The parts of a checked URL. `host` has no brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """`https://host[:port]`; the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" + ("" if self.port == usual else f":{self.port}")


def split_url(text: str) -> Url:
    """Take a URL apart that is `http` or `https`, host, port and path, and nothing else.

    Raises:
        ValueError: saying what is wrong, without repeating the text.
    """
    found = _URL.fullmatch(text)
    if not found:
        raise ValueError("must be http(s)://host[:port][/path], without user name, query or fragment")
    host = _HOST.validate_python(found["host"])
    if ":" not in host and _ADDRESS_LIKE.fullmatch(host.rsplit(".", 1)[-1]) and not _dotted_quad(host):
        raise ValueError("names an address in a form that programs read differently; write it as four numbers")
    port = int(found["port"] or {"http": 80, "https": 443}[found["scheme"]])
    if not 1 <= port <= 65_535:
        raise ValueError("has a port that is not between 1 and 65535")
    return Url(found["scheme"], host, port, plain_path(found["path"] or ""))


def _dotted_quad(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and all(part.isdigit() and str(int(part)) == part for part in parts)


def plain_path(text: str) -> str:
    """The path as it is, if no server can read it as another one.

    Raises:
        ValueError: it has dot segments, empty segments, escaped slashes or characters that need escaping.
    """
    if not _PATH.fullmatch(text) or "//" in text:
        raise ValueError("must have a path of plain segments: /like/this, percent-encoded where needed")
    for part in text.split("/")[1:]:
        meant = unquote(unquote(part))
        if meant in {".", ".."} or "/" in meant or "\\" in meant or "%" in meant:
            raise ValueError("must have a path without dot segments and escaped slashes")
    return text


def _normal_url(text: str) -> str:
    url = split_url(text)
    return url.origin + url.path


def _header_name(name: str) -> str:
    if name.lower() in RESERVED_HEADERS:
        raise ValueError("is set by the connection itself")
    return name


def _header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x20-\x7e]*", value.get_secret_value()):
        raise ValueError("must be printable ASCII on one line")
    return value


HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(_normal_url)]
"""`http(s)://host[:port][/path]`, normalised: lower-case host, no default port."""
BaseUrl = Annotated[HttpUrl, AfterValidator(lambda url: url.rstrip("/"))]
"""The same for what paths are appended to: without a last slash."""
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"), AfterValidator(_header_name)]
"""A field name (RFC 9110, section 5.1) that a connector may set."""
HeaderSecret = Annotated[Secret, secret_check(_header_value)]
"""A header's value. It may hold a credential, so it is treated as one."""


class _Auth(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class NoAuth(_Auth):
    """No credentials."""

    type: Literal["none"]


class BasicAuth(_Auth):
    """User name and password in each request (RFC 7617)."""

    type: Literal["basic"]
    username: Annotated[Text, Field(pattern=r"^[^:]*$")]
    password: Secret


class BearerAuth(_Auth):
    """A fixed token in each request (RFC 6750)."""

    type: Literal["bearer"]
    token: Annotated[HeaderSecret, Field(min_length=1)]


class ApiKeyAuth(_Auth):
    """A key in a header or a query parameter of each request."""

    type: Literal["api_key"]
    place: Literal["header", "query"] = Field("header", alias="in")
    name: HeaderName = "X-API-Key"
    key: Annotated[HeaderSecret, Field(min_length=1)]


class OAuth2Auth(_Auth):
    """OAuth 2.0 client credentials (RFC 6749, section 4.4): tokens are fetched, kept and renewed here."""

    type: Literal["oauth2_client_credentials"]
    token_url: HttpUrl = Field(description="The token endpoint.")
    client_id: Annotated[Text, Field(min_length=1)]
    client_secret: Annotated[Secret, Field(min_length=1)]
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    scope: Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$")] | None = Field(
        None, max_length=2048, description="Scopes to ask for, separated by spaces; each must be granted."
    )
    audience: Text | None = None
    resource: Text | None = Field(None, description="Resource indicator (RFC 8707).")


class AwsSigV4Auth(_Auth):
    """Requests signed with AWS Signature Version 4."""

    type: Literal["aws_sigv4"]
    access_key_id: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_]{1,128}$")]
    secret_access_key: Annotated[Secret, Field(min_length=1)]
    session_token: Annotated[HeaderSecret, Field(min_length=1)] | None = None
    region: Annotated[Text, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    service: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


Auth = Annotated[NoAuth | BasicAuth | BearerAuth | ApiKeyAuth | OAuth2Auth | AwsSigV4Auth, Field(discriminator="type")]
"""How requests prove who they come from; `type` tells the variants apart."""


class WebConfig(ProviderConfig):
    """The fields that every provider of the api family has."""

    headers: dict[HeaderName, HeaderSecret] = Field(
        {}, max_length=50, description="Sent with every request. The values are kept as secrets."
    )
    auth: Annotated[Auth | None, Destination()] = Field(
        None, description="How to authenticate; not at all if left out."
    )
    ssl_verify: Annotated[bool, Destination()] = Field(True, description="Check the server's certificate.")
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

    @model_validator(mode="after")
    def _each_header_once(self) -> Self:
        names = [name.lower() for name in self.headers]
        if isinstance(self.auth, ApiKeyAuth) and self.auth.place == "header":
            names.append(self.auth.name.lower())
        elif self.auth is not None and not isinstance(self.auth, NoAuth | ApiKeyAuth):
            names.append("authorization")
        if len(set(names)) != len(names):
            raise ValueError("headers and auth set the same header twice (names are the same in any case)")
        return self


class ApiProvider(Provider[ConfigT]):
    """An API over HTTP."""

    family: ClassVar[str] = "api"
    least: ClassVar[str] = "credentials that may send GET and HEAD, below the paths that agents need, and nothing else"
    """What to ask the API's owner for where an agent only reads."""
    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "check the spelling of the host in the URL, and that this machine's DNS knows it",
        "connect": "check host and port of the URL, that the server runs, and that no firewall stands between",
        "tls": "check that the server speaks TLS on that port, and give its CA as ssl_ca if it has one of its own",
        "auth": "check the fields of auth and headers",
        "auth_failed": "check the fields of auth and headers; after a change of a secret, update the connector",
        "sample": "check the path: it must exist and answer without an error",
    }

    async def probe(self, probe: Probe) -> None:
        """Stages: resolve, connect, tls (for https), auth (credentials are taken), sample (a real answer)."""
        await self.reach(probe)
        with probe.stage("auth"):
            await self.authenticate()
        probe.privileges = self.privileges()
        with probe.stage("sample") as stage:
            stage.detail = await self.sample()

    @abstractmethod
    async def reach(self, probe: Probe) -> None:
        """The stages up to an open connection: resolve, connect, tls."""

    @abstractmethod
    async def authenticate(self) -> None:
        """Get a token or make a request that needs the credentials. Raises AuthFailed."""

    @abstractmethod
    async def sample(self) -> str | None:
        """One real answer; what it proves and what not, in words."""

    def privileges(self) -> dict[str, Any]:
        """HTTP has no way to ask what an account may do, so read-only is kept by this service."""
        return {
            "enforced_by": "service",
            "excess": [],
            "grant": [self.least],
            "detail": "an API does not tell what its credentials allow: this service alone keeps reads to reads. "
            "Use credentials that may only read wherever the API offers them",
        }
