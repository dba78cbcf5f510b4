"""A started run as the endpoint's HTTP response: a stream of frames, or one JSON object at the end."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from trtllm_openai.api.collect import Answer, collect
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.run import RequestRun
from trtllm_openai.api.sse import SseResponse
from trtllm_openai.api.stream import ChunkFormat, ChunkFormatter, RunStream, UsageOptions


async def stream(
    request: Request,
    run: RequestRun,
    form: ChunkFormat,
    usage: UsageOptions,
    ping_interval_s: float,
    headers: dict[str, str],
) -> Response:
    """The run as Server-Sent Events. The response closes the run when it ends, however it ends.

    A request that the engine rejects still gets an ordinary error response. Raises `ClientDisconnected`.
    """
    if run.guided:
        try:
            await while_connected(request, run.accepted())
        except BaseException:
            run.close()
            raise
    source = RunStream(run, lambda writer: ChunkFormatter(writer, run, form, usage))
    return SseResponse(source, ping_interval_s, headers)


async def complete(
    request: Request, run: RequestRun, build: Callable[[list[Answer]], BaseModel], headers: dict[str, str]
) -> Response:
    """The run as one JSON response, which `build` makes from the answers. Raises `ClientDisconnected`."""
    try:
        answers = await while_connected(request, collect(run))
    finally:
        run.close()
    headers = headers | run.accounting.timing_header()
    return Response(build(answers).model_dump_json(), headers=headers, media_type="application/json")
