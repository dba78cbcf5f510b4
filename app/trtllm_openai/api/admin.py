"""Pool control: what the runners do, and a restart of one. For keys with the scope admin only.

Without `api_keys_file` nobody is known to be an admin, and nobody may steer.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from trtllm_openai.api.errors import ApiError
from trtllm_openai.serve.state import InferenceService

router = APIRouter()
SHOWN = ("index", "state", "reason", "pid", "sequences")


@router.get("/admin/runners")
async def list_runners(request: Request) -> dict[str, Any]:
    """Each runner: its state, the reason for it, its process and how many sequences it has."""
    report = await _service(request).pool.report()
    runners: list[dict[str, Any]] = msgspec.to_builtins(report.runners)
    return {"runners": [{key: one[key] for key in SHOWN} for one in runners], "restarts": report.restarts}


@router.post("/admin/runners/{index}/restart", status_code=202)
async def restart_runner(request: Request, index: int) -> Response:
    """Replace a runner. It takes nothing new, and what runs on it has `drain_timeout` seconds to finish."""
    service = _service(request)
    try:
        await service.pool.restart(index, service.settings.drain_timeout)
    except LookupError as error:
        raise ApiError(404, str(error), param="index", code="not_found") from None
    return JSONResponse({"index": index, "status": "restarting"}, 202)


def _service(request: Request) -> InferenceService:
    service: InferenceService = request.app.state.service
    if service.settings.api_keys_file is None:
        raise ApiError(
            403, "Pool control is for API keys with the scope admin: set api_keys_file.", code="no_admin_keys"
        )
    return service
