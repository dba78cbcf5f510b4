"""One HTTP request's generation: its choices, the pool's deltas turned into text, and its accounting.

Both endpoints, streamed or not, read from here, so that they cannot disagree about text, finish reason,
log-probabilities or usage.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import time
from dataclasses import dataclass, field
from typing import Protocol

from trtllm_openai.api.errors import ApiError
from trtllm_openai.errors import InvalidRequest, Overloaded
from trtllm_openai.generation import QUEUE_TIMEOUT, GenerationRequest, StepOutput, TokenLogprobs
from trtllm_openai.protocol.common import CompletionTokensDetails, PromptTokensDetails, Usage, UsageTimings
from trtllm_openai.runners import Generation, Ticket
from trtllm_openai.serve.state import InferenceService
from trtllm_openai.telemetry.record import GenerationRecord, RequestRecord, Timings
from trtllm_openai.telemetry.values import Histogram
from trtllm_openai.text.choice import ChoiceDecoder, TextDelta

Delta = tuple["Choice", TextDelta]


@dataclass(slots=True)
class Choice:
    """One answer to be generated: its index on the wire and the prompt it continues.

    `first`: of its prompt's answers; the prompt's tokens count once.
    """

    index: int
    request: GenerationRequest
    decoder: ChoiceDecoder
    first: bool = True
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """Those of the prompt's tokens, once they are known, when the request asked for them."""
    finish_reason: str | None = None
    begun: bool = False
    """Whether the engine has made anything of it."""
    _latest: float = 0.0
    _counted: int = 0

    def observe(self, now: float, latency: Histogram) -> None:
        """Put the time since its last tokens into `latency`, once for all tokens that came since."""
        tokens = self.decoder.completion_tokens
        new = tokens - self._counted
        if new:
            if self._counted:
                latency.observe((now - self._latest) / new, new)
            self._latest, self._counted = now, tokens


class Consumer(Protocol):
    """What a job gives its text to. Called in the context of the request, never from a task of its own."""

    def consume(self, deltas: list[Delta]) -> None:
        """New text, that of one engine step together, or of several when the consumer was behind."""

    def ended(self, error: Exception | None) -> None:
        """Nothing more will come: the answer is complete, or this ended it."""


@dataclass(slots=True, eq=False)
class Job:
    """The choices of one HTTP request, running on the pool. Must be closed.

    Text is pushed: what a runner's message says goes through `Consumer.consume` to the socket in one call,
    without waking a task. The task of the request only waits for the end.
    """

    service: InferenceService
    choices: list[Choice]
    prompt_tokens: int
    """Prompt tokens of the request, each prompt counted once however many choices it has."""
    started: float
    generation: Generation
    ticket: Ticket
    deadline: float = math.inf
    """By the event loop's clock; then it is given up with 504."""
    first_deadline: float = math.inf
    """The same for the first token."""
    queued: float = 0.0
    """Seconds that its first sequence waited in the engine."""
    end: str = "client_gone"
    """Why it ends, if it does before its answer is complete."""
    failure: Exception | None = None
    """What ended it before anybody consumed it."""
    by_id: dict[str, Choice] = field(init=False)
    record: RequestRecord = field(default_factory=RequestRecord)
    timed: bool = False
    """Whether usage has timings."""
    cached_tokens: int = 0
    first_token: float | None = None
    last_token: float | None = None
    open_choices: int = field(init=False)
    consumer: Consumer | None = None
    paused: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the engine has said anything, or the job is over."""
    timer: asyncio.TimerHandle | None = None
    first_timer: asyncio.TimerHandle | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """The request's, for what is called from elsewhere."""

    def __post_init__(self) -> None:
        self.by_id = {choice.request.request_id: choice for choice in self.choices}
        self.open_choices = len(self.choices)
        self.generation.listener = functools.partial(self.context.run, self._advance)
        loop = asyncio.get_running_loop()
        if self.deadline < math.inf:
            late = "The request took longer than its timeout."
            self.timer = loop.call_at(self.deadline, self._expire, late)
        if self.first_deadline < self.deadline:
            late = "The first token took longer than it may."
            self.first_timer = loop.call_at(self.first_deadline, self._expire, late)

    def run(self, consumer: Consumer) -> None:
        """Have `consumer` called from now on, until its `ended` was."""
        if self.failure is not None:
            consumer.ended(self.failure)
            return
        self.consumer = consumer
        self._advance()

    def pause(self) -> None:
        """Let deltas gather: the consumer is behind."""
        self.paused = True

    def resume(self) -> None:
        """Go on, with what has gathered all at once."""
        self.paused = False
        self._advance()

    @property
    def guided(self) -> bool:
        """Whether the engine may yet refuse the request: only it can compile a grammar."""
        return self.choices[0].request.guide is not None

    async def accepted(self) -> None:
        """Wait until the engine has begun. Raises `InvalidRequest` if it refuses the request."""
        await self.begun.wait()
        if self.failure is not None:
            raise self.failure
        for output in self.generation.waiting:
            if output.error_code is not None:
                self.end = "error"
                raise _refusal(output)

    @property
    def live(self) -> int:
        """Sequences that an engine works on."""
        return len(self.generation.live)

    def interrupt(self, error: Exception) -> None:
        """End it with `error`."""
        self.context.run(self._end, "shutdown", error)

    def close(self) -> None:
        """End what still runs. Idempotent."""
        self._stop()
        self.ticket.close()
        self.service.jobs.discard(self)
        if self.open_choices:
            self.service.metrics.sequences.labels("cancelled").inc(self.open_choices)
            self.service.metrics.cancelled.labels(self.end).inc()
            self._keep_record(self.end, self.timings())
            self.open_choices = 0

    def timings(self) -> Timings | None:
        """Where the time went so far; None before the first token."""
        if self.first_token is None:
            return None
        ttft = self.first_token - self.started
        queue = min(self.queued, ttft)
        last = self.last_token or time.perf_counter()
        return Timings(queue, ttft - queue, ttft, last - self.first_token)

    def timing_header(self) -> dict[str, str]:
        """The Server-Timing header of a whole answer; empty when it is off."""
        timings = self.timings() if self.timed else None
        return timings.header() if timings is not None else {}

    def usage(self, *, final: bool = True) -> Usage:
        """Tokens so far; with timings, if it is the last usage that the client gets."""
        completion = self._completion_tokens()
        timings = self.timings() if self.timed and final else None
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion,
            total_tokens=self.prompt_tokens + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached_tokens),
            completion_tokens_details=CompletionTokensDetails(
                reasoning_tokens=sum(choice.decoder.reasoning_tokens for choice in self.choices)
            ),
            timings=UsageTimings.of(timings) if timings is not None else None,
        )

    def _advance(self) -> None:
        """Give the consumer the text of what has come."""
        consumer = self.consumer
        if consumer is None:
            self.begun.set()
            return
        if self.paused:
            return
        outputs = self.generation.take()
        if not outputs:
            return
        now = time.perf_counter()
        if self.first_token is None:
            self._observe_first(now)
        try:
            deltas, failure = self._decode_all(outputs)
            for choice, _ in deltas:
                choice.observe(now, self.service.metrics.itl)
            if deltas:
                consumer.consume(deltas)
        except Exception as error:
            failure = error
        if failure is not None:
            self._end("error", failure)
        elif not self.open_choices:
            self._observe_end()
            self._end("", None)

    def _expire(self, what: str) -> None:
        self._end("timeout", ApiError(504, what, code="timeout"))

    def _end(self, why: str, error: Exception | None) -> None:
        """Say to the consumer, or to the one that comes, that nothing more will."""
        if self.failure is not None:
            return
        self.end, self.failure = why, error
        consumer = self.consumer
        self._stop()
        self.begun.set()
        if consumer is not None:
            consumer.ended(error)

    def _stop(self) -> None:
        """No more calls of the consumer; what still runs is aborted."""
        self.consumer = None
        for timer in (self.timer, self.first_timer):
            if timer is not None:
                timer.cancel()
        self.generation.close()

    def _decode_all(self, outputs: list[StepOutput]) -> tuple[list[Delta], Exception | None]:
        """The new text, and the error that ended it: what came before the error is not lost."""
        deltas: list[Delta] = []
        for output in outputs:
            try:
                delta = self._decode(output)
            except (ApiError, InvalidRequest, Overloaded) as error:
                return deltas, error
            if delta is not None:
                deltas.append(delta)
        return deltas, None

    def _decode(self, output: StepOutput) -> Delta | None:
        choice = self.by_id[output.request_id]
        if choice.decoder.finished:
            return None
        if not choice.begun:
            self._begin(choice, output)
        if output.error is not None or output.error_code is not None:
            raise self._failed(output)
        if output.cached_tokens:
            self.service.metrics.prefix_hits.inc(output.cached_tokens)
            if choice.first:
                self.cached_tokens += output.cached_tokens
        delta = choice.decoder.push(output)
        if delta.finish_reason is not None:
            self.open_choices -= 1
            choice.finish_reason = delta.finish_reason
            self.service.metrics.sequences.labels(delta.finish_reason).inc()
            if output.finish_reason is None:  # a stop string ended it here, not in the engine
                self.generation.abort(output.request_id)
        return choice, delta

    def _begin(self, choice: Choice, output: StepOutput) -> None:
        """Take in what comes with a choice's first output."""
        choice.begun = True
        self.ticket.begun(choice.index)
        if output.queued_ms is not None:
            self.queued = max(self.queued, output.queued_ms / 1000)
        choice.prompt_logprobs = output.prompt_logprobs

    def _failed(self, output: StepOutput) -> Exception:
        """What an output that is an error means to the client."""
        if output.error_code == QUEUE_TIMEOUT:
            return self.service.admission.too_late()
        if output.error_code is not None:
            return _refusal(output)
        return ApiError(500, f"Generation failed: {output.error}.", code="generation_failed")

    def _completion_tokens(self) -> int:
        return sum(choice.decoder.completion_tokens for choice in self.choices)

    def _observe_first(self, now: float) -> None:
        self.first_token = now
        self.service.metrics.ttft.observe(self.first_token - self.started)
        if self.first_timer is not None:
            self.first_timer.cancel()

    def _observe_end(self) -> None:
        metrics = self.service.metrics
        metrics.queue_time.observe(self.queued)
        now = self.last_token = time.perf_counter()
        metrics.e2e.observe(now - self.started)
        timings = self.timings()
        total = self._keep_record("", timings)
        metrics.request_prompt_tokens.observe(self.prompt_tokens)
        metrics.request_generation_tokens.observe(total)
        if timings is not None:
            metrics.prefill_time.observe(timings.prefill)
            metrics.decode_time.observe(timings.decode)
            tokens = total / len(self.choices)
            if tokens > 1:
                metrics.tpot.observe(timings.decode / (tokens - 1))

    def _keep_record(self, end: str, timings: Timings | None) -> int:
        """Count the tokens that were generated, put everything on record; returns their number."""
        tokens = self._completion_tokens()
        self.service.metrics.generation_tokens.inc(tokens)
        self.record.generation = GenerationRecord(
            sampling=self.choices[0].request.sampling,
            choices=len(self.choices),
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=tokens,
            finish_reasons=[choice.finish_reason for choice in self.choices if choice.finish_reason],
            first_token=self.first_token,
            timings=timings,
            end=end,
        )
        return tokens


def _refusal(output: StepOutput) -> InvalidRequest:
    return InvalidRequest(output.error or "refused", output.error_param, output.error_code or "")
