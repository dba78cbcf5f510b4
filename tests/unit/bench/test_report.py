"""The table of a load test."""

from typing import Any

from trtllm_openai.bench.report import table
from trtllm_openai.bench.stats import TIMES


def row(load: str, **changes: Any) -> dict[str, Any]:
    times = {name: {"p50": 0.0123, "p90": 0.5, "p99": 2.5} for name in TIMES}
    base = {"load": load, "requests": 8, "requests_per_s": 1.5, "output_tokens_per_s": 99.6, "errors": {}}
    return {**base, **times, **changes}


def test_columns_line_up_and_times_are_milliseconds() -> None:
    head, rule, *lines = table([row("1"), row("1000", errors={"HTTP 429": 2, "timeout": 1})]).splitlines()
    assert len({len(line) for line in (head, rule, *lines)}) == 1
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "load", "requests", "req/s", "tok/s", "TTFT ms", "ITL ms", "TPOT ms", "E2E ms", "errors"
    ]  # fmt: skip
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells == ["1", "8", "1.50", "100", *["12.3 / 500 / 2500"] * 4, "none"]
    assert "HTTP 429: 2, timeout: 1" in lines[1]


def test_goodput_has_a_column_where_it_was_asked_for() -> None:
    text = table([row("1", goodput_per_s=0.75, slo_met=0.5)])
    assert "goodput/s" in text
    assert "0.75 (50%)" in text


def test_a_load_without_any_answer() -> None:
    assert "| - " in table([row("1", ttft=None)])
