"""What each API key has used, from the merged metrics of all HTTP processes: `GET /admin/usage`."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.values import Series, Snapshot

_COUNTS = {
    "requests": "key_requests",
    "rejected": "key_rejected",
    "prompt_tokens": "key_prompt_tokens",
    "cached_tokens": "key_cached_tokens",
    "generation_tokens": "key_generation_tokens",
}
_LATENCIES = {
    "time_to_first_token_seconds": "key_time_to_first_token_seconds",
    "e2e_request_latency_seconds": "key_e2e_request_latency_seconds",
}


def usage_by_key(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Maps each key's label to its counts and latencies. Quantiles are estimated from histograms."""
    usage: dict[str, dict[str, Any]] = {}
    for field, name in _COUNTS.items():
        for series in snapshot.get(name, ()):
            usage.setdefault(series.labels[0], {})[field] = round(series.value)
    for field, name in _LATENCIES.items():
        for series in snapshot.get(name, ()):
            usage.setdefault(series.labels[0], {})[field] = _latency(series, DEFINITIONS[name].bounds)
    return usage


def _latency(series: Series, bounds: tuple[float, ...]) -> dict[str, float | int | None]:
    count = sum(series.buckets)
    return {
        "count": count,
        "mean": round(series.value / count, 6) if count else None,
        "p50": quantile(series.buckets, bounds, 0.5),
        "p99": quantile(series.buckets, bounds, 0.99),
    }


def quantile(buckets: list[int], bounds: tuple[float, ...], q: float) -> float | None:
    """Estimate like Prometheus' `histogram_quantile`: linear within a bucket, None without observations.

    Values above every bound count as the highest bound.
    """
    total = sum(buckets)
    if not total:
        return None
    rank = q * total
    for index, cumulative in enumerate(accumulate(buckets[:-1])):
        if cumulative >= rank:
            below = bounds[index - 1] if index else 0.0
            inside = (rank - (cumulative - buckets[index])) / buckets[index]
            return round(below + (bounds[index] - below) * inside, 6)
    return bounds[-1]
