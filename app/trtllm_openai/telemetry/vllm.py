"""Aliases of metrics with vLLM's names and labels, for dashboards made for vLLM; derived at scrape time.

If vLLM renamed a metric, both names are exposed. Semantics are this server's: inter-token latency is measured
per choice, and a request with several choices counts once for each.
"""

from __future__ import annotations

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
    "spec_decode_num_drafts": "drafts",
    "spec_decode_num_draft_tokens": "draft_tokens",
}
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
        yield definition, [Series(model, series.value, series.buckets) for series in snapshot[ours]]
    used, total = (snapshot[name][0].value for name in ("kv_blocks_used", "kv_blocks_total"))
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
