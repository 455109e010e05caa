"""Configuration of the `soap` provider."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from studio.contract import Destination, Overridable, Secret, Text
from studio.contract.config import secret_check
from studio.contract.web import BasicAuth, BearerAuth, NoAuth, OAuth2Auth, Url, WebConfig, split_url

_QUERY = re.compile(r"[A-Za-z0-9._~!$'()*+,;:@/?%&=-]*")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
MAX_WSDL = 2 * 1024 * 1024
"""Characters of a WSDL in the config, and bytes of all documents that are fetched."""


class Place(NamedTuple):
    """A URL that may have a query, as those of WSDLs do."""

    url: Url
    target: str
    """Path and query, as they are sent."""


def place(text: str) -> Place:
    """Take a URL apart. Raises ValueError."""
    plain, mark, query = text.partition("?")
    url = split_url(plain)
    if not _QUERY.fullmatch(query):
        raise ValueError("has a query that is not percent-encoded, or a fragment")
    return Place(url, (url.path or "/") + mark + query)


def _normal(text: str) -> str:
    found = place(text)
    query = text.partition("?")
    return found.url.origin + found.url.path + query[1] + query[2]


def _wsdl(text: str) -> str:
    if "<" not in text or "\x00" in text:
        raise ValueError("must be the text of a WSDL document (wsdl_url takes an address)")
    return text


def _xml_secret(value: SecretStr) -> SecretStr:
    if _NOT_XML.search(value.get_secret_value()):
        raise ValueError("holds characters that XML cannot carry")
    return value


def _fewer(stored: list[str], wanted: Any) -> bool:
    return set(wanted or ()) <= set(stored)


SoapUrl = Annotated[str, Field(max_length=2048), AfterValidator(_normal)]
"""`http(s)://host[:port][/path][?query]`, normalised."""
FEWER = Overridable(_fewer, "may only name operations of the connector's own list")


class WsseAuth(NoAuth):
    """User name and password in each message (WS-Security UsernameToken Profile 1.1), and none in HTTP."""

    type: Literal["wsse"]  # type: ignore[assignment]  # the variant's name
    username: Annotated[Text, Field(min_length=1)]
    password: Annotated[Secret, secret_check(_xml_secret)]
    password_type: Literal["digest", "text"] = Field(
        "digest", description="digest: proves the password without sending it; text: sends it, so use https."
    )


SoapAuth = Annotated[NoAuth | BasicAuth | BearerAuth | OAuth2Auth | WsseAuth, Field(discriminator="type")]
"""As for rest, where it is part of HTTP; `wsse` is part of the message."""


class SoapConfig(WebConfig):
    """One port of one SOAP service."""

    wsdl_url: Annotated[SoapUrl | None, Destination()] = Field(None, description="Where the WSDL is fetched from.")
    wsdl: Annotated[str, StringConstraints(min_length=1, max_length=MAX_WSDL), AfterValidator(_wsdl)] | None = Field(
        None, description="The WSDL itself, as text, in place of wsdl_url: it is then pinned, and needs endpoint."
    )
    wsdl_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="What the documents at wsdl_url must hash to. Registration notes it by itself where the server "
        "can be reached; null takes the WSDL of that moment anew.",
    )
    endpoint: Annotated[SoapUrl | None, Destination()] = Field(
        None, description="Where messages go. Left out, the WSDL's own address holds, if it has wsdl_url's origin."
    )
    service: Text | None = Field(None, description="The service of the WSDL; its first if left out.")
    port: Text | None = Field(None, description="The port of the service; its first that fits if left out.")
    soap_version: Literal["1.1", "1.2"] | None = Field(None, description="Which ports fit; both if left out.")
    auth: Annotated[SoapAuth | None, Destination()] = Field(
        None, description="How to authenticate; not at all if left out."
    )
    read_operations: Annotated[list[Text], Field(max_length=1000), FEWER] = Field(
        [], description="Operations that only read. All others count as writes."
    )

    @model_validator(mode="after")
    def _one_wsdl(self) -> Self:
        if (self.wsdl is None) == (self.wsdl_url is None):
            raise ValueError("give either wsdl_url or wsdl")
        if self.wsdl is not None and self.endpoint is None:
            raise ValueError("wsdl needs endpoint: an address out of a document is not trusted with credentials")
        return self

    @property
    def home(self) -> Place:
        """Where messages go as far as the config tells: at least the origin is certain."""
        return place(self.endpoint or self.wsdl_url or "")
