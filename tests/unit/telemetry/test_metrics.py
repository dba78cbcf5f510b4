"""Metrics: what they count, how processes add up, and vLLM's names for the same numbers."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from trtllm_openai.generation import GUIDE_COMPILE_BOUNDS, EngineStats
from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.metrics import PREFIX, Metrics, PoolSnapshot, RunnerSnapshot, render
from trtllm_openai.telemetry.values import Definition, Snapshot, merged

ROOT = Path(__file__).resolve().parents[3]
OPERATIONS = ROOT / "docs" / "operations.md"


def filled(scale: int = 1) -> Metrics:
    metrics = Metrics()
    stats = EngineStats(running=3, waiting=2, kv_blocks_used=25, kv_blocks_total=100, steps=7)
    stats.guides_refused, stats.guides_ended = {"invalid_value": 1}, {"no_token_possible": 1}
    stats.count_step(20)
    stats.accepted_draft_tokens = {"0": 1}
    pool = PoolSnapshot(
        stats,
        runners=1,
        ready=1,
        wanted=2,
        each=[RunnerSnapshot(0, "ready", stats)],
        not_begun=4 * scale,
        build=("1.0", "torch", "m"),
        adapters={"sql": (scale, 1)},
    )
    metrics.watch_pool(lambda: pool)
    metrics.requests.labels("/v1/completions", "POST", "200").inc(scale)
    metrics.model_requests.labels("m").inc(scale)
    metrics.sequences.labels("stop").inc(scale)
    metrics.sequences.labels("tool_calls").inc(2 * scale)
    metrics.sequences.labels("cancelled").inc(5)
    metrics.prompt_tokens.inc(100 * scale)
    metrics.ttft.observe(0.05)
    metrics.ttft.observe(0.051)
    metrics.ttft.observe(1000)
    metrics.itl.observe(0.01, times=3)
    return metrics


def values(text: bytes) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_buckets_include_their_bound_and_are_cumulative() -> None:
    found = values(render(filled().snapshot()))
    name = f"{PREFIX}time_to_first_token_seconds"
    assert found[f"{name}_bucket{{le=0.025}}"] == 0
    assert found[f"{name}_bucket{{le=0.05}}"] == 1
    assert found[f"{name}_bucket{{le=0.1}}"] == 2
    assert found[f"{name}_bucket{{le=300.0}}"] == 2
    assert found[f"{name}_bucket{{le=+Inf}}"] == found[f"{name}_count{{}}"] == 3
    assert found[f"{name}_sum{{}}"] == pytest.approx(1000.101)
    assert found[f"{PREFIX}inter_token_latency_seconds_count{{}}"] == 3
    assert found[f"{PREFIX}inter_token_latency_seconds_sum{{}}"] == pytest.approx(0.03)


def test_sums_over_processes_take_shared_gauges_once() -> None:
    snapshots = [filled(1).snapshot(), filled(10).snapshot(), Metrics().snapshot()]
    sent = [msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Snapshot) for one in snapshots]
    found = values(render(merged(sent, DEFINITIONS)))
    assert found[f"{PREFIX}prompt_tokens_total{{}}"] == 1100
    assert found[f"{PREFIX}http_requests_total{{method=POST,route=/v1/completions,status=200}}"] == 11
    assert found[f"{PREFIX}time_to_first_token_seconds_count{{}}"] == 6
    assert found[f"{PREFIX}time_to_first_token_seconds_bucket{{le=0.1}}"] == 4
    assert found[f"{PREFIX}requests_not_begun{{}}"] == 44
    assert found[f"{PREFIX}requests_running{{}}"] == 3
    assert found[f"{PREFIX}adapter_sequences_running{{model_name=sql}}"] == 11
    assert found[f"{PREFIX}step_tokens_count{{}}"] == 1
    assert found[f"{PREFIX}engine_steps_total{{}}"] == 7
    assert found[f"{PREFIX}build_info{{engine=torch,model_name=m,version=1.0}}"] == 1
    assert snapshots[0] == filled(1).snapshot(), "merging changed what was merged"


def test_guides_of_all_engines() -> None:
    one = EngineStats(
        accepted_draft_tokens={"0": 3},
        guides_refused={"a": 1},
        guides_ended={"c": 2},
        guide_compile_seconds=0.25,
    )
    other = EngineStats(
        accepted_draft_tokens={"0": 1, "1": 2},
        guides_refused={"a": 2, "b": 1},
        guide_compile_seconds=1.5,
        steps=3,
    )
    one.guide_compile_counts[0], other.guide_compile_counts[-1] = 2, 1
    one.add(other)
    metrics = Metrics()
    metrics.watch_pool(lambda: PoolSnapshot(one))
    twice = [metrics.snapshot(), metrics.snapshot()]  # two HTTP processes
    found = values(render(merged(twice, DEFINITIONS)))
    assert found[f"{PREFIX}guides_refused_total{{reason=a}}"] == 3
    assert found[f"{PREFIX}guides_refused_total{{reason=b}}"] == 1
    assert found[f"{PREFIX}accepted_draft_tokens_total{{position=0}}"] == 4
    assert found[f"{PREFIX}accepted_draft_tokens_total{{position=1}}"] == 2
    assert found[f"{PREFIX}guides_ended_total{{reason=c}}"] == 2
    assert found[f"{PREFIX}guide_compile_seconds_bucket{{le={GUIDE_COMPILE_BOUNDS[0]}}}"] == 2
    assert found[f"{PREFIX}guide_compile_seconds_count{{}}"] == 3
    assert found[f"{PREFIX}guide_compile_seconds_sum{{}}"] == 1.75
    assert found[f"{PREFIX}engine_steps_total{{}}"] == 3
    assert len(EngineStats().guide_compile_counts) == len(GUIDE_COMPILE_BOUNDS) + 1


def test_names_of_vllm() -> None:
    found = values(render(filled().snapshot()))
    ours = "{model_name=m}"
    assert found[f"vllm:num_requests_running{ours}"] == 3
    assert found[f"vllm:num_requests_waiting{ours}"] == 2
    assert found[f"vllm:kv_cache_usage_perc{ours}"] == 0.25
    assert found[f"vllm:prompt_tokens_total{ours}"] == 100
    assert found[f"vllm:time_to_first_token_seconds_count{ours}"] == 3
    assert found["vllm:time_to_first_token_seconds_bucket{le=0.1,model_name=m}"] == 2
    for name in ("inter_token_latency_seconds", "time_per_output_token_seconds"):
        assert found[f"vllm:{name}_count{ours}"] == 3
    success = {
        reason: found[f"vllm:request_success_total{{finished_reason={reason},model_name=m}}"]
        for reason in ("stop", "length", "abort")
    }
    assert success == {"stop": 3, "length": 0, "abort": 5}
    assert found["vllm:iteration_tokens_total_bucket{le=32.0,model_name=m}"] == 1
    assert found["vllm:iteration_tokens_total_bucket{le=16.0,model_name=m}"] == 0
    assert found[f"vllm:iteration_tokens_total_sum{ours}"] == 20
    assert found[f"vllm:num_preemptions_total{ours}"] == 0
    assert found["vllm:request_inference_time_seconds_bucket{le=7680.0,model_name=m}"] == 0


def test_every_metric_is_exposed_with_its_unit_and_description() -> None:
    metrics = filled()
    metrics.rejected.labels("queue_full").inc()
    metrics.of_key("alice")
    metrics.cancelled.labels("timeout").inc()
    text = render(metrics.snapshot()).decode()
    for name, definition in DEFINITIONS.items():
        shown = PREFIX + name + ("_total" if definition.kind == "counter" else "")
        assert f"# HELP {shown} {definition.help}\n" in text
        assert f"# TYPE {shown} {definition.kind}\n" in text
        assert re.search(rf"^{shown}(_count)?[{{ ]", text, re.MULTILINE), name


def row(definition: Definition) -> str:
    name = PREFIX + definition.name + ("_total" if definition.kind == "counter" else "")
    labels = ", ".join(definition.labels)
    return f"| `{name}` | {definition.kind} | {labels} | {definition.help} |"


def test_the_page_has_every_metric_and_no_other() -> None:
    rows = [line for line in OPERATIONS.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    assert rows == [row(definition) for definition in DEFINITIONS.values()]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    text = render(filled().snapshot()).decode()
    exposed = set(re.findall(r"^(\w+?)(?:\{.*\})? \S+$", text, re.MULTILINE))
    exposed |= {f"{PREFIX}{name}_total" for name in ("rejected", "cancelled")}  # without series as yet
    panels = json.loads((ROOT / "docker" / "grafana" / "dashboard.json").read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(rf"{PREFIX}\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= exposed
