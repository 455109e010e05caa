"""What the configs of `postgresql` and `mysql` share: the account, and TLS as libpq names its modes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, parse_qsl, unquote

from pydantic import Field, field_validator, model_validator

from studio.contract import ANY, Destination, Pem, Secret, SecretPem, Text
from studio.providers._server_config import ServerConfig

SslMode = Literal["disable", "require", "verify-ca", "verify-full"]


class SqlServerConfig(ServerConfig):
    """One database of one server, and how to log in."""

    database: Annotated[Text, ANY] = Field(min_length=1, description="Database to work in.")
    username: Annotated[Text, Destination()] = Field(min_length=1, description="Account to log in as.")
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
        """The mode in force: as with libpq, `require` with a CA given is `verify-ca`."""
        if isinstance(self.ssl, bool):
            mode: SslMode = "require" if self.ssl else "disable"
        else:
            mode = self.ssl
        return "verify-ca" if mode == "require" and self.ssl_ca else mode

    @classmethod
    def _more(cls, split: SplitResult) -> dict[str, Any]:
        found = {}
        if split.path.strip("/"):
            found["database"] = unquote(split.path.removeprefix("/"))
        for name, value in parse_qsl(split.query, keep_blank_values=True):
            found.update(cls._option(name, value))
        return found

    @classmethod
    def _option(cls, name: str, value: str) -> dict[str, Any]:
        """The field that one option of a URI stands for. Raises ValueError for one that is not known."""
        raise NotImplementedError
