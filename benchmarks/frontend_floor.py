"""Floor of the front-end benchmark: bare applications that stream the same frames at the same rate.

    python benchmarks/frontend_floor.py starlette|sse-starlette PORT

One ticker wakes all streams at once, like an engine step. Without engine, tokenizer and parsing, the cost is
that of uvicorn, the response class and the kernel. The request sets `max_tokens` and `itl`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

HEAD = '{"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion","created":1795522545,'
FRAME = (
    f'data: {HEAD}"model":"SmolLM2-135M-Instruct","choices":[{{"index":0,"text":" word","logprobs":null,'
    '"finish_reason":null}]}\n\n'
).encode()


class Ticker:
    """Wakes all waiters every `itl` seconds."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    def wait(self, itl: float) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run(itl))
        future = loop.create_future()
        self._waiting.append(future)
        return future

    async def _run(self, itl: float) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due += itl
            await asyncio.sleep(max(due - clock(), 0))
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)


def make_app(kind: str) -> Starlette:
    ticker = Ticker()

    async def frames(tokens: int, itl: float) -> AsyncIterator[bytes]:
        for _ in range(tokens):
            await ticker.wait(itl)
            yield FRAME
        yield b"data: [DONE]\n\n"

    async def complete(request: Request) -> Response:
        body = json.loads(await request.body())
        content = frames(body["max_tokens"], body["itl"])
        if kind == "starlette":
            return StreamingResponse(content, media_type="text/event-stream")
        return EventSourceResponse(content, sep="\n")

    return Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(
        make_app(sys.argv[1]),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
