"""GET /status: the server at a glance, for the status view of the page at `/`. Needs the scope admin where
keys are set, as /metrics does.
"""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from trtllm_openai import __version__
from trtllm_openai.api.context import ServerContext
from trtllm_openai.runners.state import RunnerReport
from trtllm_openai.telemetry.history import INTERVAL_S, columns, distributions, sample

router = APIRouter()
RUNNER_FIELDS = ("index", "state", "reason", "loaded", "sequences", "node", "gpus", "retiring")


@router.get("/status")
async def status(request: Request) -> Response:
    """Readiness, runners, the last failures, and the last 15 minutes as samples and histograms.

    `samples` has equally long lists, one for each metric, with the sum over its labels at each time of `at`
    (Unix seconds); the last sample is of now. `histograms` are those of the time between the first and the
    last sample. All of it is of all HTTP processes together.
    """
    context: ServerContext = request.app.state.context
    readiness, info = context.readiness, context.engine_info
    overview = await context.overview()
    now = time.time()
    samples = [*overview.samples, sample(await context.merged_metrics(context.metrics.snapshot), now)]
    report = await context.pool.report() if context.pool is not None else RunnerReport([], 0, 0)
    body = {
        "version": __version__,
        "model": context.model_id,
        "engine": context.settings.engine,
        "created": context.created,
        "now": now,
        "ready": readiness.ready,
        "reason": readiness.reason,
        "progress": readiness.progress,
        "workers": context.settings.http_workers,
        "info": msgspec.to_builtins(info),
        "runners": [{name: getattr(one, name) for name in RUNNER_FIELDS} for one in report.runners],
        "wanted": report.wanted,
        "restarts": report.restarts,
        "interval_s": INTERVAL_S,
        "samples": columns(samples),
        "histograms": distributions(samples),
        "failures": [msgspec.structs.asdict(one) for one in overview.failures],
    }
    return Response(
        msgspec.json.encode(body), media_type="application/json", headers={"cache-control": "no-store"}
    )
