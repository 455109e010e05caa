"""Routes of API keys."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from studio.api import answers
from studio.api.auth import Caller, JsonBody
from studio.api.schemas import PROBLEMS, Id, gives, takes
from studio.api.wire import answer
from studio.services.inputs import NarrowKey, NewKey

router = APIRouter(prefix="/api/v1/keys", tags=["keys"], responses=PROBLEMS)


@router.post(
    "", status_code=201, summary="Make an API key", openapi_extra=takes(NewKey), responses=gives(answers.NEW_KEY, 201)
)
async def create_key(caller: Caller, body: JsonBody) -> Response:
    """`key` in the answer is shown this once."""
    return answer(await caller.create_key(body), 201)


@router.get("", summary="List API keys", responses=gives(answers.KEYS))
async def list_keys(caller: Caller) -> Response:
    """Every key of the organization, without hashes."""
    return answer({"records": await caller.list_keys()})


@router.put("/{key_id}", summary="Narrow an API key", openapi_extra=takes(NarrowKey), responses=gives(answers.KEY))
async def narrow_key(caller: Caller, key_id: Id, body: JsonBody) -> Response:
    """Running operations that the key allows no longer end."""
    return answer(await caller.narrow_key(key_id, body))


@router.delete("/{key_id}", summary="Revoke an API key", responses=gives(answers.done(id=answers.ID)))
async def revoke_key(caller: Caller, key_id: Id) -> Response:
    """Calls that begin after the answer are refused."""
    return answer(await caller.revoke_key(key_id))
