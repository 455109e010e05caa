"""Configuration of the `redis` provider, and what `redis_pubsub` has of it too."""

from __future__ import annotations

from typing import Annotated, Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from studio.contract import ANY, BELOW, Destination, Host, Pem, Port, ProviderConfig, Secret, Text

_URI_FORM = "redis://user:password@host:port/db, or rediss:// for TLS"


class RedisServerConfig(ProviderConfig):
    """One Redis server, and how to log in.

    In place of `host`, `port`, `db`, `username`, `password` and `tls` a `uri` may be given. It is taken
    apart at once and never kept; a part that contradicts a field given beside it is refused.
    """

    host: Annotated[Host, Destination()] = Field(description="Host name or IP address.")
    port: Annotated[Port, Destination()] = Field(6379, description="TCP port.")
    db: Annotated[int, ANY] = Field(0, ge=0, le=1_000_000, description="Number of the database.")
    username: Annotated[Text | None, Destination()] = Field(
        None, min_length=1, description="ACL user; default's own if left out."
    )
    password: Secret | None = Field(None, description="Password of the user.")
    tls: Annotated[bool, Destination()] = Field(
        False, description="Speak TLS; the certificate and the host name in it are always checked."
    )
    tls_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

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
        if self.tls_ca and not self.tls:
            raise ValueError("tls_ca: is given, but tls is false")
        if self.username and self.password is None:
            raise ValueError("password: is needed beside username")
        return self


class RedisConfig(RedisServerConfig):
    """One database of one Redis server, or the keys of it that begin with `key_prefix`."""

    key_prefix: Annotated[Text | None, BELOW] = Field(
        None,
        min_length=1,
        description="Put before every key of every command, and taken off again in answers; what lies outside of it "
        "cannot be reached.",
    )


def _parts(uri: Any) -> dict[str, Any]:
    """The fields that a URI stands for. Messages never repeat any of it: it may hold a password."""
    try:
        split = urlsplit(uri) if isinstance(uri, str) else None
        port = split.port if split else None
        db = int(split.path.strip("/") or 0) if split else 0
    except ValueError:
        split = None
    if split is None or split.scheme not in {"redis", "rediss"} or not split.hostname or split.fragment or split.query:
        raise ValueError(f"uri: must have the form {_URI_FORM}") from None
    found: dict[str, Any] = {"host": unquote(split.hostname), "tls": split.scheme == "rediss"}
    if port is not None:
        found["port"] = port
    if split.path.strip("/"):
        found["db"] = db
    if split.username:
        found["username"] = unquote(split.username)
    if split.password is not None:
        found["password"] = unquote(split.password)
    return found
