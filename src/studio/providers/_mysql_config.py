"""Configuration of the `mysql` provider."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from studio.contract import ANY, Destination, Host, Pem, Port, ProviderConfig, Secret, SecretPem, Text

SslMode = Literal["disable", "require", "verify-ca", "verify-full"]

_URI_FORM = "mysql://user:password@host:port/database"
_URI_SSL = {"DISABLED": "disable", "REQUIRED": "require", "VERIFY_CA": "verify-ca", "VERIFY_IDENTITY": "verify-full"}
"""`ssl-mode` as MySQL's own tools write it; PREFERRED would fall back to clear text."""


class MysqlConfig(ProviderConfig):
    """One database of one MySQL or MariaDB server, and how to log in.

    There is no field for a socket path, an option file, an initial command or any other property of
    the driver: those of the service's machine are not the tenant's to name. In place of `host`, `port`,
    `database`, `username`, `password` and `ssl` a `uri` (`mysql://...`) may be given. It is taken apart
    at once and never kept; a part that contradicts a field given beside it is refused.
    """

    host: Annotated[Host, Destination()] = Field(description="Host name or IP address.")
    port: Annotated[Port, Destination()] = Field(3306, description="TCP port.")
    database: Annotated[Text, ANY] = Field(min_length=1, max_length=64, description="Database to work in.")
    username: Annotated[Text, Destination()] = Field(min_length=1, max_length=128, description="Account to log in as.")
    password: Secret | None = Field(None, description="Password of the account.")
    ssl: Annotated[bool | SslMode, Destination()] = Field(
        True,
        description="true or require: TLS, without a check of the certificate unless ssl_ca is given; verify-ca: the "
        "certificate must come from ssl_ca or a CA of this system; verify-full: and be for this host name; "
        "false or disable: no TLS. It never falls back to clear text.",
    )
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")
    ssl_cert: Pem | None = Field(None, description="Client certificate, as PEM.")
    ssl_key: SecretPem | None = Field(None, description="Private key of the client certificate, as PEM.")

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

    @field_validator("ssl_key")
    @classmethod
    def _key_fits(cls, key: Any, info: Any) -> Any:
        if key is not None and info.data.get("ssl_cert") is None:
            raise ValueError("needs ssl_cert beside it")
        return key

    @model_validator(mode="after")
    def _tls_is_on(self) -> Self:
        if self.tls_mode == "disable" and (self.ssl_ca or self.ssl_cert):
            raise ValueError("ssl: is off, but ssl_ca or ssl_cert is given")
        return self

    @property
    def tls_mode(self) -> SslMode:
        """The mode in force: `require` with a CA given is `verify-ca`."""
        if isinstance(self.ssl, bool):
            mode: SslMode = "require" if self.ssl else "disable"
        else:
            mode = self.ssl
        return "verify-ca" if mode == "require" and self.ssl_ca else mode


def _parts(uri: Any) -> dict[str, Any]:
    """The fields that a URI stands for. Messages never repeat any of it: it may hold a password."""
    try:
        split = urlsplit(uri) if isinstance(uri, str) else None
        port = split.port if split else None
    except ValueError:
        split = port = None
    if split is None or split.scheme not in {"mysql", "mariadb"} or not split.hostname or split.fragment:
        raise ValueError(f"uri: must have the form {_URI_FORM}") from None
    found: dict[str, Any] = {"host": unquote(split.hostname), **_options(split.query)}
    if port is not None:
        found["port"] = port
    if split.username:
        found["username"] = unquote(split.username)
    if split.password is not None:
        found["password"] = unquote(split.password)
    if split.path.strip("/"):
        found["database"] = unquote(split.path.removeprefix("/"))
    return found


def _options(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "ssl-mode" or value not in _URI_SSL:
            raise ValueError(f"uri: only the option ssl-mode is known, with {', '.join(_URI_SSL)}")
        found["ssl"] = _URI_SSL[value]
    return found
