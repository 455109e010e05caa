"""Routes beside the API: health, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from studio.api.wire import answer
from studio.services import metrics

router = APIRouter(tags=["system"])


@router.get("/healthz", summary="The process lives")
async def healthz() -> Response:
    """Touches nothing outside the process."""
    return answer({"status": "ok"})


@router.get("/readyz", summary="Requests are served")
async def readyz(request: Request) -> Response:
    """200 when the store answers, else 503."""
    try:
        await request.app.state.service.ready()
    except Exception:
        # Whatever it is, the one thing to say here is: not ready. The cause is in the log of the call that met it.
        return answer({"status": "not ready"}, 503)
    return answer({"status": "ready"})


@router.get("/metrics", summary="Prometheus metrics")
async def show_metrics() -> Response:
    """Text format 0.0.4. Labels hold kinds, operations and codes, never names, hosts or values."""
    return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)
