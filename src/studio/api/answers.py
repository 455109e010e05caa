"""What the OpenAPI document says of answers: each record of the service once.

Objects are closed: a field that an answer has and this page has not turns a test red.
"""

from __future__ import annotations

from typing import Any

from studio.models import FAMILIES, Effect, Role

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}
ID: Schema = {"type": "string", "format": "uuid"}
TIME: Schema = {"type": "string", "format": "date-time"}


def maybe(schema: Schema) -> Schema:
    """Or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Schema) -> Schema:
    """A list of it."""
    return {"type": "array", "items": schema}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


def record(sometimes: Schema | None = None, /, **always: Schema) -> Schema:
    """An object of exactly these fields, and `sometimes` those."""
    return {
        "type": "object",
        "properties": {**always, **(sometimes or {})},
        "required": list(always),
        "additionalProperties": False,
    }


def extended(schema: Schema, sometimes: Schema | None = None, /, **always: Schema) -> Schema:
    """The same object with more fields."""
    optional = {name: one for name, one in schema["properties"].items() if name not in schema["required"]}
    required = {name: schema["properties"][name] for name in schema["required"]}
    return record({**optional, **(sometimes or {})}, **required, **always)


def either(*schemas: Schema) -> Schema:
    """One of these objects."""
    return {"anyOf": list(schemas)}


def done(**more: Schema) -> Schema:
    """What a change answers that leaves no record."""
    return record(message=TEXT, **more)


CONNECTOR_TYPE = one_of(*FAMILIES)
STATUS = one_of("active", "inactive", "error")
EFFECT = one_of(*Effect)

CONNECTOR = record(
    id=ID,
    organization_id=TEXT,
    name=TEXT,
    connector_type=CONNECTOR_TYPE,
    provider=TEXT,
    config=maybe(ANY_OBJECT),
    secrets_set=many(TEXT),
    status=STATUS,
    last_tested_at=maybe(TIME),
    last_test_result=maybe(TEXT),
    last_error=maybe(TEXT),
    created_by=TEXT,
    created_at=TIME,
    updated_at=TIME,
    version={"type": "integer", "minimum": 1},
    secret_set_at=maybe(TIME),
    secret_expires_at=maybe(TIME),
)
CONNECTORS = record(records=many(CONNECTOR), total=COUNT, next_cursor=maybe(ID))
DELETED = done(id=ID, detached=COUNT)

INSTANCE = record(
    id=ID,
    connector_id=ID,
    agent_id=TEXT,
    alias=TEXT,
    created_at=TIME,
    connector=record(id=ID, name=TEXT, connector_type=CONNECTOR_TYPE, provider=TEXT, status=STATUS),
    config=maybe(ANY_OBJECT),
    config_sources=ANY_OBJECT,
    saved_only=FLAG,
)
INSTANCES = record(records=many(INSTANCE), total=COUNT)

TESTED = record(
    {"code": TEXT, "retryable": FLAG},
    success=FLAG,
    message=TEXT,
    latency_ms=NUMBER,
    stages=many(record({"detail": TEXT, "fix": TEXT}, name=TEXT, ok=FLAG, ms=NUMBER)),
    privileges=maybe(ANY_OBJECT),
)
HEALTH = record(
    id=ID,
    status=STATUS,
    health=one_of("unknown", "healthy", "degraded", "error"),
    since=maybe(TIME),
    failures_in_a_row=COUNT,
    last_tested_at=maybe(TIME),
    last_test_result=maybe(TEXT),
    last_error=maybe(TEXT),
    interval_s=COUNT,
    next_probe_at=maybe(TIME),
    events=many(
        record({"code": TEXT, "stage": TEXT, "message": TEXT, "fix": TEXT}, id=ID, at=TIME, before=TEXT, after=TEXT)
    ),
)
ROTATED = extended(
    done(id=ID, version=COUNT),
    {"to_do": TEXT},
    generated=FLAG,
    secret_set_at=maybe(TIME),
    secret_expires_at=maybe(TIME),
    previous_until=maybe(TIME),
)

_USER = {"id": ID, "agent_id": TEXT, "alias": TEXT}
_USE = record(
    dry_run={"const": True},
    id=ID,
    name=TEXT,
    version=COUNT,
    instances=many(record(**_USER)),
    agents=many(TEXT),
    saved_operations=many(TEXT),
    running_operations=COUNT,
    last_7_days=record(operations=COUNT, agents=many(TEXT)),
)
DELETE_PREVIEW = extended(_USE, confirm=TEXT)
UPDATE_PREVIEW = extended(_USE, changes=many(TEXT), unfit=many(record(**_USER, fields=many(TEXT))), stops=FLAG)
ROTATE_PREVIEW = extended(
    _USE,
    secrets_set=many(TEXT),
    can_generate=FLAG,
    secret_set_at=maybe(TIME),
    secret_expires_at=maybe(TIME),
)

OPERATION = record(
    name=TEXT,
    description=TEXT,
    effect=one_of(*Effect, "by_arguments"),
    idempotent=FLAG,
    returns_rows=FLAG,
    parameters=ANY_OBJECT,
)
OPERATIONS = record(operations=many(OPERATION))
SAVED_OPERATION = record(
    id=ID,
    connector_id=ID,
    name=TEXT,
    description=TEXT,
    query=TEXT,
    parameters=ANY_OBJECT,
    bound=ANY_OBJECT,
    created_by=TEXT,
    created_at=TIME,
)
SAVED_OPERATIONS = record(records=many(SAVED_OPERATION), total=COUNT)

TYPES = record(types=ANY_OBJECT, available=many(TEXT), not_built_yet=many(TEXT))
TYPE = record(
    provider=TEXT,
    connector_type=CONNECTOR_TYPE,
    description=TEXT,
    config_schema=ANY_OBJECT,
    destination_fields=many(TEXT),
    overridable=ANY_OBJECT,
    operations=many(OPERATION),
)

KEY = record(
    id=ID,
    organization_id=TEXT,
    name=TEXT,
    prefix=TEXT,
    role=maybe(one_of(*Role)),
    agent_id=maybe(TEXT),
    aliases=maybe(many(TEXT)),
    effects=maybe(many(EFFECT)),
    created_by=TEXT,
    created_at=TIME,
    expires_at=maybe(TIME),
    last_used_at=maybe(TIME),
    revoked_at=maybe(TIME),
)
KEYS = record(records=many(KEY))
NEW_KEY = extended(KEY, key=TEXT)

VERDICTS = ("ok", "started", "refused", "failed", "cancelled")
AUDIT_ENTRY = record(
    organization_id=TEXT,
    seq=COUNT,
    at=TIME,
    event=TEXT,
    subject=TEXT,
    verdict=one_of(*VERDICTS),
    code=maybe(TEXT),
    agent_id=maybe(TEXT),
    alias=maybe(TEXT),
    connector_id=maybe(TEXT),
    target=maybe(TEXT),
    operation=maybe(TEXT),
    effect=maybe(EFFECT),
    digest=maybe(TEXT),
    rows=maybe(COUNT),
    bytes=maybe(COUNT),
    latency_ms=maybe(NUMBER),
    count=COUNT,
    request_id=TEXT,
    writer=maybe(TEXT),
    details=maybe(ANY_OBJECT),
    hash=TEXT,
)
AUDIT = record(records=many(AUDIT_ENTRY), next_cursor=maybe({"type": "string", "pattern": "^[0-9]{1,18}$"}))
AUDIT_REPORT = record(
    organization_id=TEXT,
    ok=FLAG,
    rows=COUNT,
    first=COUNT,
    head=maybe(TEXT),
    problems=many(record(seq=maybe(COUNT), what=TEXT)),
    unfinished=many(ANY_OBJECT),
    processes=many(ANY_OBJECT),
)

ALERTS_TESTED = record(success=FLAG, channels=many(record(channel=TEXT, success=FLAG, message=TEXT)))
LIVE = record(status={"const": "ok"})
READY = record(status={"const": "ready"})
NOT_READY = record(status={"const": "not ready"})
PROTECTED_RESOURCE = record(
    {"scopes_supported": many(TEXT)},
    resource=TEXT,
    authorization_servers=many(TEXT),
    bearer_methods_supported=many(TEXT),
    resource_name=TEXT,
)

RESULT = record(
    success={"const": True},
    data={},
    row_count=COUNT,
    columns=many(record(name=TEXT, type=TEXT)),
    truncated={"type": "boolean", "description": "Exact: more rows were there, past the caps."},
    next_cursor=maybe(TEXT),
    execution_time_ms=NUMBER,
)
PROBLEM = record(
    {"request_id": TEXT, "errors": many(record(field=TEXT, message=TEXT))},
    type=TEXT,
    title=TEXT,
    status={"type": "integer", "minimum": 400, "maximum": 599},
    detail=TEXT,
    code=TEXT,
    retryable=FLAG,
)
