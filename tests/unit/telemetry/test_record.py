"""A request's record: its log line and its timings."""

import logging

import pytest

from trtllm_openai.generation import SamplingParams
from trtllm_openai.telemetry.record import GenerationRecord, RequestRecord, Timings

TIMINGS = Timings(queue=0.001, prefill=0.0205, ttft=0.0215, decode=1.0)


def generation(reasons: list[str], end: str = "", timings: Timings | None = TIMINGS) -> GenerationRecord:
    return GenerationRecord(SamplingParams(max_tokens=9), 2, 10, 4, 7, reasons, 1.0, timings, end)


def test_timings_in_milliseconds() -> None:
    assert TIMINGS.milliseconds() == {"queue": 1.0, "prefill": 20.5, "ttft": 21.5, "decode": 1000.0}
    value = "queue;dur=1.0, prefill;dur=20.5, ttft;dur=21.5, decode;dur=1000.0"
    assert TIMINGS.header() == {"server-timing": value}


def test_fields_without_a_value_are_left_out() -> None:
    record = RequestRecord("id", "GET", "/health", status=200, seconds=0.0012)
    assert record.fields() == {
        "request_id": "id",
        "method": "GET",
        "path": "/health",
        "status": 200,
        "ms": 1.2,
    }
    record.client = "10.0.0.7"
    record.key, record.generation = "alice", generation(["stop", "length"])
    record.model = "sql"
    fields = record.fields()
    assert (fields["client"], fields["model"]) == ("10.0.0.7", "sql")
    assert (fields["key"], fields["finish_reason"], fields["ttft_ms"]) == ("alice", "stop,length", 21.5)
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (10, 7)


def test_an_early_end_is_the_finish_reason() -> None:
    record = RequestRecord(generation=generation([], "disconnect", None))
    assert record.fields()["finish_reason"] == "disconnect"
    assert "ttft_ms" not in record.fields()


def test_a_line_of_a_level_that_is_off_is_not_written(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trtllm_openai.access"):
        RequestRecord().log(logging.INFO)
        assert caplog.records == []
        RequestRecord().log(logging.WARNING)
        assert [line.message for line in caplog.records] == ["request"]
