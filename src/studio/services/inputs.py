"""What callers send: validated bodies of the management calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.json_schema import SkipJsonSchema

from studio.contract import Text
from studio.contract.config import field_errors
from studio.errors import BadRequest, InvalidRequest
from studio.models import AGENT_ID, Effect, Role
from studio.providers import kinds

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Whether a text has the form of our ids; anything else names nothing and need not reach the store."""
    return _ID.fullmatch(text) is not None


def named(text: str | None) -> str | None:
    """An agent's id or an alias, if it has the form of one."""
    return text if text is not None and AGENT_ID.fullmatch(text) else None


Identifier = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$", description="1 to 128 of letters, digits and _ . : -")
]
"""An agent's or organization's own id."""


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


Name = Annotated[
    Text,
    Field(min_length=1, json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"}),
    AfterValidator(_not_blank),
]
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="1 to 128 of letters, digits and _ . -")]


def timestamp(value: str) -> str:
    """Bring an ISO 8601 time to the store's fixed width, in UTC."""
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be an ISO 8601 time, such as 2027-01-31T00:00:00Z") from None
    try:
        return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Takes an integer as JSON has it: `5.0` is one (JSON Schema, section 6.1.1)."""
Time = Annotated[str, AfterValidator(timestamp), Field(json_schema_extra={"format": "date-time"})]


class Body(BaseModel):
    """Base of every body: strict types, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Validate. Raises InvalidRequest naming each wrong field."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as exc:
            fields = field_errors(exc, "")
            said = "; ".join(f"{error.field}: {error.message}" for error in fields)
            raise InvalidRequest(said, fields=fields) from None


def _of_one_type(schema: dict[str, Any]) -> None:
    """Say in a body's schema which providers each type has."""
    schema["oneOf"] = [
        {"properties": {"connector_type": {"const": family}, "provider": {"enum": list(names)}}}
        for family, names in kinds().items()
    ]


class NewConnector(Body):
    """A connector to register. `config` is checked against the provider's own schema."""

    model_config = ConfigDict(json_schema_extra=_of_one_type)
    name: Name
    connector_type: Literal["database", "api", "storage", "messaging"]
    provider: Annotated[str, Field(max_length=64)]
    config: dict[str, Any] = Field(description="The provider's config: see GET /connectors/types/{provider}.")


class OwnedConnector(NewConnector):
    """The in-process form, in which the caller says for whom."""

    organization_id: Identifier
    created_by: Annotated[Name, Field(max_length=128)] = "in-process"


class NewTest(Body):
    """A config to try without saving it."""

    model_config = ConfigDict(json_schema_extra=_of_one_type)
    connector_type: Literal["database", "api", "storage", "messaging"]
    provider: Annotated[str, Field(max_length=64)]
    config: dict[str, Any]


class OwnedTest(NewTest):
    """The in-process form, in which the caller may say for whom."""

    organization_id: Identifier | None = None


class ConnectorChange(Body):
    """What to change. `config` is merged (RFC 7396): a key is replaced, `null` removes it, the rest stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["name"], "properties": {"name": {"type": "string"}}},
                {"required": ["status"], "properties": {"status": {"type": "string"}}},
                {"required": ["config"], "properties": {"config": {"type": "object", "minProperties": 1}}},
            ]
        }
    )
    name: Name | None = None
    status: Literal["active", "inactive"] | None = None
    config: dict[str, Any] | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """See `Body.parse`. Raises BadRequest where nothing is named."""
        change = super().parse(raw)
        if change.name is None and change.status is None and not change.config:
            raise BadRequest("the update names nothing: give name, status or config")
        return change

    def names(self) -> list[str]:
        """The fields that it names, without their values."""
        given = [name for name in ("name", "status") if getattr(self, name) is not None]
        return [*given, *(f"config.{name}" for name in self.config or ())]


class Listing(Body):
    """How a list of connectors is narrowed and paged."""

    connector_type: Annotated[str, Field(max_length=64)] | None = None
    provider: Text | None = None
    status: Literal["active", "inactive", "error"] | None = None
    q: Text | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(pattern=_ID.pattern)] | None = None
    offset: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0

    @field_validator("connector_type")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in kinds():
            raise ValueError(f"must be one of {', '.join(kinds())}")
        return value


class NewAttachment(Body):
    """An agent, the alias it will use, and what this attachment narrows."""

    agent_id: Identifier
    alias: Alias
    config_override: dict[str, Any] | None = None
    saved_only: bool = Field(False, description="Only the connector's saved operations may be run through it.")


class NewKey(Body):
    """An API key to make: a person's or a service's with `role`, or an agent's with `agent_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["role"],
                    "properties": {
                        "role": {"type": "string"},
                        "aliases": {"type": "null"},
                        "effects": {"type": "null"},
                    },
                },
                {"required": ["agent_id"], "properties": {"agent_id": {"type": "string"}}},
            ]
        }
    )

    name: Name = "key"
    role: Role | None = Field(None, strict=False)
    agent_id: Identifier | None = None
    aliases: list[Alias] | None = Field(None, min_length=1, max_length=100)
    effects: list[Annotated[Effect, Field(strict=False)]] | None = Field(None, min_length=1, max_length=len(Effect))
    expires_at: Time | None = None
    organization_id: SkipJsonSchema[Identifier | None] = None
    """In process, whose key it is; a remote caller's are of its own organization."""


class NarrowKey(Body):
    """What a key may no longer do: each field must lie within what it has now."""

    role: Role | None = Field(None, strict=False)
    aliases: list[Alias] | None = Field(None, min_length=1, max_length=100)
    effects: list[Annotated[Effect, Field(strict=False)]] | None = Field(None, min_length=1, max_length=len(Effect))
    expires_at: Time | None = None


class NewQuery(Body):
    """A statement in the provider's own language, and its parameters."""

    query: Annotated[str, Field(min_length=1, max_length=100_000)]
    params: dict[str, Any] | None = None


def agent_id_of(text: str) -> str:
    """An agent's id as given in a path or an argument. Raises InvalidRequest."""
    if not AGENT_ID.fullmatch(text):
        raise InvalidRequest.at("agent_id", "must be 1 to 128 of letters, digits and _ . : -")
    return text
