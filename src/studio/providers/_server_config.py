"""What the configs of servers share: `host`, `port`, and a `uri` that may stand in place of fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Field, model_validator

from studio.contract import Destination, Host, Port, ProviderConfig


class ServerConfig(ProviderConfig):
    """A server at one host and port.

    In place of fields a `uri` may be given. It is taken apart at once and never kept; a part that
    contradicts a field given beside it is refused. No message repeats any of it: it may hold a password.
    """

    uri_form: ClassVar[str]
    """What a URI looks like, for messages."""
    uri_schemes: ClassVar[frozenset[str]]

    host: Annotated[Host, Destination()] = Field(description="Host name or IP address.")
    port: Annotated[Port, Destination()] = Field(description="TCP port.")

    @model_validator(mode="before")
    @classmethod
    def _take_uri(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "uri" not in given:
            return given
        fields = {name: value for name, value in given.items() if name != "uri"}
        for name, value in cls._parts(given["uri"]).items():
            if fields.setdefault(name, value) != value:
                raise ValueError(f"uri: contradicts the field {name}; give one of the two")
        return fields

    @classmethod
    def _parts(cls, uri: Any) -> dict[str, Any]:
        """The fields that a URI stands for."""
        try:
            split = urlsplit(uri) if isinstance(uri, str) else None
            port = split.port if split else None
        except ValueError:
            split = port = None
        if split is None or split.scheme not in cls.uri_schemes or not split.hostname or split.fragment:
            raise cls._malformed() from None
        found: dict[str, Any] = {"host": unquote(split.hostname), **cls._more(split)}
        if port is not None:
            found["port"] = port
        if split.username:
            found["username"] = unquote(split.username)
        if split.password is not None:
            found["password"] = unquote(split.password)
        return found

    @classmethod
    def _more(cls, split: SplitResult) -> dict[str, Any]:
        """The fields that scheme, path and options of a URI stand for."""
        raise NotImplementedError

    @classmethod
    def _malformed(cls) -> ValueError:
        return ValueError(f"uri: must have the form {cls.uri_form}")
