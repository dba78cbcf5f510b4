"""Runner control: list the runners, restart one. Needs an API key with the scope admin.

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

router = APIRouter()
SHOWN = ("index", "state", "reason", "pid", "sequences")


@router.get("/admin/runners")
async def list_runners(request: Request) -> dict[str, Any]:
    """Each runner: its state with the reason, its process id and its number of sequences."""
    report = await _pool(request).report()
    runners: list[dict[str, Any]] = msgspec.to_builtins(report.runners)
    return {"runners": [{key: one[key] for key in SHOWN} for one in runners], "restarts": report.restarts}


@router.post("/admin/runners/{index}/restart", status_code=202)
async def restart_runner(request: Request, index: int) -> Response:
    """Drain a runner for at most `drain_timeout` seconds, then replace its process."""
    context: ServerContext = request.app.state.context
    try:
        await _pool(request).restart(index, context.settings.drain_timeout)
    except LookupError as error:
        raise ApiError(404, str(error), param="index", code="not_found") from None
    return JSONResponse({"index": index, "status": "restarting"}, 202)


def _pool(request: Request) -> SequencePool:
    context: ServerContext = request.app.state.context
    if context.settings.api_keys_file is None and context.settings.api_key is None:
        raise ApiError(
            403,
            "Pool control is for API keys with the scope admin: set api_keys_file or api_key.",
            code="no_admin_keys",
        )
    if context.pool is None:
        raise context.not_ready()
    return context.pool
