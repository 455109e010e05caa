"""Configuration of the `rabbitmq` provider."""

from __future__ import annotations

from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from studio.contract import BELOW, Destination, Host, Pem, Port, ProviderConfig, Secret, Text
from studio.contract.web import HttpUrl

_URI_FORM = "amqp://user:password@host:port/vhost, or amqps:// for TLS"
_PORTS = {"amqp": 5672, "amqps": 5671}


class RabbitmqConfig(ProviderConfig):
    """One virtual host of one RabbitMQ server, or the queues and exchanges of it that begin with `queue_prefix`.

    In place of `host`, `port`, `virtual_host`, `username`, `password` and `tls` a `uri` may be given. It is
    taken apart at once and never kept; a part that contradicts a field given beside it is refused.
    """

    host: Annotated[Host, Destination()] = Field(description="Host name or IP address.")
    port: Annotated[Port, Destination()] = Field(5672, description="TCP port; servers mostly speak TLS on 5671.")
    virtual_host: Annotated[Text, Field(min_length=1)] = Field("/", description="The virtual host.")
    username: Annotated[Text, Destination()] = Field(min_length=1, description="The user.")
    password: Secret = Field(description="The user's password.")
    tls: Annotated[bool, Destination()] = Field(
        False, description="Speak TLS; the certificate and the host name in it are always checked."
    )
    tls_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")
    management_url: Annotated[HttpUrl | None, Destination(optional=True)] = Field(
        None,
        description="http(s)://host[:port] of the server's management API. Needed only for rotations that make the "
        "password here; with https, tls_ca is its CA too.",
    )
    queue_prefix: Annotated[Text | None, BELOW] = Field(
        None,
        min_length=1,
        description="Put before the name of every queue and exchange; what lies outside of it cannot be reached.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_uri(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "uri" not in given:
            return given
        fields = {name: value for name, value in given.items() if name != "uri"}
        for name, value in _parts(given["uri"]).items():
            if fields.setdefault(name, value) != value:
                raise ValueError(f"uri: contradicts the field {name}; give one of the two")
        return fields

    @model_validator(mode="after")
    def _fits(self) -> Self:
        secure = self.tls or (self.management_url or "").startswith("https:")
        if self.tls_ca and not secure:
            raise ValueError("tls_ca: is given, but tls is false")
        if self.management_url is not None and ":" in self.username:
            raise ValueError("management_url: HTTP's log-in cannot carry a user name with a colon")
        return self


def _parts(uri: Any) -> dict[str, Any]:
    """The fields that a URI stands for (RabbitMQ URI specification). Messages never repeat any of it."""
    try:
        split = urlsplit(uri) if isinstance(uri, str) else None
        port = split.port if split else None
    except ValueError:
        split = None
    if split is None or split.scheme not in _PORTS or not split.hostname or split.query or split.fragment:
        raise ValueError(f"uri: must have the form {_URI_FORM}") from None
    found: dict[str, Any] = {
        "host": unquote(split.hostname), "tls": split.scheme == "amqps", "port": port or _PORTS[split.scheme],
    }  # fmt: skip
    if split.path not in {"", "/"}:
        found["virtual_host"] = unquote(split.path[1:])
    if split.username:
        found["username"] = unquote(split.username)
    if split.password is not None:
        found["password"] = unquote(split.password)
    return found
