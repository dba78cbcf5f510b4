"""Accounting of one request: tokens, usage, timings, metrics, the admission ticket and the log record."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trtllm_openai.api.choice import Choice, Delta
from trtllm_openai.generation import StepOutput
from trtllm_openai.protocol.common import CompletionTokensDetails, PromptTokensDetails, Usage, UsageTimings
from trtllm_openai.runners import Ticket
from trtllm_openai.telemetry.metrics import KeyMetrics, Metrics
from trtllm_openai.telemetry.record import GenerationRecord, RequestRecord, Timings


class _Latency:
    """When a choice last got tokens, and how many it had then."""

    __slots__ = ("at", "tokens")

    def __init__(self) -> None:
        self.at = 0.0
        self.tokens = 0


class Accounting:
    """Token counts and timings of one request. Times are `time.perf_counter` seconds.

    `prompt_tokens` counts each prompt once, for any number of choices. `started`: the request's arrival.
    `timed`: whether usage and headers carry timings. `key`: metrics of the request's API key. Must be closed.
    """

    __slots__ = (
        "_accepted",
        "_choices",
        "_drafted",
        "_first_token",
        "_key",
        "_last_token",
        "_latencies",
        "_queued",
        "_ticket",
        "_timed",
        "cached_tokens",
        "metrics",
        "prompt_tokens",
        "record",
        "started",
    )

    def __init__(
        self,
        metrics: Metrics,
        record: RequestRecord,
        ticket: Ticket,
        choices: Sequence[Choice],
        *,
        prompt_tokens: int,
        started: float,
        timed: bool = False,
        key: KeyMetrics | None = None,
    ) -> None:
        self.metrics = metrics
        self.record = record
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache."""
        self.started = started
        self._key = key
        self._ticket = ticket
        self._choices = choices
        self._timed = timed
        self._latencies = [_Latency() for _ in choices]
        self._first_token: float | None = None
        self._last_token: float | None = None
        self._drafted = self._accepted = 0  # draft tokens
        self._queued = 0.0  # seconds that its first sequence waited in the engine

    def begin(self, choice: Choice, output: StepOutput) -> None:
        """The engine produced the first output of a choice."""
        self._ticket.begun(choice.index)
        if output.queued_ms is not None:
            self._queued = max(self._queued, output.queued_ms / 1000)

    def prefix_hit(self, choice: Choice, tokens: int) -> None:
        """`tokens` of the choice's prompt were found in the prefix cache."""
        self.metrics.prefix_hits.inc(tokens)
        if choice.first:
            self.cached_tokens += tokens

    def draft_verified(self, output: StepOutput) -> None:
        """The engine verified a draft (speculative decoding)."""
        self._drafted += output.drafted
        self._accepted += output.accepted

    def observe_output(self, now: float) -> bool:
        """The engine produced tokens at `now`. Returns whether they were the request's first."""
        if self._first_token is not None:
            return False
        self._first_token = now
        self.metrics.ttft.observe(now - self.started)
        return True

    def observe_deltas(self, deltas: list[Delta], now: float) -> None:
        """Observe inter-token latency; tokens that came together share the time since the last one."""
        for choice, _ in deltas:
            latency = self._latencies[choice.index]
            tokens = choice.decoder.completion_tokens
            new = tokens - latency.tokens
            if new:
                if latency.tokens:
                    self.metrics.itl.observe((now - latency.at) / new, new)
                latency.at, latency.tokens = now, tokens

    def finish_sequence(self, reason: str) -> None:
        """A choice has its finish reason."""
        self.metrics.sequences.labels(reason).inc()

    def complete(self) -> None:
        """Every choice has its finish reason: observe the whole request."""
        metrics = self.metrics
        metrics.queue_time.observe(self._queued)
        now = self._last_token = time.perf_counter()
        metrics.e2e.observe(now - self.started)
        timings = self.timings()
        total = self._keep_record("", timings)
        metrics.request_prompt_tokens.observe(self.prompt_tokens)
        metrics.request_generation_tokens.observe(total)
        choices = self._choices
        metrics.request_n.observe(len(choices) // sum(choice.first for choice in choices))
        metrics.request_max_tokens.observe(choices[0].request.sampling.max_tokens)
        metrics.request_longest_choice_tokens.observe(
            max(choice.decoder.completion_tokens for choice in choices)
        )
        if timings is not None:
            metrics.inference_time.observe(timings.prefill + timings.decode)
            metrics.prefill_time.observe(timings.prefill)
            metrics.decode_time.observe(timings.decode)
            tokens = total / len(self._choices)
            if tokens > 1:
                metrics.tpot.observe(timings.decode / (tokens - 1))

    def close(self, end: str, open_choices: int) -> None:
        """Account for the request's end. `end`: its cause, if `open_choices` choices are unfinished."""
        if open_choices:
            self.metrics.sequences.labels("cancelled").inc(open_choices)
            self.metrics.cancelled.labels(end).inc()
            self._keep_record(end, self.timings())
        self._ticket.close()

    def timings(self) -> Timings | None:
        """How the time so far was spent; None before the first token."""
        if self._first_token is None:
            return None
        ttft = self._first_token - self.started
        queue = min(self._queued, ttft)
        last = self._last_token or time.perf_counter()
        return Timings(queue, ttft - queue, ttft, last - self._first_token)

    def timing_header(self) -> dict[str, str]:
        """The Server-Timing header of a complete response; empty when `server_timing` is off."""
        timings = self.timings() if self._timed else None
        return timings.header() if timings is not None else {}

    def usage(self, *, final: bool = True) -> Usage:
        """Token counts so far; with timings if it is the last usage that the client gets."""
        completion = self._completion_tokens()
        timings = self.timings() if self._timed and final else None
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion,
            total_tokens=self.prompt_tokens + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached_tokens),
            completion_tokens_details=CompletionTokensDetails(
                reasoning_tokens=sum(choice.decoder.reasoning_tokens for choice in self._choices),
                accepted_prediction_tokens=self._accepted,
                rejected_prediction_tokens=self._drafted - self._accepted,
            ),
            timings=usage_timings(timings) if timings is not None else None,
        )

    def _count_for_key(self, tokens: int) -> None:
        key = self._key
        if key is None:
            return
        key.requests.inc()
        key.prompt_tokens.inc(self.prompt_tokens)
        key.cached_tokens.inc(self.cached_tokens)
        key.generation_tokens.inc(tokens)
        if self._first_token is not None:
            key.ttft.observe(self._first_token - self.started)
        if self._last_token is not None:
            key.e2e.observe(self._last_token - self.started)

    def _completion_tokens(self) -> int:
        return sum(choice.decoder.completion_tokens for choice in self._choices)

    def _keep_record(self, end: str, timings: Timings | None) -> int:
        """Count the generated tokens and complete the log record. Returns their number."""
        tokens = self._completion_tokens()
        self.metrics.generation_tokens.inc(tokens)
        self._ticket.generated(tokens)
        self._count_for_key(tokens)
        self.record.generation = GenerationRecord(
            sampling=self._choices[0].request.sampling,
            choices=len(self._choices),
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=tokens,
            finish_reasons=[choice.finish_reason for choice in self._choices if choice.finish_reason],
            first_token=self._first_token,
            timings=timings,
            end=end,
        )
        return tokens


def usage_timings(timings: Timings) -> UsageTimings:
    """Timings as `usage.timings` has them, in milliseconds."""
    return UsageTimings(**{f"{name}_ms": value for name, value in timings.milliseconds().items()})
