"""Accounting of a request: usage, latencies, metrics and the record that its log line is made from."""

import time
from typing import Any

import pytest

from trtllm_openai.api.accounting import Accounting
from trtllm_openai.api.choice import Choice
from trtllm_openai.config import LimitSettings
from trtllm_openai.generation import GenerationRequest, SamplingParams, StepOutput
from trtllm_openai.runners import Admission, SharedCounters
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.record import RequestRecord
from trtllm_openai.text.choice import ChoiceDecoder
from trtllm_openai.text.tokenizer import Tokenizer


class Request:
    """The accounting of one prompt of 10 tokens with two choices, and what it tells."""

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        self.metrics, self.record = Metrics(), RequestRecord()
        self.admission = Admission(LimitSettings(), lambda _: None, SharedCounters.alone())
        self.choices = [
            Choice(
                index,
                GenerationRequest(str(index), [1] * 10, SamplingParams(max_tokens=9)),
                ChoiceDecoder(tokenizer),
                index == 0,
            )
            for index in range(2)
        ]
        self.accounting = Accounting(
            self.metrics,
            self.record,
            self.admission.enter("", [10, 10]),
            self.choices,
            prompt_tokens=10,
            started=time.perf_counter() - 1.0,
            **options,
        )

    def feed(self, index: int, count: int, now: float) -> None:
        choice = self.choices[index]
        delta = choice.decoder.push(StepOutput(str(index), [5] * count))
        self.accounting.observe_deltas([(choice, delta)], now)


@pytest.fixture
def request_(demo_tokenizer: Tokenizer) -> Request:
    return Request(demo_tokenizer)


def test_usage_counts_the_prompt_once(request_: Request) -> None:
    request_.feed(0, 3, 1.0)
    request_.feed(1, 2, 1.0)
    for choice in request_.choices:
        request_.accounting.prefix_hit(choice, 4)
    usage = request_.accounting.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 5, 15)
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert request_.metrics.prefix_hits.value == 8, "both sequences were spared the work"


def test_usage_tells_which_draft_tokens_came_true(request_: Request) -> None:
    request_.accounting.draft_verified(StepOutput("0", [5, 5, 5], drafted=4, accepted=2))
    request_.accounting.draft_verified(StepOutput("1", [5], drafted=3, accepted=0))
    details = request_.accounting.usage().completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (2, 5)


def test_tokens_that_came_together_share_the_time(request_: Request) -> None:
    request_.feed(0, 1, 1.0)
    request_.feed(0, 4, 3.0)
    request_.feed(1, 1, 9.0)  # its first: no interval
    itl = request_.metrics.itl
    assert (sum(itl.buckets), itl.sum) == (4, 2.0)


def test_only_the_first_output_is_the_time_to_first_token(request_: Request) -> None:
    started = request_.accounting.started
    assert request_.accounting.observe_output(started + 2)
    assert not request_.accounting.observe_output(started + 3)
    assert sum(request_.metrics.ttft.buckets) == 1
    assert request_.metrics.ttft.sum == pytest.approx(2)


def test_queue_and_prefill_add_up_to_the_first_token(request_: Request) -> None:
    assert request_.accounting.timings() is None
    for choice, queued in zip(request_.choices, (100.0, 300.0), strict=True):
        request_.accounting.begin(choice, StepOutput(str(choice.index), [], queued_ms=queued))
    request_.accounting.observe_output(request_.accounting.started + 1)
    timings = request_.accounting.timings()
    assert timings is not None
    assert (timings.queue, timings.prefill, timings.ttft) == pytest.approx((0.3, 0.7, 1.0))
    assert request_.admission.waiting == 0


def test_timings_are_told_only_where_they_are_wanted(demo_tokenizer: Tokenizer) -> None:
    for timed in (False, True):
        accounting = Request(demo_tokenizer, timed=timed).accounting
        assert accounting.timing_header() == {}, "nothing is known before the first token"
        accounting.observe_output(time.perf_counter())
        assert ("server-timing" in accounting.timing_header()) is timed
        assert (accounting.usage().timings is not None) is timed
        assert accounting.usage(final=False).timings is None


def test_complete_fills_the_record(request_: Request) -> None:
    request_.accounting.observe_output(request_.accounting.started + 0.5)
    for choice in request_.choices:
        request_.feed(choice.index, 3, 1.0)
        choice.finish_reason = "length"
        request_.accounting.finish_sequence("length")
    request_.accounting.complete()
    request_.accounting.close("disconnect", 0)
    generation = request_.record.generation
    assert generation is not None
    assert (generation.completion_tokens, generation.finish_reasons) == (6, ["length", "length"])
    assert generation.end == "", "it did not end early"
    assert request_.metrics.generation_tokens.value == 6
    assert request_.metrics.sequences.labels("length").value == 2
    assert request_.metrics.tpot.sum == pytest.approx(generation.timings.decode / 2)  # type: ignore[union-attr]


def test_close_says_why_and_leaves_the_queue(request_: Request) -> None:
    assert request_.admission.waiting == 2
    request_.feed(0, 3, 1.0)
    request_.choices[0].finish_reason = "stop"
    request_.accounting.close("disconnect", 1)
    assert request_.admission.waiting == 0
    assert request_.metrics.sequences.labels("cancelled").value == 1
    assert request_.metrics.cancelled.labels("disconnect").value == 1
    generation = request_.record.generation
    assert generation is not None
    assert (generation.end, generation.completion_tokens, generation.finish_reasons) == (
        "disconnect",
        3,
        ["stop"],
    )


def test_a_complete_request_is_measured_as_vllm_does(request_: Request) -> None:
    request_.accounting.begin(request_.choices[0], StepOutput("0", [], queued_ms=200.0))
    request_.accounting.observe_output(request_.accounting.started + 0.5)
    request_.feed(0, 3, 1.0)
    request_.feed(1, 5, 1.0)
    request_.accounting.complete()
    metrics, generation = request_.metrics, request_.record.generation
    assert (metrics.request_n.sum, sum(metrics.request_n.buckets)) == (2, 1)
    assert (metrics.request_max_tokens.sum, sum(metrics.request_max_tokens.buckets)) == (9, 1)
    assert metrics.request_longest_choice_tokens.sum == 5
    assert generation is not None
    assert generation.timings is not None
    assert metrics.inference_time.sum == pytest.approx(0.3 + generation.timings.decode)
