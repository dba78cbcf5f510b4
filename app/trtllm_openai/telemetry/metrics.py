"""The server's metrics: what the HTTP side counts, and what the pool says when somebody looks.

Everything is defined in one table, which docs/operations.md repeats. Several HTTP processes are one server to
Prometheus: each sends its `Metrics.snapshot()` to whichever is asked, and that one renders
`render(merged(snapshots, DEFINITIONS))`. The names that vLLM's dashboards look for are made from the same
snapshot while it is rendered (`telemetry.vllm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trtllm_openai.generation import EngineStats
from trtllm_openai.telemetry.values import (
    Definition,
    Histogram,
    Labelled,
    Number,
    Series,
    Snapshot,
    series_of,
)
from trtllm_openai.telemetry.vllm import aliases

PREFIX = "trtllm_openai_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

_HTTP = (
    Definition(
        "http_requests",
        "counter",
        "HTTP requests by route, method and status (499: the client left before the end)",
        ("route", "method", "status"),
    ),
    Definition(
        "sequences",
        "counter",
        "Generated sequences by how they ended (cancelled: before they were complete)",
        ("finish_reason",),
    ),
    Definition(
        "rejected",
        "counter",
        "Requests refused before they began, by the bound or rule they met",
        ("reason",),
    ),
    Definition(
        "cancelled",
        "counter",
        "Requests ended before their answer was complete: client_gone, timeout, shutdown or error",
        ("reason",),
    ),
    Definition("prompt_tokens", "counter", "Prompt tokens of accepted requests"),
    Definition("generation_tokens", "counter", "Tokens generated for clients"),
    Definition("prefix_cache_queried_tokens", "counter", "Prompt tokens looked up in the prefix cache"),
    Definition("prefix_cache_hit_tokens", "counter", "Prompt tokens that were found in the prefix cache"),
    Definition(
        "time_to_first_token_seconds",
        "histogram",
        "From the request's arrival to its first token",
        bounds=_SECONDS,
    ),
    Definition(
        "inter_token_latency_seconds",
        "histogram",
        "Time between the tokens of one choice; those that came together share the time since the last",
        bounds=_SHORT,
    ),
    Definition(
        "time_per_output_token_seconds",
        "histogram",
        "Mean time between the tokens of one request, after the first",
        bounds=_SHORT,
    ),
    Definition(
        "e2e_request_latency_seconds",
        "histogram",
        "From the request's arrival to its last token",
        bounds=_SECONDS,
    ),
    Definition(
        "queue_time_seconds",
        "histogram",
        "From the submission of a request to its turn in the engine",
        bounds=_SECONDS,
    ),
    Definition("prefill_time_seconds", "histogram", "Time to first token without the queue", bounds=_SECONDS),
    Definition("decode_time_seconds", "histogram", "From the first token to the last", bounds=_SECONDS),
    Definition("request_prompt_tokens", "histogram", "Prompt tokens of a finished request", bounds=_TOKENS),
    Definition(
        "request_generation_tokens", "histogram", "Tokens generated for a finished request", bounds=_TOKENS
    ),
    Definition("open_streams", "gauge", "Streams being sent to clients"),
    Definition("requests_not_begun", "gauge", "Sequences without a first output yet"),
    Definition("requests_orphaned", "gauge", "Sequences that no request waits for any more"),
    Definition("moved_sequences", "counter", "Sequences begun again because their runner was lost"),
)
# Every process hears the same of the runners.
_POOL = (
    Definition("requests_running", "gauge", "Sequences the engines are working on", shared=True),
    Definition("requests_waiting", "gauge", "Sequences waiting in the engines (queue depth)", shared=True),
    Definition("kv_blocks_used", "gauge", "KV cache blocks in use", shared=True),
    Definition("kv_blocks_total", "gauge", "KV cache blocks there are", shared=True),
    Definition("kv_blocks_reused", "counter", "KV cache blocks taken from earlier prompts", shared=True),
    Definition("engine_steps", "counter", "Steps the engines made", shared=True),
    Definition("engine_prompt_tokens", "counter", "Prompt tokens the engines took in", shared=True),
    Definition("engine_generated_tokens", "counter", "Tokens the engines made", shared=True),
    Definition("runners_ready", "gauge", "ModelRunners that take requests", shared=True),
    Definition("runners", "gauge", "ModelRunners configured", shared=True),
    Definition("runner_restarts", "counter", "Runners started again after a failure", shared=True),
    Definition(
        "build_info",
        "gauge",
        "1; its labels say what is running",
        ("version", "engine", "model_name"),
        shared=True,
    ),
)
DEFINITIONS = {definition.name: definition for definition in (*_HTTP, *_POOL)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """The pool at one moment. `orphaned`: sequences that no request waits for any more."""

    stats: EngineStats = field(kw_only=False)
    ready: int = 0
    runners: int = 0
    restarts: int = 0
    moved: int = 0
    orphaned: int = 0
    not_begun: int = 0
    build: tuple[str, str, str] = ("", "", "")
    """Version, engine and model."""

    def values(self) -> dict[str, float]:
        """The pool's metrics without labels, by name."""
        stats = self.stats
        return {
            "requests_running": stats.running,
            "requests_waiting": stats.waiting,
            "requests_not_begun": self.not_begun,
            "requests_orphaned": self.orphaned,
            "kv_blocks_used": stats.kv_blocks_used,
            "kv_blocks_total": stats.kv_blocks_total,
            "kv_blocks_reused": stats.kv_blocks_reused,
            "engine_steps": stats.steps,
            "engine_prompt_tokens": stats.prompt_tokens,
            "engine_generated_tokens": stats.generated_tokens,
            "runners_ready": self.ready,
            "runners": self.runners,
            "runner_restarts": self.restarts,
            "moved_sequences": self.moved,
        }


class Metrics:
    """The metrics of one HTTP process. Used from its event loop only."""

    def __init__(self) -> None:
        self._own: dict[str, Number | Histogram | Labelled] = {}
        self._pool: Callable[[], PoolSnapshot] | None = None
        self.requests = self._labelled("http_requests")
        self.sequences = self._labelled("sequences")
        self.rejected = self._labelled("rejected")
        self.cancelled = self._labelled("cancelled")
        self.prompt_tokens = self._number("prompt_tokens")
        self.generation_tokens = self._number("generation_tokens")
        self.prefix_queries = self._number("prefix_cache_queried_tokens")
        self.prefix_hits = self._number("prefix_cache_hit_tokens")
        self.streams = self._number("open_streams")
        self.ttft = self._histogram("time_to_first_token_seconds")
        self.itl = self._histogram("inter_token_latency_seconds")
        self.tpot = self._histogram("time_per_output_token_seconds")
        self.e2e = self._histogram("e2e_request_latency_seconds")
        self.queue_time = self._histogram("queue_time_seconds")
        self.prefill_time = self._histogram("prefill_time_seconds")
        self.decode_time = self._histogram("decode_time_seconds")
        self.request_prompt_tokens = self._histogram("request_prompt_tokens")
        self.request_generation_tokens = self._histogram("request_generation_tokens")

    def watch_pool(self, snapshot: Callable[[], PoolSnapshot]) -> None:
        """Have the pool's metrics too, as they are when somebody looks."""
        self._pool = snapshot

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        snapshot = {name: series_of(metric) for name, metric in self._own.items()}
        if self._pool is not None:
            pool = self._pool()
            snapshot |= {name: [Series([], value)] for name, value in pool.values().items()}
            snapshot["build_info"] = [Series(list(pool.build), 1)]
        return snapshot

    def _number(self, name: str) -> Number:
        metric = self._own[name] = Number()
        return metric

    def _labelled(self, name: str) -> Labelled:
        metric = self._own[name] = Labelled()
        return metric

    def _histogram(self, name: str) -> Histogram:
        metric = self._own[name] = Histogram(DEFINITIONS[name].bounds)
        return metric


def render(snapshot: Snapshot) -> bytes:
    """A snapshot in Prometheus' text exposition format, vLLM's names included."""
    registry = CollectorRegistry()
    registry.register(_Rendered(snapshot))
    return generate_latest(registry)


def family(definition: Definition, name: str, every: list[Series]) -> Metric:
    """The series of one metric, exposed under `name`."""
    if definition.kind == "histogram":
        histogram = HistogramMetricFamily(name, definition.help, labels=definition.labels)
        names = [*map(str, map(float, definition.bounds)), "+Inf"]
        for series in every:
            counts = zip(names, accumulate(series.buckets), strict=True)
            histogram.add_metric(series.labels, list(counts), series.value)
        return histogram
    kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    simple = kind(name, definition.help, labels=definition.labels)
    for series in every:
        simple.add_metric(series.labels, series.value)
    return simple


class _Rendered(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        for name, definition in DEFINITIONS.items():
            if name in self._snapshot:
                yield family(definition, PREFIX + name, self._snapshot[name])
        for definition, series in aliases(self._snapshot, DEFINITIONS):
            yield family(definition, definition.name, series)
