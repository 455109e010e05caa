"""Routes of alerts."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from studio.api import answers
from studio.api.auth import Caller
from studio.api.schemas import PROBLEMS, gives
from studio.api.wire import answer

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"], responses=PROBLEMS)


@router.post("/test", summary="Send a test alert on every channel", responses=gives(answers.ALERTS_TESTED))
async def test_alerts(caller: Caller) -> Response:
    """200 also where a channel fails: see `channels`."""
    return answer(await caller.test_alerts())
