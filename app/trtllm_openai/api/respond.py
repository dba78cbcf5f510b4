"""A started job as the endpoint's HTTP response: a stream of frames, or one JSON object at the end."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from trtllm_openai.api.collect import Answer, collect
from trtllm_openai.api.disconnect import while_connected
from trtllm_openai.api.job import Job
from trtllm_openai.api.stream import ChunkFormat, ChunkStream, UsageWanted


async def stream(
    request: Request, job: Job, form: ChunkFormat, headers: dict[str, str], usage: UsageWanted
) -> Response:
    """The job as Server-Sent Events. The job is closed when the response ends, however it ends.

    What the engine refuses is still an ordinary error. Raises `ClientDisconnected`.
    """
    if job.guided:
        try:
            await while_connected(request, job.accepted())
        except BaseException:
            job.close()
            raise
    return ChunkStream(job, form, usage).response(headers)


async def whole(
    request: Request, job: Job, build: Callable[[list[Answer]], BaseModel], headers: dict[str, str]
) -> Response:
    """The job as one JSON response, which `build` makes from the answers. Raises `ClientDisconnected`."""
    try:
        answers = await while_connected(request, collect(job))
    finally:
        job.close()
    headers = headers | job.timing_header()
    return Response(build(answers).model_dump_json(), headers=headers, media_type="application/json")
