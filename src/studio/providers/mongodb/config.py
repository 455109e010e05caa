"""Configuration of the `mongodb` provider."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import SplitResult, parse_qsl, unquote

from pydantic import AfterValidator, Field, model_validator

from studio.contract import ANY, Destination, Host, Pem, Port, Secret, Text
from studio.providers._server_config import ServerConfig

Mechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-1"]
"""Log-ins that prove a password without sending it. The others send an identity of this machine's own."""

_URI_OPTIONS = {
    "authsource": "auth_source", "authmechanism": "auth_mechanism", "replicaset": "replica_set", "tls": "tls",
    "ssl": "tls",
}  # fmt: skip
_URI_IGNORED = {"directconnection": "true", "retrywrites": None, "retryreads": None, "appname": None}
"""Options that change nothing here; with the only value that they may have, where that matters."""
_NAME = re.compile(r'[^/\\. "$*<>:|?\x00]{1,63}')


def _database(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be a database's name: up to 63 characters, none of / \\ . \" $ * < > : | ? or space")
    return value


DatabaseName = Annotated[Text, AfterValidator(_database)]


class MongodbConfig(ServerConfig):
    """One database of one MongoDB server, and how to log in.

    In place of `host`, `port`, `database`, `username`, `password`, `auth_source`, `auth_mechanism`,
    `replica_set` and `tls` a `uri` (`mongodb://...`) may be given. It is taken apart at once and never
    kept; a part that contradicts a field given beside it is refused.
    """

    uri_form: ClassVar[str] = "mongodb://user:password@host:port/database, with one host"
    uri_schemes: ClassVar[frozenset[str]] = frozenset({"mongodb"})

    host: Annotated[Host, Destination()] = Field(description="Host name or IP address of one server.")
    port: Annotated[Port, Destination()] = Field(27017, description="TCP port.")
    database: Annotated[DatabaseName, ANY] = Field(description="Database to work in.")
    username: Annotated[Text | None, Destination()] = Field(None, min_length=1, description="User to log in as.")
    password: Secret | None = Field(None, description="Password of the user.")
    auth_source: Annotated[DatabaseName, Destination()] = Field("admin", description="Database that holds the user.")
    auth_mechanism: Annotated[Mechanism | None, Destination()] = Field(
        None, description="The better one that the server has for the user, if left out."
    )
    replica_set: Text | None = Field(
        None,
        min_length=1,
        description="Refuse a server that is not of this replica set; no other is looked for.",
    )
    tls: Annotated[bool, Destination()] = Field(
        False, description="Speak TLS; the certificate and the host name in it are always checked."
    )
    tls_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.tls_ca and not self.tls:
            raise ValueError("tls_ca: is given, but tls is false")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password: give both or neither")
        return self

    @classmethod
    def _parts(cls, uri: Any) -> dict[str, Any]:
        if isinstance(uri, str) and uri.startswith("mongodb+srv://"):
            raise ValueError("uri: mongodb+srv is not taken; name the server's host and port")
        return super()._parts(uri)

    @classmethod
    def _more(cls, split: SplitResult) -> dict[str, Any]:
        if "," in split.netloc.rpartition("@")[2] + split.path:
            raise cls._malformed()
        found = {}
        if split.path.strip("/"):
            found["database"] = found["auth_source"] = unquote(split.path.removeprefix("/"))
        return {**found, **_options(split.query)}


def _options(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for given, value in parse_qsl(query, keep_blank_values=True):
        name = given.lower()
        if name in _URI_IGNORED:
            if _URI_IGNORED[name] not in (None, value):
                raise ValueError("uri: directConnection can only be true here")
        elif name not in _URI_OPTIONS:
            raise ValueError("uri: has an option that is not taken; known are authSource authMechanism replicaSet tls")
        elif _URI_OPTIONS[name] != "tls":
            found[_URI_OPTIONS[name]] = value
        elif value in {"true", "false"}:
            found["tls"] = value == "true"
        else:
            raise ValueError("uri: tls must be true or false")
    return found
