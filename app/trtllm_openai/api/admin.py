"""Runner control and usage: list the runners, restart one, what each key has used. Needs the scope admin.

Without keys there are no admin keys, and every request here gets 403.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.errors import ApiError
from trtllm_openai.runners import SequencePool
from trtllm_openai.telemetry.usage import usage_by_key

router = APIRouter()
SHOWN = ("index", "state", "reason", "pid", "node", "sequences", "retiring")


@router.get("/admin/runners")
async def list_runners(request: Request) -> dict[str, Any]:
    """Each runner: its state with the reason, its process id and its number of sequences; and how many there
    should be, `wanted`, without those that end once they are idle (`retiring`)."""
    report = await _pool(request).report()
    runners: list[dict[str, Any]] = msgspec.to_builtins(report.runners)
    return {
        "runners": [{key: one[key] for key in SHOWN} for one in runners],
        "wanted": report.wanted,
        "restarts": report.restarts,
    }


@router.post("/admin/runners/{index}/restart", status_code=202)
async def restart_runner(request: Request, index: int) -> Response:
    """Drain a runner for at most `drain_timeout` seconds, then replace its process."""
    context: ServerContext = request.app.state.context
    try:
        await _pool(request).restart(index, context.settings.drain_timeout)
    except LookupError as error:
        raise ApiError(404, str(error), param="index", code="not_found") from None
    return JSONResponse({"index": index, "status": "restarting"}, 202)


@router.get("/admin/usage")
async def list_usage(request: Request) -> dict[str, Any]:
    """Requests, tokens and latencies of each API key since `since` (Unix seconds), in all HTTP processes."""
    context = _admin(request)
    snapshot = await context.merged_metrics(context.metrics.snapshot)
    return {"since": context.created, "keys": usage_by_key(snapshot)}


def _admin(request: Request) -> ServerContext:
    context: ServerContext = request.app.state.context
    if context.settings.api_keys_file is None and context.settings.api_key is None:
        raise ApiError(
            403,
            "This is for API keys with the scope admin: set api_keys_file or api_key.",
            code="no_admin_keys",
        )
    return context


def _pool(request: Request) -> SequencePool:
    context = _admin(request)
    if context.pool is None:
        raise context.not_ready()
    return context.pool
