"""Health, version and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from trtllm_openai import __version__
from trtllm_openai.api.errors import unavailable
from trtllm_openai.serve.state import InferenceService, Readiness

router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 as long as this process answers at all."""
    return {"status": "alive"}


@router.get("/health/startup")
async def startup(request: Request) -> Response:
    """200 once the model was loaded, whatever happens then; before that, 503 as /health/ready."""
    service: InferenceService = request.app.state.service
    if not service.loaded:
        return _not_ready(service.readiness)
    return JSONResponse({"status": "started"})


@router.get("/health/ready")
@router.get("/health")
async def ready(request: Request) -> Response:
    """200 when requests are taken; else 503 in the error shape, with the reason and how far loading is."""
    service: InferenceService = request.app.state.service
    readiness = service.readiness
    if not readiness.ready:
        return _not_ready(readiness)
    body: dict[str, Any] = {"status": "ready", "model": service.model_id}
    if readiness.reason:
        body["degraded"] = readiness.reason
    return JSONResponse(body)


def _not_ready(readiness: Readiness) -> Response:
    loading = not readiness.failed and readiness.progress < 1
    percent = f" ({readiness.progress:.0%} loaded)" if loading else ""
    return unavailable(f"Not ready: {readiness.reason}{percent}").response()


@router.get("/version")
async def version(request: Request) -> dict[str, str | None]:
    """The server's version and the engine's name."""
    service: InferenceService = request.app.state.service
    return {"version": __version__, "engine": service.settings.engine}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    service: InferenceService = request.app.state.service
    return Response(await service.scrape(), media_type=CONTENT_TYPE_LATEST)
