"""Models that several endpoints share."""

from trtllm_openai.protocol.common import (
    CompletionTokensDetails,
    PromptTokensDetails,
    SamplingFields,
    Usage,
    UsageTimings,
)


def usage(timings: UsageTimings | None = None) -> Usage:
    return Usage(
        prompt_tokens=1,
        completion_tokens=2,
        total_tokens=3,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=0),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=0),
        timings=timings,
    )


def test_usage_has_timings_only_where_they_are_known() -> None:
    assert "timings" not in usage().model_dump()
    timings = UsageTimings(queue_ms=1, prefill_ms=2, ttft_ms=3, decode_ms=4)
    assert usage(timings).model_dump()["timings"] == timings.model_dump()


def test_unknown_fields_are_kept_to_be_named() -> None:
    body = SamplingFields.model_validate({"unheard_of": 1, "stream_options": {"other": 2}})
    assert body.model_extra == {"unheard_of": 1}
    assert body.stream_options is not None
    assert body.stream_options.model_extra == {"other": 2}
