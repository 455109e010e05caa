"""Configuration of the `redis` provider, and what `redis_pubsub` has of it too."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self
from urllib.parse import SplitResult

from pydantic import Field, model_validator

from studio.contract import ANY, BELOW, Destination, Pem, Port, Secret, Text
from studio.providers._server_config import ServerConfig


class RedisServerConfig(ServerConfig):
    """One Redis server, and how to log in.

    In place of `host`, `port`, `db`, `username`, `password` and `tls` a `uri` may be given. It is taken
    apart at once and never kept; a part that contradicts a field given beside it is refused.
    """

    uri_form: ClassVar[str] = "redis://user:password@host:port/db, or rediss:// for TLS"
    uri_schemes: ClassVar[frozenset[str]] = frozenset({"redis", "rediss"})

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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.tls_ca and not self.tls:
            raise ValueError("tls_ca: is given, but tls is false")
        if self.username and self.password is None:
            raise ValueError("password: is needed beside username")
        return self

    @classmethod
    def _more(cls, split: SplitResult) -> dict[str, Any]:
        path = split.path.strip("/")
        try:
            database = {"db": int(path)} if path else {}
        except ValueError:
            raise cls._malformed() from None
        if split.query:
            raise cls._malformed()
        return {"tls": split.scheme == "rediss", **database}


class RedisConfig(RedisServerConfig):
    """One database of one Redis server, or the keys of it that begin with `key_prefix`."""

    key_prefix: Annotated[Text | None, BELOW] = Field(
        None,
        min_length=1,
        description="Put before every key of every command, and taken off again in answers; what lies outside of it "
        "cannot be reached.",
    )
