"""Health, version and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app import __version__
from app.api.errors import unavailable
from app.service import InferenceService

router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 as long as this process answers at all."""
    return {"status": "alive"}


@router.get("/health/ready")
@router.get("/health")
async def ready(request: Request) -> Response:
    """200 when requests are taken; else 503 in the error shape, with the reason and how far loading is."""
    service: InferenceService = request.app.state.service
    readiness = service.readiness
    if not readiness.ready:
        percent = (
            f" ({readiness.progress:.0%} loaded)" if not readiness.failed and readiness.progress < 1 else ""
        )
        return unavailable(f"Not ready: {readiness.reason}{percent}").response()
    body: dict[str, Any] = {"status": "ready", "model": service.model_id}
    if readiness.reason:
        body["degraded"] = readiness.reason
    return JSONResponse(body)


@router.get("/version")
async def version(request: Request) -> dict[str, str | None]:
    """The server's version and the engine's name."""
    service: InferenceService = request.app.state.service
    return {"version": __version__, "engine": service.settings.engine}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    service: InferenceService = request.app.state.service
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
