"""vLLM's names for our metrics."""

from trtllm_openai.generation import EngineStats
from trtllm_openai.telemetry.metrics import DEFINITIONS, Metrics, PoolSnapshot
from trtllm_openai.telemetry.values import Series
from trtllm_openai.telemetry.vllm import aliases


def found(blocks: int = 100) -> dict[str, list[Series]]:
    metrics = Metrics()
    stats = EngineStats(running=3, waiting=2, kv_blocks_used=25, kv_blocks_total=blocks)
    stats.drafts, stats.draft_tokens, stats.accepted_draft_tokens = 5, 20, {"0": 4, "1": 3}
    metrics.watch_pool(lambda: PoolSnapshot(stats, runners=1, build=("1.0", "torch", "m")))
    for reason, count in {"stop": 1, "tool_calls": 2, "length": 4, "cancelled": 8, "error": 16}.items():
        metrics.sequences.labels(reason).inc(count)
    metrics.itl.observe(0.01, times=3)
    return {definition.name: series for definition, series in aliases(metrics.snapshot(), DEFINITIONS)}


def test_every_alias_names_the_model() -> None:
    every = found()
    assert every["vllm:num_requests_running"] == [Series(["m"], 3)]
    assert {series.labels[0] for each in every.values() for series in each} == {"m"}


def test_both_names_of_a_renamed_metric() -> None:
    every = found()
    assert every["vllm:inter_token_latency_seconds"] == every["vllm:time_per_output_token_seconds"]
    assert sum(every["vllm:inter_token_latency_seconds"][0].buckets) == 3
    assert every["vllm:kv_cache_usage_perc"] == every["vllm:gpu_cache_usage_perc"] == [Series(["m"], 0.25)]


def test_drafts_by_position_and_in_all() -> None:
    every = found()
    assert every["vllm:spec_decode_num_drafts"] == [Series(["m"], 5)]
    assert every["vllm:spec_decode_num_draft_tokens"] == [Series(["m"], 20)]
    assert every["vllm:spec_decode_num_accepted_tokens"] == [Series(["m"], 7)]
    by_position = every["vllm:spec_decode_num_accepted_tokens_per_pos"]
    assert by_position == [Series(["m", "0"], 4), Series(["m", "1"], 3)]


def test_finish_reasons_are_vllms() -> None:
    counts = {series.labels[1]: series.value for series in found()["vllm:request_success"]}
    assert counts == {"stop": 3, "length": 4, "abort": 24}


def test_nothing_is_known_too_early() -> None:
    assert list(aliases({}, DEFINITIONS)) == []
    assert found(0)["vllm:kv_cache_usage_perc"][0].value == 0.0
