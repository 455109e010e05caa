"""What crosses layers: roles, effects, the principal, the two records, and results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, NotRequired, TypedDict

import uuid_utils

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "database": ("postgresql", "mysql", "mongodb", "redis", "sqlite"),
    "api": ("rest", "graphql", "soap"),
    "storage": ("s3", "gcs", "azure_blob", "minio"),
    "messaging": ("kafka", "rabbitmq", "sqs", "redis_pubsub"),
}
"""`connector_type` to provider kinds, in the order of `connector-management.md`."""

AGENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
"""An agent's or an organization's own id."""


class Role(StrEnum):
    """What a person or a service may do in its organization; each includes the ones before it."""

    MEMBER = "member"
    DEVELOPER = "developer"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role is `other` or stands above it."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Effect(StrEnum):
    """What an operation does to the upstream."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """Who asks.

    `organization_id` None is the trusted in-process caller, who may reach every organization.
    `agent_id` set is an agent key: it may only use its own attachments, `role` does not count,
    and `aliases` and `effects`, where set, limit it further.
    `scope_prefix` set is a token whose scopes gave it its `effects`: prefix and effect make a scope's name.
    """

    organization_id: str | None
    subject: str
    role: Role
    agent_id: str | None = None
    aliases: frozenset[str] | None = None
    effects: frozenset[Effect] | None = None
    scope_prefix: str | None = None


IN_PROCESS = Principal(organization_id=None, subject="in-process", role=Role.ADMIN)
"""The program that imports this package. No remote surface ever holds it."""


@dataclass(frozen=True)
class Sealed:
    """A Fernet token and the id of the master key that made it."""

    token: str = field(repr=False)
    key_id: str


@dataclass(frozen=True)
class Connector:
    """A registered external system: the fields of `connector-management.md`, then our own two.

    `version` counts changes of name, status or config (it is the ETag and the pool's generation);
    `key_id` names the master key that sealed `config_encrypted`. `secret_set_at` is when a secret of it
    was last given, None where it has none; `secret_expires_at` is when somebody said it ends.
    """

    id: str
    organization_id: str
    name: str
    connector_type: str
    provider: str
    config_encrypted: str = field(repr=False)
    status: str
    last_tested_at: str | None
    last_test_result: str | None
    last_error: str | None
    created_by: str
    created_at: str
    updated_at: str
    version: int
    key_id: str
    secret_set_at: str | None = None
    secret_expires_at: str | None = None


@dataclass(frozen=True)
class ConnectorInstance:
    """A connector attached to an agent under an alias; `config_override` is sealed like a config.

    With `saved_only` nothing but the connector's saved operations can be run through it.
    """

    id: str
    connector_id: str
    agent_id: str
    alias: str
    config_override: str | None = field(repr=False)
    created_at: str
    organization_id: str
    key_id: str | None
    saved_only: bool = False


@dataclass(frozen=True)
class SavedOperation:
    """A statement that somebody stored on a connector under a name.

    `parameters` and `bound` are JSON objects as text: what a caller gives, and what the platform
    fills in itself. Neither is secret.
    """

    id: str
    connector_id: str
    name: str
    description: str
    query: str
    parameters: str
    bound: str
    created_by: str
    created_at: str
    organization_id: str


@dataclass(frozen=True)
class ApiKey:
    """A stored API key; the key itself is shown once and only its SHA-256 is kept."""

    id: str
    organization_id: str
    prefix: str
    digest: str = field(repr=False)
    name: str
    role: str | None
    agent_id: str | None
    aliases: str | None
    effects: str | None
    created_by: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class Column(TypedDict):
    """A column of a result. `type` is the upstream's own type name."""

    name: str
    type: str


class ResultDict(TypedDict):
    """The public form of a result (`contract.md`, Result)."""

    success: bool
    data: Any
    row_count: int
    columns: list[Column]
    truncated: bool
    next_cursor: str | None
    execution_time_ms: float
    message: NotRequired[str]


@dataclass(slots=True)
class Result:
    """What one operation answered.

    Either `rows` (tuples in the order of `columns`) or `data` (any JSON value) is set.
    `row_count` counts rows read or rows affected. `truncated` is exact. `bytes` counts the rows' values,
    where they were counted.
    """

    columns: list[Column] = field(default_factory=list)
    rows: list[tuple[Any, ...]] | None = None
    data: Any = None
    row_count: int = 0
    truncated: bool = False
    next_cursor: str | None = None
    execution_time_ms: float = 0.0
    bytes: int | None = None

    def to_dict(self) -> ResultDict:
        """The public form: rows become objects keyed by column name."""
        data = self.data
        if self.rows is not None:
            names = [column["name"] for column in self.columns]
            data = as_objects(names, self.rows)
        return {
            "success": True,
            "data": data,
            "row_count": self.row_count,
            "columns": self.columns,
            "truncated": self.truncated,
            "next_cursor": self.next_cursor,
            "execution_time_ms": round(self.execution_time_ms, 3),
        }


def as_objects(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Rows as objects keyed by column name. Raises ValueError where a row has more or fewer values than that."""
    return _maker(len(names))(names, rows) if names else [{} for _ in rows]


@lru_cache(maxsize=256)
def _maker(count: int) -> Callable[..., Any]:
    """Makes objects as a literal does, twice as quick as dict and zip; the text hangs on the count alone."""
    keys, values = (", ".join(f"{kind}{at}" for at in range(count)) for kind in "kv")
    pairs = ", ".join(f"k{at}: v{at}" for at in range(count))
    return eval(f"lambda names, rows: (lambda {keys}: [{{{pairs}}} for [{values}] in rows])(*names)")  # type: ignore[no-any-return]  # noqa: S307


def new_id() -> str:
    """A UUIDv7 as text: sortable by the time it was made (RFC 9562)."""
    return str(uuid_utils.uuid7())


def now(in_s: float = 0) -> str:
    """The time, or that in `in_s` seconds, as fixed-width ISO 8601 in UTC, so that text order is time order."""
    time = datetime.now(UTC) + timedelta(seconds=in_s) if in_s else datetime.now(UTC)
    return time.isoformat(timespec="microseconds")[:26] + "Z"


current_request: ContextVar[str] = ContextVar("current_request")
"""The id of the request that is being answered, where a surface has given it one."""


def request_id() -> str:
    """The id of the present request; a new one where there is no request."""
    return current_request.get(None) or new_id()


@dataclass(slots=True)
class AuditEntry:
    """What one row of the audit log says. Ids, names of fields, counts and codes: never a value or a secret.

    `verdict` is ok, started (an effect that is about to be sent), refused (nothing was sent), failed or
    cancelled. `target` is the id of what changed. `digest` tells equal statements apart from others,
    `micros` is the latency, `count` how many equal refusals the row stands for.
    """

    organization_id: str
    event: str
    subject: str
    verdict: str = "ok"
    code: str | None = None
    agent_id: str | None = None
    alias: str | None = None
    connector_id: str | None = None
    target: str | None = None
    operation: str | None = None
    effect: str | None = None
    digest: str | None = None
    rows: int | None = None
    bytes: int | None = None
    micros: int | None = None
    count: int = 1
    request_id: str = field(default_factory=request_id)
    writer: str | None = None
    details: str | None = None
    at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        """What comes from outside has a form that every store takes: one row that did not would hold up all others."""
        self.subject = _storable(self.subject, 255)
        if self.operation is not None:
            self.operation = _storable(self.operation, 128)


def _storable(text: str, most: int) -> str:
    if len(text) <= most and text.isascii() and text.isprintable():
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "?")[:most]
