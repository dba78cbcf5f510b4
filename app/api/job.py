"""One HTTP request's generation: its choices, the pool's deltas turned into text, and its accounting.

Both endpoints, streamed or not, read from here, so that they cannot disagree about text, finish reason,
log-probabilities or usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from starlette.requests import Request

from app.api.errors import ApiError, ClientGone
from app.api.extras import Extras
from app.generation import GenerationRequest, SamplingParams, StepOutput
from app.pool import Generation
from app.protocol.common import PromptTokensDetails, Usage
from app.service import InferenceService
from app.text.choice import ChoiceDecoder, TextDelta

T = TypeVar("T")
ENGINE_GRACE = 1.0
"""Seconds that an engine's own limit is later than ours."""


@dataclass(slots=True)
class Choice:
    """One answer to be generated: its index on the wire and the prompt it continues."""

    index: int
    request: GenerationRequest
    decoder: ChoiceDecoder


@dataclass(slots=True)
class Job:
    """The choices of one HTTP request, running on the pool. Must be closed."""

    service: InferenceService
    choices: list[Choice]
    prompt_tokens: int
    """Prompt tokens of the request, each prompt counted once however many choices it has."""
    started: float
    generation: Generation
    deadline: float | None = None
    """By the event loop's clock; then it is given up with 504."""
    by_id: dict[str, Choice] = field(init=False)
    cached_tokens: int = 0
    first_token: float | None = None
    open_choices: int = field(init=False)

    def __post_init__(self) -> None:
        self.by_id = {choice.request.request_id: choice for choice in self.choices}
        self.open_choices = len(self.choices)

    async def deltas(self) -> AsyncIterator[list[tuple[Choice, TextDelta]]]:
        """New text, as it comes; the deltas of one wake-up together. Raises `ApiError` if a choice fails."""
        while self.open_choices:
            outputs = await self._next()
            if self.first_token is None and outputs:
                self.first_token = time.perf_counter()
                self.service.metrics.ttft.observe(self.first_token - self.started)
            deltas, failure = self._decode_all(outputs)
            if deltas:
                yield deltas
            if failure is not None:
                raise failure
        self._observe_end()

    def close(self) -> None:
        """End what still runs. Idempotent."""
        self.generation.close()
        if self.open_choices:
            self.service.metrics.sequences.labels("cancelled").inc(self.open_choices)
            self._count_tokens()
            self.open_choices = 0

    def usage(self) -> Usage:
        """Tokens so far."""
        completion = self._completion_tokens()
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion,
            total_tokens=self.prompt_tokens + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached_tokens),
        )

    async def _next(self) -> list[StepOutput]:
        if self.deadline is None:
            return await self.generation.next()
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self.generation.next()
        except TimeoutError:
            raise ApiError(504, "The request took longer than its timeout.", code="timeout") from None

    def _decode_all(
        self, outputs: list[StepOutput]
    ) -> tuple[list[tuple[Choice, TextDelta]], ApiError | None]:
        """The new text, and the error that ended it: what came before the error is not lost."""
        deltas: list[tuple[Choice, TextDelta]] = []
        for output in outputs:
            try:
                delta = self._decode(output)
            except ApiError as error:
                return deltas, error
            if delta is not None:
                deltas.append(delta)
        return deltas, None

    def _decode(self, output: StepOutput) -> tuple[Choice, TextDelta] | None:
        choice = self.by_id[output.request_id]
        if choice.decoder.finished:
            return None
        if output.error is not None:
            raise ApiError(500, f"Generation failed: {output.error}.", code="generation_failed")
        self.cached_tokens += output.cached_tokens
        delta = choice.decoder.push(output)
        if delta.finish_reason is not None:
            self.open_choices -= 1
            self.service.metrics.sequences.labels(delta.finish_reason).inc()
            if output.finish_reason is None:  # a stop string ended it here, not in the engine
                self.generation.abort(output.request_id)
        return choice, delta

    def _completion_tokens(self) -> int:
        return sum(choice.decoder.completion_tokens for choice in self.choices)

    def _count_tokens(self) -> None:
        self.service.metrics.generation_tokens.inc(self._completion_tokens())

    def _observe_end(self) -> None:
        metrics = self.service.metrics
        now = time.perf_counter()
        metrics.e2e.observe(now - self.started)
        self._count_tokens()
        tokens = self._completion_tokens() / len(self.choices)
        if self.first_token is not None and tokens > 1:
            metrics.tpot.observe((now - self.first_token) / (tokens - 1))


def start_job(
    service: InferenceService,
    prompts: list[list[int]],
    sampling: list[SamplingParams],
    n: int,
    stop: list[str],
    started: float,
    extras: Extras,
) -> Job:
    """Submit `n` sequences for each prompt. With a seed, choice i uses seed + i, so that they differ."""
    pool = service.pool
    # The engine's own limit is a second line: it comes after ours, and ours has the better words.
    allotted_ms = None if extras.timeout is None else round((extras.timeout + ENGINE_GRACE) * 1000)
    choices: list[Choice] = []
    for prompt, params in zip(prompts, sampling, strict=True):
        for i in range(n):
            own = (
                params
                if i == 0 or params.seed is None
                else msgspec.structs.replace(params, seed=params.seed + i)
            )
            request = GenerationRequest(
                pool.new_request_id(),
                prompt,
                own,
                priority=extras.priority,
                allotted_ms=allotted_ms,
                guide=extras.guide,
            )
            decoder = ChoiceDecoder(service.tokenizer, stop=stop, stop_token_ids=own.stop_token_ids)
            choices.append(Choice(len(choices), request, decoder))
    generation = pool.submit([choice.request for choice in choices])
    prompt_tokens = sum(map(len, prompts))
    service.metrics.prompt_tokens.inc(prompt_tokens)
    deadline = None
    if extras.timeout is not None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + extras.timeout - (time.perf_counter() - started)
    return Job(service, choices, prompt_tokens, started, generation, deadline)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it as soon as the client is gone (`ClientGone`)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for future in (task, gone):
            if not future.done():
                future.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await future


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
