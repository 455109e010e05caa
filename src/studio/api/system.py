"""Routes beside the API: health, readiness, metrics, and the API's own description.

Only health and readiness answer everybody. The description is the same for every installation, and a
browser sends no key, so on a loopback address it is open too.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse, Response

from studio.api import answers
from studio.api.auth import Caller
from studio.api.pages import page
from studio.api.schemas import PROBLEMS, gives
from studio.api.wire import answer
from studio.services import metrics

router = APIRouter(tags=["system"], responses=PROBLEMS)


@router.get("/healthz", summary="The process lives", responses=gives(answers.LIVE))
async def healthz() -> Response:
    """Touches nothing outside the process."""
    return answer({"status": "ok"})


@router.get(
    "/readyz", summary="Requests are served", responses={**gives(answers.READY), **gives(answers.NOT_READY, 503)}
)
async def readyz(request: Request) -> Response:
    """200 when the store answers, else 503."""
    try:
        await request.app.state.service.ready()
    except Exception:
        # Whatever it is, the one thing to say here is: not ready. The cause is in the log of the call that met it.
        return answer({"status": "not ready"}, 503)
    return answer({"status": "ready"})


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def show_metrics(caller: Caller) -> Response:
    """Text format 0.0.4. Labels hold kinds, operations and codes, never names, hosts or values."""
    return Response(await caller.metrics(), media_type=metrics.CONTENT_TYPE)


async def _reader(request: Request) -> None:
    if not request.app.state.settings.listens_on_loopback:
        await request.app.state.door.caller(request.scope, dict(request.headers.raw))


Read = Annotated[None, Depends(_reader)]
OPENAPI = "/api/v1/openapi.json"


@router.get(OPENAPI, include_in_schema=False)
async def show_openapi(request: Request, _read: Read) -> Response:
    """The OpenAPI 3.1 document."""
    return answer(request.app.openapi())


@router.get("/docs", include_in_schema=False)
async def show_docs(request: Request, _read: Read) -> Response:
    """The document as a page."""
    return page(OPENAPI, request.app.title)
