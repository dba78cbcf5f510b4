"""A started job as the endpoint's HTTP response: a stream of frames, or one JSON object at the end."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from app.api.collect import collect
from app.api.job import Job, while_connected
from app.api.sse import TokenStream
from app.api.stream import ChunkFormat, stream_frames
from app.text.choice import TextDelta


def stream(job: Job, form: ChunkFormat, headers: dict[str, str], *, include_usage: bool) -> Response:
    """The job as Server-Sent Events. The job is closed when the response ends, however it ends."""
    frames = stream_frames(job, form, include_usage=include_usage)
    return TokenStream(frames, job.close, job.service.settings.ping_interval, headers)


async def whole(
    request: Request, job: Job, build: Callable[[list[TextDelta]], BaseModel], headers: dict[str, str]
) -> Response:
    """The job as one answer, which `build` makes from a delta for each choice. Raises `ClientGone`."""
    try:
        deltas = await while_connected(request, collect(job))
    finally:
        job.close()
    return Response(build(deltas).model_dump_json(), headers=headers, media_type="application/json")
