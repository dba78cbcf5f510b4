"""The last 15 minutes of a server as samples of its metrics, for `GET /status`.

One process of a server keeps them: the only HTTP process, or the supervisor. A sample has the totals of
counters and not rates, so that whoever reads two of them knows the mean rate between them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import msgspec

from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.failures import Failure
from trtllm_openai.telemetry.values import Series, Snapshot

INTERVAL_S = 5.0
WINDOW_S = 900.0
SAMPLED = (
    "engine_generated_tokens",
    "engine_prompt_tokens",
    "requests_running",
    "requests_waiting",
    "requests_not_begun",
    "kv_blocks_used",
    "kv_blocks_total",
    "prefix_cache_queried_tokens",
    "prefix_cache_hit_tokens",
    "sequences",
    "rejected",
)
"""Metrics of which a sample has the sum over all labels."""
DISTRIBUTIONS = ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds")
"""Histograms of which a sample has the buckets."""


class Sample(msgspec.Struct, array_like=True):
    """The metrics at `at` (Unix seconds): `values` are those of `SAMPLED`, in its order; `buckets` and `sums`
    those of `DISTRIBUTIONS`.
    """

    at: float
    values: list[float]
    buckets: list[list[int]]
    sums: list[float]


class Overview(msgspec.Struct):
    """What one process keeps for all: samples, oldest first, and the failures of every process."""

    samples: list[Sample]
    failures: list[Failure]


def sample(snapshot: Snapshot, at: float) -> Sample:
    """The sample of a snapshot. Metrics that it lacks, before an engine is known, are 0."""
    every = [_whole(snapshot.get(name, []), len(DEFINITIONS[name].bounds)) for name in DISTRIBUTIONS]
    return Sample(
        at=at,
        values=[sum(series.value for series in snapshot.get(name, ())) for name in SAMPLED],
        buckets=[series.buckets for series in every],
        sums=[series.value for series in every],
    )


def _whole(series: list[Series], bounds: int) -> Series:
    return series[0] if series else Series([], 0.0, [0] * (bounds + 1))


class History:
    """Samples of the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=round(WINDOW_S / INTERVAL_S) + 1)

    def add(self, snapshot: Snapshot, at: float) -> None:
        """Add a sample; the oldest goes when there are too many."""
        self._samples.append(sample(snapshot, at))

    @property
    def samples(self) -> list[Sample]:
        """All samples, oldest first."""
        return list(self._samples)

    async def keep(self, snapshot: Callable[[], Snapshot]) -> None:
        """Sample until cancelled."""
        while True:
            self.add(snapshot(), time.time())
            await asyncio.sleep(INTERVAL_S)


def columns(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """The samples as one list for each name: `at` and those of `SAMPLED`."""
    lists = zip(*(one.values for one in samples), strict=True) if samples else repeat(())
    table = {name: [round(value, 3) for value in values] for name, values in zip(SAMPLED, lists)}  # noqa: B905
    return {"at": [round(one.at, 3) for one in samples], **table}


def distributions(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """What each histogram observed between the first sample and the last: bounds, counts and sum.

    `counts` has one more than `bounds`: what was above all. A server without samples has observed nothing.
    """
    result: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(DISTRIBUTIONS):
        bounds = DEFINITIONS[name].bounds
        counts, total = [0] * (len(bounds) + 1), 0.0
        if samples:
            first, last = samples[0], samples[-1]
            pairs = zip(first.buckets[index], last.buckets[index], strict=True)
            counts = [max(0, after - before) for before, after in pairs]
            total = max(0.0, last.sums[index] - first.sums[index])
        result[name] = {"bounds": list(bounds), "counts": counts, "sum": round(total, 6)}
    return result
