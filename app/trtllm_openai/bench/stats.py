"""Statistics of one load: rates, percentiles, errors, goodput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_openai.bench.plan import Load, Record

PERCENTILES = (50, 90, 99)
TIMES = ("ttft", "itl", "tpot", "e2e")
SLO_NAMES = ("ttft", "tpot", "e2e")


def tpot(record: Record) -> float | None:
    """Time per output token: mean seconds between tokens after the first; None for a single token."""
    if record.output_tokens < 2:
        return None
    return (record.e2e - record.ttft) / (record.output_tokens - 1)


def summarise(load: Load, records: Sequence[Record], slo: dict[str, float]) -> dict[str, Any]:
    """One row of the result. Times in seconds. Rates count from first request to last response."""
    good = [record for record in records if not record.error]
    duration = 0.0
    if records:
        ends = max(record.began + record.e2e for record in records)
        duration = max(ends - min(record.began for record in records), 1e-9)
    samples: dict[str, Sequence[float] | np.ndarray[Any, Any]] = {
        "ttft": [record.ttft for record in good],
        "itl": np.concatenate([np.frombuffer(record.gaps) for record in good] or [np.empty(0)]),
        "tpot": [each for record in good if (each := tpot(record)) is not None],
        "e2e": [record.e2e for record in good],
    }
    tokens = sum(record.output_tokens for record in good)
    row: dict[str, Any] = {
        "load": load.label,
        "concurrency": load.concurrency,
        "rate": load.rate,
        "requests": len(records),
        "errors": dict(sorted(Counter(record.error for record in records if record.error).items())),
        "seconds": duration,
        "requests_per_s": len(good) / duration if records else 0.0,
        "output_tokens_per_s": tokens / duration if records else 0.0,
        "input_tokens": sum(record.input_tokens for record in good),
        "output_tokens": tokens,
        **{name: percentiles(samples[name]) for name in TIMES},
    }
    if slo:
        met = sum(meets(record, slo) for record in good)
        row["goodput_per_s"] = met / duration if records else 0.0
        row["slo_met"] = met / len(records) if records else 0.0
    return row


def percentiles(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float] | None:
    """`p50`, `p90` and `p99`; None without values."""
    if not len(values):
        return None
    found = np.percentile(np.asarray(values, dtype=np.float64), PERCENTILES)
    return {f"p{percent}": float(value) for percent, value in zip(PERCENTILES, found, strict=True)}


def meets(record: Record, slo: dict[str, float]) -> bool:
    """Whether a request met every bound of `slo`, in seconds."""
    times = {"ttft": record.ttft, "tpot": tpot(record) or 0.0, "e2e": record.e2e}
    return all(times[name] <= bound for name, bound in slo.items())


def parse_slo(text: str) -> dict[str, float]:
    """`ttft=0.5,tpot=0.05` in seconds. Raises ValueError."""
    slo = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in SLO_NAMES:
            raise ValueError(f"{name!r} is not one of {', '.join(SLO_NAMES)}")
        slo[name] = float(value)
    return slo
