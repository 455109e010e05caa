"""Configuration of the `postgresql` provider."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar

from pydantic import Field

from studio.contract import ANY, Destination, Port, Secret, Text
from studio.providers._sql.config import SqlServerConfig

_URI_OPTIONS = {"sslmode": "ssl", "application_name": "application_name"}

with warnings.catch_warnings():
    # Pydantic's deprecated `BaseModel.schema` has the name that the field must have on every surface.
    warnings.filterwarnings("ignore", message='Field name "schema"', category=UserWarning)

    class PostgresqlConfig(SqlServerConfig):
        """One database of one PostgreSQL server, and how to log in.

        In place of `host`, `port`, `database`, `username`, `password`, `ssl` and `application_name` a
        `uri` (`postgresql://...`) may be given. It is taken apart at once and never kept; a part that
        contradicts a field given beside it is refused.
        """

        uri_form: ClassVar[str] = "postgresql://user:password@host:port/database"
        uri_schemes: ClassVar[frozenset[str]] = frozenset({"postgresql", "postgres"})

        port: Annotated[Port, Destination()] = Field(5432, description="TCP port.")
        username: Annotated[Text, Destination()] = Field(min_length=1, description="Role to log in as.")
        password: Secret | None = Field(None, description="Password of the role.")
        schema: Annotated[Text | None, ANY] = Field(  # type: ignore[assignment]
            None, min_length=1, max_length=63, description="Schema of names without one; the role's own if left out."
        )
        application_name: Text = Field(
            "studio-connectors", max_length=63, description="Name that the server shows for these sessions."
        )

        @classmethod
        def _option(cls, name: str, value: str) -> dict[str, Any]:
            if name not in _URI_OPTIONS:
                raise ValueError(f"uri: only the options {' and '.join(_URI_OPTIONS)} are known")
            return {_URI_OPTIONS[name]: value}
