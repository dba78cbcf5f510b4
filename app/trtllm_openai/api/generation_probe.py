"""A health check that computes: one token, through the pool and an engine, for `GET /health_generate`.

Probes cannot flood the engine: at most one sequence is under way in an HTTP process, whoever asks meanwhile
waits for its result, and a success holds for `HOLDS_S`. A probe that gives up does not end the sequence, for
which the next one waits. It passes the limits on waiting requests, counts in no metric of requests, and goes
first where the engine knows priorities; with a full batch it still waits for a place.
"""

from __future__ import annotations

import asyncio
import time

from trtllm_openai.api.context import ServerContext
from trtllm_openai.api.errors import unavailable
from trtllm_openai.errors import ShuttingDown
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners import Generation

HOLDS_S = 1.0
"""Seconds for which a success answers further probes."""
TIMEOUT_S = 30.0
"""Seconds until the token must be there."""
PROMPT = "Hello"


class GenerationProbe:
    """Generates a token when asked whether that works. Implements `api.context.ActiveRun` meanwhile."""

    adapter = None
    begun = 0

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._task: asyncio.Task[float] | None = None
        self._succeeded_at = float("-inf")
        self._took_s = 0.0
        self._generation: Generation | None = None

    @property
    def live(self) -> int:
        """Number of its sequences that an engine works on: 0 or 1."""
        return len(self._generation.live) if self._generation is not None else 0

    def interrupt(self, error: Exception) -> None:
        """End the sequence: the server stops."""
        if self._task is not None:
            self._task.cancel()

    async def check(self) -> float:
        """Seconds that the latest token took. Raises `ApiError` 503, or `PoolError`, if none comes."""
        if time.monotonic() - self._succeeded_at < HOLDS_S:
            return self._took_s
        task = self._task
        if task is None:
            task = self._task = asyncio.create_task(self._run())
            task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise  # the probe itself was given up
            raise ShuttingDown from None

    def _ended(self, task: asyncio.Task[float]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is None:  # the exception is asked for: nobody may wait
            self._succeeded_at, self._took_s = time.monotonic(), task.result()

    async def _run(self) -> float:
        context = self._context
        model = context.loaded()
        request = GenerationRequest(
            model.pool.new_request_id(),
            model.tokenizer.encode(PROMPT, add_special_tokens=True),
            SamplingParams(max_tokens=1, temperature=0.0),
            priority=1.0 if model.info.capabilities.priority else None,
        )
        started = time.perf_counter()
        self._generation = generation = model.pool.submit([request])
        context.runs.add(self)
        news = asyncio.Event()
        generation.listener = news.set
        outputs: list[StepOutput] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not any(output.token_ids or output.finish_reason for output in outputs):
                    await news.wait()
                    news.clear()
                    outputs += generation.take()
        except TimeoutError:
            raise unavailable(f"No token was generated within {TIMEOUT_S:g} s.") from None
        finally:
            context.runs.discard(self)
            generation.close()
            self._generation = None
        if error := next((output.error for output in outputs if output.error), None):
            raise unavailable(f"No token was generated: {error}")
        return time.perf_counter() - started
