"""Health, version and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, PlainTextResponse, Response

from trtllm_openai import __version__
from trtllm_openai.api.context import Readiness, ServerContext
from trtllm_openai.api.errors import unavailable
from trtllm_openai.api.generation_probe import GenerationProbe
from trtllm_openai.telemetry.metrics import render

router = APIRouter()


@router.get("/")
async def root() -> dict[str, str]:
    """200, also for HEAD: Claude Code looks for a server here before its first request."""
    return {"name": "trtllm-openai-server", "docs": "/docs"}


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 as long as this process answers."""
    return {"status": "alive"}


@router.get("/health/startup")
async def startup(request: Request) -> Response:
    """200 once the model has been loaded, whatever its state is now; before that 503 as /health/ready."""
    context: ServerContext = request.app.state.context
    if context.engine_info is None:
        return _not_ready(context.readiness)
    return JSONResponse({"status": "started"})


@router.get("/health/ready")
@router.get("/health")
@router.get("/ping")
@router.post("/ping")
async def ready(request: Request) -> Response:
    """200 when requests are accepted; else 503 as an error, with the reason and the loading progress.

    `/ping`, by GET and by POST, is what Amazon SageMaker asks for.
    """
    context: ServerContext = request.app.state.context
    readiness = context.readiness
    if not readiness.ready:
        return _not_ready(readiness)
    if context.others_behind():  # the next request may reach that one
        return unavailable("Not ready: an HTTP process is connecting to the runners").response()
    body: dict[str, Any] = {"status": "ready", "model": context.model_id}
    if readiness.reason:
        body["degraded"] = readiness.reason
    return JSONResponse(body)


@router.get("/health_generate")
async def health_generate(request: Request) -> Response:
    """200 when an engine has generated a token, within the last second or for this request; else 503.

    At most one token is generated at a time. A busy server answers late: not for a liveness probe.
    """
    context: ServerContext = request.app.state.context
    probe: GenerationProbe = request.app.state.generation_probe
    if not context.readiness.ready:
        return _not_ready(context.readiness)
    return JSONResponse({"status": "generated", "ms": round(await probe.check() * 1000, 3)})


def _not_ready(readiness: Readiness) -> Response:
    loading = not readiness.failed and readiness.progress < 1
    percent = f" ({readiness.progress:.0%} loaded)" if loading else ""
    return unavailable(f"Not ready: {readiness.reason}{percent}").response()


@router.get("/version")
async def version(request: Request) -> dict[str, str | None]:
    """The server's version and the engine's name."""
    context: ServerContext = request.app.state.context
    return {"version": __version__, "engine": context.settings.engine}


@router.get("/metrics", response_class=PlainTextResponse)
@router.get("/prometheus/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text format; `/prometheus/metrics` is trtllm-serve's path."""
    context: ServerContext = request.app.state.context
    return Response(
        render(await context.merged_metrics(context.metrics.snapshot)), media_type=CONTENT_TYPE_LATEST
    )
