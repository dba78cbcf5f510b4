"""vLLM's names for our metrics."""

import time

from trtllm_openai.generation import Capabilities, EngineInfo, EngineStats
from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.metrics import Metrics, PoolSnapshot
from trtllm_openai.telemetry.values import Series, merged
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


def adapters(counts: dict[str, tuple[int, int]]) -> Metrics:
    metrics = Metrics()
    metrics.watch_pool(lambda: PoolSnapshot(EngineStats(), build=("1.0", "torch", "m"), adapters=counts))
    return metrics


def test_waiting_sequences_by_reason_add_up() -> None:
    metrics = Metrics()
    stats = EngineStats(waiting=5, deferred=2)
    metrics.watch_pool(lambda: PoolSnapshot(stats, build=("1.0", "torch", "m")))
    every = {definition.name: series for definition, series in aliases(metrics.snapshot(), DEFINITIONS)}
    assert every["vllm:num_requests_waiting_by_reason"] == [
        Series(["m", "capacity"], 3),
        Series(["m", "deferred"], 2),
    ]
    assert every["vllm:num_requests_waiting"] == [Series(["m"], 5)]


def test_the_cache_is_told_once_its_blocks_are_known() -> None:
    def cache(blocks: int, info: EngineInfo | None) -> list[Series]:
        metrics = Metrics()
        stats = EngineStats(kv_blocks_total=blocks)
        metrics.watch_pool(lambda: PoolSnapshot(stats, build=("1.0", "torch", "m"), info=info))
        every = {one.name: series for one, series in aliases(metrics.snapshot(), DEFINITIONS)}
        return every.get("vllm:cache_config_info", [])

    info = EngineInfo("torch", "Llama", "float32", "cpu", 9, (), 50, 8, Capabilities(), kv_block_size=16)
    assert cache(300, None) == cache(0, info) == []
    assert cache(300, info) == [Series(["16", "300"], 1)]


def test_adapters_of_all_processes_are_told_by_name() -> None:
    """Two HTTP processes: one name for each adapter, wherever its sequences are."""
    one, other = (
        adapters({"b": (1, 0), "a": (2, 0), "c": (0, 0)}),
        adapters({"a": (0, 1), "b": (3, 0), "c": (0, 0)}),
    )
    before = time.time()
    snapshot = merged([one.snapshot(), other.snapshot()], DEFINITIONS)
    every = {definition.name: (definition, series) for definition, series in aliases(snapshot, DEFINITIONS)}
    definition, (series,) = every["vllm:lora_requests_info"]
    assert dict(zip(definition.labels, series.labels, strict=True)) == {
        "max_lora": "3",
        "running_lora_adapters": "a,b",
        "waiting_lora_adapters": "a",
    }
    assert before <= series.value <= time.time()
    without = {definition.name for definition, _ in aliases(adapters({}).snapshot(), DEFINITIONS)}
    assert "vllm:lora_requests_info" not in without


def test_bounds_of_token_counts_end_at_the_longest_sequence() -> None:
    """As vLLM's build_1_2_5_buckets(max_model_len)."""
    info = EngineInfo("torch", "Llama", "float32", "cpu", 9, (), 60, 8, Capabilities())
    metrics = Metrics()
    metrics.watch_pool(lambda: PoolSnapshot(EngineStats(), build=("1.0", "torch", "m"), info=info))
    for value in (3, 50, 60):
        metrics.request_max_tokens.observe(value)
    every = {one.name: (one, series) for one, series in aliases(metrics.snapshot(), DEFINITIONS)}
    definition, (series,) = every["vllm:request_params_max_tokens"]
    assert list(definition.bounds) == [1, 2, 5, 10, 20, 50]
    assert series.buckets == [0, 0, 1, 0, 0, 1, 1]
    assert (series.value, series.labels) == (113, ["m"])
    assert every["vllm:request_max_num_generation_tokens"][0].bounds == definition.bounds
