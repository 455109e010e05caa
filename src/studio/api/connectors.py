"""Routes of connectors: parse, call, shape."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from studio.api import answers
from studio.api.auth import Caller, JsonBody
from studio.api.schemas import PROBLEMS, Id, Words, gives, takes
from studio.api.wire import answer
from studio.errors import BadRequest
from studio.models import FAMILIES
from studio.services.health import Schedule
from studio.services.inputs import ConnectorChange, NewAttachment, NewConnector, NewTest
from studio.services.rotating import NewSecrets
from studio.services.saved_operations import NewSavedOperation

router = APIRouter(prefix="/api/v1/connectors", tags=["connectors"], responses=PROBLEMS)
_ETAG = re.compile(r'"v(\d{1,9})"')
_IF_MATCH = r'^("v[0-9]{1,9}"|\*)$'


class _ConnectorId(StringConvertor):
    """A place in a path that is not one of the fixed words there: those have methods of their own."""

    regex = "(?!(?:types|test|instances)$)[^/]+"


register_url_convertor("connector_id", _ConnectorId())


def _tagged(connector: dict[str, Any], status: int = 200) -> Response:
    return answer(connector, status, {"etag": f'"v{connector["version"]}"'})


def _version_of(if_match: str | None) -> int | None:
    """The version that an `If-Match` header names; None where any will do. Raises BadRequest."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if not found:
        raise BadRequest.at("If-Match", "must be an ETag that this service gave")
    return int(found[1])


@router.get("/types", summary="List the connector types and their providers", responses=gives(answers.TYPES))
async def list_types(caller: Caller) -> Response:
    """All sixteen kinds, and which of them this version can use."""
    return answer(await caller.types())


@router.get("/types/{provider}", summary="Describe one provider", responses=gives(answers.TYPE))
async def describe_type(caller: Caller, provider: str) -> Response:
    """Config schema, operations, and what an attachment may override."""
    return answer(await caller.describe_type(provider))


@router.post(
    "",
    status_code=201,
    summary="Create a connector",
    openapi_extra=takes(NewConnector),
    responses=gives(answers.CONNECTOR, 201),
)
async def create_connector(caller: Caller, body: JsonBody, test: bool = False) -> Response:
    """With `?test=true` it is tested first, and saved only if that passes."""
    return _tagged(await caller.create(body, test=test), 201)


@router.post(
    "/test", summary="Test a config without saving it", openapi_extra=takes(NewTest), responses=gives(answers.TESTED)
)
async def test_config(caller: Caller, body: JsonBody) -> Response:
    """200 also where the test fails: see `success` and `stages`."""
    return answer(await caller.test_config(body))


@router.get("", summary="List connectors", responses=gives(answers.CONNECTORS))
async def list_connectors(
    caller: Caller,
    connector_type: Annotated[str | None, Query(json_schema_extra={"enum": list(FAMILIES)})] = None,
    provider: Words | None = None,
    status: Literal["active", "inactive", "error"] | None = None,
    q: Annotated[Words | None, Query(description="Part of the name, any case.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before.", json_schema_extra={"format": "uuid"})
    ] = None,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
) -> Response:
    """Oldest first."""
    page = await caller.list(
        connector_type=connector_type,
        provider=provider,
        status=status,
        q=q,
        limit=limit,
        cursor=cursor,
        offset=offset,
    )
    return answer(page)


@router.get("/{connector_id:connector_id}", summary="Get a connector", responses=gives(answers.CONNECTOR))
async def get_connector(caller: Caller, connector_id: Id) -> Response:
    """Non-secret config in force, and the names of the secrets that are set."""
    return _tagged(await caller.get(connector_id))


@router.put(
    "/{connector_id:connector_id}",
    summary="Update a connector",
    openapi_extra=takes(ConnectorChange),
    responses=gives(answers.either(answers.CONNECTOR, answers.UPDATE_PREVIEW)),
)
async def update_connector(
    caller: Caller,
    connector_id: Id,
    body: JsonBody,
    test: bool = False,
    dry_run: bool = False,
    if_match: Annotated[
        str | None, Header(description="The ETag that was read.", json_schema_extra={"pattern": _IF_MATCH})
    ] = None,
) -> Response:
    """Merges: what the body does not name stays. With `?dry_run=true`: what it would change, and whom."""
    if dry_run:
        return answer(await caller.preview_update(connector_id, body))
    return _tagged(await caller.update(connector_id, body, version=_version_of(if_match), test=test))


@router.delete(
    "/{connector_id:connector_id}",
    summary="Delete a connector and its attachments",
    responses=gives(answers.either(answers.DELETED, answers.DELETE_PREVIEW)),
)
async def delete_connector(
    caller: Caller,
    connector_id: Id,
    dry_run: bool = False,
    confirm: Annotated[str | None, Query(description="`confirm` of the dry run, where that is asked for.")] = None,
) -> Response:
    """With `?dry_run=true`: what would break."""
    if dry_run:
        return answer(await caller.preview_delete(connector_id))
    return answer(await caller.delete(connector_id, confirm=confirm))


@router.post(
    "/{connector_id}/rotate",
    summary="Rotate a connector's credentials",
    openapi_extra=takes(NewSecrets),
    responses=gives(answers.either(answers.ROTATED, answers.ROTATE_PREVIEW)),
)
async def rotate_connector(caller: Caller, connector_id: Id, body: JsonBody, dry_run: bool = False) -> Response:
    """The new secrets are tried first; the old ones are kept for `grace_s` to fall back on."""
    if dry_run:
        return answer(await caller.preview_rotate(connector_id, body))
    return answer(await caller.rotate(connector_id, body))


@router.post("/{connector_id}/test", summary="Test a connector", responses=gives(answers.TESTED))
async def test_connector(caller: Caller, connector_id: Id) -> Response:
    """200 also where the test fails: see `success`, `stages` and `privileges`."""
    return answer(await caller.test_connection(connector_id))


@router.get("/{connector_id}/health", summary="How a connector is, and how it was", responses=gives(answers.HEALTH))
async def connector_health(caller: Caller, connector_id: Id) -> Response:
    """State, since when, the next probe, and every change, the newest first."""
    return answer(await caller.health(connector_id))


@router.put(
    "/{connector_id}/health",
    summary="Choose how often a connector is probed",
    openapi_extra=takes(Schedule),
    responses=gives(answers.HEALTH),
)
async def schedule_health(caller: Caller, connector_id: Id, body: JsonBody) -> Response:
    """The next probe is due at once."""
    return answer(await caller.set_health(connector_id, body))


@router.post(
    "/{connector_id}/attach",
    status_code=201,
    summary="Attach to an agent",
    openapi_extra=takes(NewAttachment),
    responses=gives(answers.INSTANCE, 201),
)
async def attach_connector(caller: Caller, connector_id: Id, body: JsonBody) -> Response:
    """The override may only narrow."""
    return answer(await caller.attach(connector_id, body), 201)


@router.get("/{connector_id}/instances", summary="Who uses a connector", responses=gives(answers.INSTANCES))
async def list_instances(caller: Caller, connector_id: Id) -> Response:
    """Its attachments, in the order of attaching."""
    return answer(await caller.list_instances(connector_id))


@router.get("/{connector_id}/operations", summary="List what a connector can do", responses=gives(answers.OPERATIONS))
async def list_operations(caller: Caller, connector_id: Id) -> Response:
    """The operations that this caller may run there, with their schemas."""
    return answer({"operations": await caller.operations(connector_id=connector_id)})


@router.post(
    "/{connector_id}/saved-operations",
    status_code=201,
    summary="Save a statement as an operation",
    openapi_extra=takes(NewSavedOperation),
    responses=gives(answers.SAVED_OPERATION, 201),
)
async def save_operation(caller: Caller, connector_id: Id, body: JsonBody) -> Response:
    """It then is one of the connector's operations, for every attachment of it."""
    return answer(await caller.create_saved_operation(connector_id, body), 201)


@router.get(
    "/{connector_id}/saved-operations",
    summary="List a connector's saved operations",
    responses=gives(answers.SAVED_OPERATIONS),
)
async def list_saved_operations(caller: Caller, connector_id: Id) -> Response:
    """With their statements, and what the platform binds."""
    records = await caller.list_saved_operations(connector_id)
    return answer({"records": records, "total": len(records)})


@router.delete(
    "/{connector_id}/saved-operations/{name}",
    summary="Delete a saved operation",
    responses=gives(answers.done(name=answers.TEXT)),
)
async def delete_saved_operation(caller: Caller, connector_id: Id, name: str) -> Response:
    """Calls that begin after the answer do not find it."""
    return answer(await caller.delete_saved_operation(connector_id, name))


@router.delete("/instances/{instance_id}", summary="Detach from an agent", responses=gives(answers.done(id=answers.ID)))
async def detach_connector(caller: Caller, instance_id: Id) -> Response:
    """Operations that begin after the answer are refused."""
    return answer(await caller.detach_from_agent(instance_id))
