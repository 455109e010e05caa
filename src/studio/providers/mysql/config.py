"""Configuration of the `mysql` provider."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from studio.contract import ANY, Destination, Port, Text
from studio.providers._sql.config import SqlServerConfig

_URI_SSL = {"DISABLED": "disable", "REQUIRED": "require", "VERIFY_CA": "verify-ca", "VERIFY_IDENTITY": "verify-full"}
"""`ssl-mode` as MySQL's own tools write it; PREFERRED would fall back to clear text."""


class MysqlConfig(SqlServerConfig):
    """One database of one MySQL or MariaDB server, and how to log in.

    There is no field for a socket path, an option file, an initial command or any other property of
    the driver: those of the service's machine are not the tenant's to name. In place of `host`, `port`,
    `database`, `username`, `password` and `ssl` a `uri` (`mysql://...`) may be given. It is taken apart
    at once and never kept; a part that contradicts a field given beside it is refused.
    """

    uri_form: ClassVar[str] = "mysql://user:password@host:port/database"
    uri_schemes: ClassVar[frozenset[str]] = frozenset({"mysql", "mariadb"})

    port: Annotated[Port, Destination()] = Field(3306, description="TCP port.")
    database: Annotated[Text, ANY] = Field(min_length=1, max_length=64, description="Database to work in.")
    username: Annotated[Text, Destination()] = Field(min_length=1, max_length=128, description="Account to log in as.")

    @classmethod
    def _option(cls, name: str, value: str) -> dict[str, Any]:
        if name != "ssl-mode" or value not in _URI_SSL:
            raise ValueError(f"uri: only the option ssl-mode is known, with {', '.join(_URI_SSL)}")
        return {"ssl": _URI_SSL[value]}
