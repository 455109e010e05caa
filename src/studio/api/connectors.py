"""Routes of connectors: parse, call, shape."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from studio.api.auth import Caller, JsonBody
from studio.api.schemas import PROBLEMS, takes
from studio.api.wire import answer
from studio.errors import BadRequest
from studio.services.health import Schedule
from studio.services.inputs import ConnectorChange, NewAttachment, NewConnector, NewTest
from studio.services.rotating import NewSecrets
from studio.services.saved_operations import NewSavedOperation

router = APIRouter(prefix="/api/v1/connectors", tags=["connectors"], responses=PROBLEMS)
_ETAG = re.compile(r'"v(\d{1,9})"')


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


@router.get("/types", summary="List the connector types and their providers")
async def list_types(caller: Caller) -> Response:
    """All sixteen kinds, and which of them this version can use."""
    return answer(await caller.types())


@router.get("/types/{provider}", summary="Describe one provider")
async def describe_type(caller: Caller, provider: str) -> Response:
    """Config schema, operations, and what an attachment may override."""
    return answer(await caller.describe_type(provider))


@router.post("", status_code=201, summary="Create a connector", openapi_extra=takes(NewConnector))
async def create_connector(caller: Caller, body: JsonBody, test: bool = False) -> Response:
    """With `?test=true` it is tested first, and saved only if that passes."""
    return _tagged(await caller.create(body, test=test), 201)


@router.post("/test", summary="Test a config without saving it", openapi_extra=takes(NewTest))
async def test_config(caller: Caller, body: JsonBody) -> Response:
    """200 also where the test fails: see `success` and `stages`."""
    return answer(await caller.test_config(body))


@router.get("", summary="List connectors")
async def list_connectors(
    caller: Caller,
    connector_type: str | None = None,
    provider: str | None = None,
    status: Literal["active", "inactive", "error"] | None = None,
    q: Annotated[str | None, Query(description="Part of the name, any case.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
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


@router.get("/{connector_id}", summary="Get a connector")
async def get_connector(caller: Caller, connector_id: str) -> Response:
    """Non-secret config in force, and the names of the secrets that are set."""
    return _tagged(await caller.get(connector_id))


@router.put("/{connector_id}", summary="Update a connector", openapi_extra=takes(ConnectorChange))
async def update_connector(
    caller: Caller,
    connector_id: str,
    body: JsonBody,
    test: bool = False,
    dry_run: bool = False,
    if_match: Annotated[str | None, Header(description="The ETag that was read.")] = None,
) -> Response:
    """Merges: what the body does not name stays. With `?dry_run=true`: what it would change, and whom."""
    if dry_run:
        return answer(await caller.preview_update(connector_id, body))
    return _tagged(await caller.update(connector_id, body, version=_version_of(if_match), test=test))


@router.delete("/{connector_id}", summary="Delete a connector and its attachments")
async def delete_connector(
    caller: Caller,
    connector_id: str,
    dry_run: bool = False,
    confirm: Annotated[str | None, Query(description="`confirm` of the dry run, where that is asked for.")] = None,
) -> Response:
    """With `?dry_run=true`: what would break."""
    if dry_run:
        return answer(await caller.preview_delete(connector_id))
    return answer(await caller.delete(connector_id, confirm=confirm))


@router.post("/{connector_id}/rotate", summary="Rotate a connector's credentials", openapi_extra=takes(NewSecrets))
async def rotate_connector(caller: Caller, connector_id: str, body: JsonBody, dry_run: bool = False) -> Response:
    """The new secrets are tried first; the old ones are kept for `grace_s` to fall back on."""
    if dry_run:
        return answer(await caller.preview_rotate(connector_id, body))
    return answer(await caller.rotate(connector_id, body))


@router.post("/{connector_id}/test", summary="Test a connector")
async def test_connector(caller: Caller, connector_id: str) -> Response:
    """200 also where the test fails: see `success`, `stages` and `privileges`."""
    return answer(await caller.test_connection(connector_id))


@router.get("/{connector_id}/health", summary="How a connector is, and how it was")
async def connector_health(caller: Caller, connector_id: str) -> Response:
    """State, since when, the next probe, and every change, the newest first."""
    return answer(await caller.health(connector_id))


@router.put("/{connector_id}/health", summary="Choose how often a connector is probed", openapi_extra=takes(Schedule))
async def schedule_health(caller: Caller, connector_id: str, body: JsonBody) -> Response:
    """The next probe is due at once."""
    return answer(await caller.set_health(connector_id, body))


@router.post(
    "/{connector_id}/attach", status_code=201, summary="Attach to an agent", openapi_extra=takes(NewAttachment)
)
async def attach_connector(caller: Caller, connector_id: str, body: JsonBody) -> Response:
    """The override may only narrow."""
    return answer(await caller.attach(connector_id, body), 201)


@router.get("/{connector_id}/instances", summary="Who uses a connector")
async def list_instances(caller: Caller, connector_id: str) -> Response:
    """Its attachments, in the order of attaching."""
    return answer(await caller.list_instances(connector_id))


@router.get("/{connector_id}/operations", summary="List what a connector can do")
async def list_operations(caller: Caller, connector_id: str) -> Response:
    """The operations that this caller may run there, with their schemas."""
    return answer({"operations": await caller.operations(connector_id=connector_id)})


@router.post(
    "/{connector_id}/saved-operations",
    status_code=201,
    summary="Save a statement as an operation",
    openapi_extra=takes(NewSavedOperation),
)
async def save_operation(caller: Caller, connector_id: str, body: JsonBody) -> Response:
    """It then is one of the connector's operations, for every attachment of it."""
    return answer(await caller.create_saved_operation(connector_id, body), 201)


@router.get("/{connector_id}/saved-operations", summary="List a connector's saved operations")
async def list_saved_operations(caller: Caller, connector_id: str) -> Response:
    """With their statements, and what the platform binds."""
    records = await caller.list_saved_operations(connector_id)
    return answer({"records": records, "total": len(records)})


@router.delete("/{connector_id}/saved-operations/{name}", summary="Delete a saved operation")
async def delete_saved_operation(caller: Caller, connector_id: str, name: str) -> Response:
    """Calls that begin after the answer do not find it."""
    return answer(await caller.delete_saved_operation(connector_id, name))


@router.delete("/instances/{instance_id}", summary="Detach from an agent")
async def detach_connector(caller: Caller, instance_id: str) -> Response:
    """Operations that begin after the answer are refused."""
    return answer(await caller.detach_from_agent(instance_id))
