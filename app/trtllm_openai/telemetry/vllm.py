"""Aliases of metrics with vLLM's names and labels, derived at scrape time: for dashboards made for vLLM and
for endpoint pickers of inference gateways.

If vLLM renamed a metric, both names are exposed. vLLM's label `engine` is not there: the numbers are those of
all runners. Semantics are this server's: inter-token latency is measured per choice, and a request with
several choices counts once for each in `request_success`.

Names, labels and buckets: vllm/v1/metrics/loggers.py. What an endpoint picker reads:
gateway-api-inference-extension, docs/proposals/003-model-server-protocol.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace

from trtllm_openai.telemetry.values import Definition, Series, Snapshot

_SAME = {
    "num_requests_running": "requests_running",
    "num_requests_waiting": "requests_waiting",
    "prompt_tokens": "prompt_tokens",
    "generation_tokens": "generation_tokens",
    "prefix_cache_queries": "prefix_cache_queried_tokens",
    "prefix_cache_hits": "prefix_cache_hit_tokens",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "inter_token_latency_seconds": "inter_token_latency_seconds",
    "time_per_output_token_seconds": "inter_token_latency_seconds",
    "request_time_per_output_token_seconds": "time_per_output_token_seconds",
    "e2e_request_latency_seconds": "e2e_request_latency_seconds",
    "request_queue_time_seconds": "queue_time_seconds",
    "request_prefill_time_seconds": "prefill_time_seconds",
    "request_decode_time_seconds": "decode_time_seconds",
    "request_prompt_tokens": "request_prompt_tokens",
    "request_generation_tokens": "request_generation_tokens",
    "request_inference_time_seconds": "inference_time_seconds",
    "request_params_n": "request_n",
    "request_params_max_tokens": "request_max_tokens",
    "request_max_num_generation_tokens": "request_longest_choice_tokens",
    "iteration_tokens_total": "step_tokens",
    "num_preemptions": "preemptions",
    "spec_decode_num_drafts": "drafts",
    "spec_decode_num_draft_tokens": "draft_tokens",
}
_UP_TO_LONGEST = frozenset({"request_params_max_tokens", "request_max_num_generation_tokens"})
"""Histograms of which vLLM's last bound is the longest sequence, or the next below it of 1, 2, 5, 10 …"""
_FINISHED = {"stop": "stop", "tool_calls": "stop", "length": "length"}
"""Maps our finish reasons to vLLM's; every other one is abort."""


def aliases(
    snapshot: Snapshot, definitions: Mapping[str, Definition]
) -> Iterator[tuple[Definition, list[Series]]]:
    """Yield each alias with its series; none before the snapshot names the model."""
    if not (build := snapshot.get("build_info")):
        return
    model = [build[0].labels[-1]]
    for name, ours in _SAME.items():
        definition = replace(
            definitions[ours], name=f"vllm:{name}", help=f"Alias of {ours}", labels=("model_name",)
        )
        every = [Series(model, series.value, series.buckets) for series in snapshot[ours]]
        if name in _UP_TO_LONGEST:
            definition, every = _cut(definition, every, _value(snapshot, "max_sequence_tokens"))
        yield definition, every
    used, total = _value(snapshot, "kv_blocks_used"), _value(snapshot, "kv_blocks_total")
    for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc"):
        share = Definition(f"vllm:{name}", "gauge", "KV cache usage, 0 to 1", ("model_name",))
        yield share, [Series(model, used / total if total else 0.0)]
    accepted = snapshot["accepted_draft_tokens"]
    by_position = Definition(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "counter",
        "Alias of accepted_draft_tokens",
        ("model_name", "position"),
    )
    yield by_position, [Series([*model, *series.labels], series.value) for series in accepted]
    whole = Definition(
        "vllm:spec_decode_num_accepted_tokens", "counter", "Sum of accepted_draft_tokens", ("model_name",)
    )
    yield whole, [Series(model, sum(series.value for series in accepted))]
    reasons = dict.fromkeys(("stop", "length", "abort"), 0.0)
    for series in snapshot["sequences"]:
        reasons[_FINISHED.get(series.labels[0], "abort")] += series.value
    success = Definition(
        "vllm:request_success", "counter", "Alias of sequences", ("model_name", "finished_reason")
    )
    yield success, [Series([*model, reason], count) for reason, count in reasons.items()]
    yield _waiting_by_reason(snapshot, model)
    if (block := _value(snapshot, "kv_block_tokens")) and total:
        cache = Definition(
            "vllm:cache_config_info",
            "gauge",
            "Always 1; tokens of a KV cache block and number of blocks are in the labels",
            ("block_size", "num_gpu_blocks"),
        )
        yield cache, [Series([str(int(block)), str(int(total))], 1)]
    if snapshot["adapter_sequences_running"]:
        yield _adapters(snapshot)


def _value(snapshot: Snapshot, name: str) -> float:
    return snapshot[name][0].value


def _cut(definition: Definition, every: list[Series], longest: float) -> tuple[Definition, list[Series]]:
    """A histogram without the bounds above `longest`; all of them stay while that is not known."""
    kept = bisect_right(definition.bounds, longest) if longest else len(definition.bounds)
    series = [Series(one.labels, one.value, [*one.buckets[:kept], sum(one.buckets[kept:])]) for one in every]
    return replace(definition, bounds=definition.bounds[:kept]), series


def _waiting_by_reason(snapshot: Snapshot, model: list[str]) -> tuple[Definition, list[Series]]:
    definition = Definition(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Waiting sequences: for room (capacity), or for something else, such as a guide (deferred)",
        ("model_name", "reason"),
    )
    waiting, deferred = _value(snapshot, "requests_waiting"), _value(snapshot, "requests_deferred")
    by_reason = {"capacity": max(waiting - deferred, 0.0), "deferred": deferred}
    return definition, [Series([*model, reason], count) for reason, count in by_reason.items()]


def _adapters(snapshot: Snapshot) -> tuple[Definition, list[Series]]:
    """vLLM's way to tell adapters: lists of names as labels, and the time as the value."""
    running, waiting = (
        ",".join(sorted(series.labels[0] for series in snapshot[name] if series.value))
        for name in ("adapter_sequences_running", "adapter_sequences_waiting")
    )
    definition = Definition(
        "vllm:lora_requests_info",
        "gauge",
        "Time of the scrape in Unix seconds; adapters with running and with waiting sequences are labels",
        ("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
    )
    most = str(len(snapshot["adapter_sequences_running"]))
    return definition, [Series([most, waiting, running], time.time())]
