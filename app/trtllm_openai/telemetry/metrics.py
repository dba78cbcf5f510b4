"""The server's metrics: counted by the HTTP process, or read from the pool at scrape time.

They are defined in `telemetry.definitions`. Several HTTP processes are one target to Prometheus: the scraped
process collects every `Metrics.snapshot()` and renders `render(merged(snapshots, DEFINITIONS))`. Aliases with
vLLM's names are derived from the same snapshot (`telemetry.vllm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

from trtllm_openai.generation import EngineInfo, EngineStats
from trtllm_openai.telemetry.definitions import DEFINITIONS
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


@dataclass(frozen=True, slots=True)
class RunnerSnapshot:
    """One runner of the pool: its index, the name of its phase, its statistics."""

    index: int
    phase: str
    stats: EngineStats

    def values(self) -> dict[str, float]:
        """Its metrics by name, without its phase."""
        return {
            "runner_requests_running": self.stats.running,
            "runner_requests_waiting": self.stats.waiting,
            "runner_kv_blocks_used": self.stats.kv_blocks_used,
            "runner_kv_blocks_total": self.stats.kv_blocks_total,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """Snapshot of the pool. `orphaned`: live sequences without a request."""

    stats: EngineStats = field(kw_only=False)
    ready: int = 0
    runners: int = 0
    wanted: int = 0
    each: Sequence[RunnerSnapshot] = ()
    restarts: int = 0
    moved: int = 0
    undecodable: int = 0
    orphaned: int = 0
    not_begun: int = 0
    build: tuple[str, str, str] = ("", "", "")
    """Version, engine and model."""
    info: EngineInfo | None = None
    """Facts of the engine, once one was ready."""
    adapters: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Sequences of each LoRA adapter, of this process: begun and waiting ones."""

    def values(self) -> dict[str, float]:
        """The pool's unlabelled metrics by name."""
        stats = self.stats
        return {
            "requests_running": stats.running,
            "requests_waiting": stats.waiting,
            "requests_deferred": stats.deferred,
            "requests_not_begun": self.not_begun,
            "requests_orphaned": self.orphaned,
            "preemptions": stats.preemptions,
            "kv_block_tokens": self.info.kv_block_size if self.info else 0,
            "max_sequence_tokens": self.info.max_seq_len if self.info else 0,
            "kv_blocks_used": stats.kv_blocks_used,
            "kv_blocks_total": stats.kv_blocks_total,
            "kv_blocks_reused": stats.kv_blocks_reused,
            "engine_steps": stats.steps,
            "engine_prompt_tokens": stats.prompt_tokens,
            "engine_generated_tokens": stats.generated_tokens,
            "guides_compiled": stats.guides_compiled,
            "guide_cache_hits": stats.guide_cache_hits,
            "guide_cache_misses": stats.guide_cache_misses,
            "guide_mask_seconds": stats.guide_mask_seconds,
            "drafts": stats.drafts,
            "draft_tokens": stats.draft_tokens,
            "adapters_sent_again": stats.adapters_sent_again,
            "runners_ready": self.ready,
            "runners": self.runners,
            "runners_wanted": self.wanted,
            "runner_restarts": self.restarts,
            "moved_sequences": self.moved,
            "undecodable_messages": self.undecodable,
            "runner_undecodable_messages": stats.undecodable_messages,
        }

    def series(self) -> dict[str, list[Series]]:
        """All of the pool's metrics."""
        stats = self.stats
        found = {name: [Series([], value)] for name, value in self.values().items()}
        labelled = {
            "guides_refused": stats.guides_refused,
            "guides_ended": stats.guides_ended,
            "accepted_draft_tokens": stats.accepted_draft_tokens,
        }
        for name, counts in labelled.items():
            found[name] = [Series([label], count) for label, count in counts.items()]
        for index, name in enumerate(("adapter_sequences_running", "adapter_sequences_waiting")):
            found[name] = [Series([adapter], numbers[index]) for adapter, numbers in self.adapters.items()]
        found["runner_phase"] = [Series([str(one.index), one.phase], 1) for one in self.each]
        for one in self.each:
            for name, value in one.values().items():
                found.setdefault(name, []).append(Series([str(one.index)], value))
        return found | {
            "guide_compile_seconds": [
                Series([], stats.guide_compile_seconds, list(stats.guide_compile_counts))
            ],
            "step_tokens": [Series([], stats.step_tokens, list(stats.step_token_counts))],
            "build_info": [Series(list(self.build), 1)],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMetrics:
    """The metrics of one API key. All are counted at the end of a request."""

    requests: Number
    prompt_tokens: Number
    cached_tokens: Number
    generation_tokens: Number
    rejected: Number
    ttft: Histogram
    e2e: Histogram


class Metrics:
    """The metrics of one HTTP process. Used from its event loop only."""

    def __init__(self) -> None:
        self._own: dict[str, Number | Histogram | Labelled[Number] | Labelled[Histogram]] = {}
        self._keys: dict[str, KeyMetrics] = {}
        self._pool: Callable[[], PoolSnapshot] | None = None
        self.requests = self._labelled("http_requests")
        self.model_requests = self._labelled("model_requests")
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
        self.inference_time = self._histogram("inference_time_seconds")
        self.request_n = self._histogram("request_n")
        self.request_max_tokens = self._histogram("request_max_tokens")
        self.request_longest_choice_tokens = self._histogram("request_longest_choice_tokens")
        self._key_requests = self._labelled("key_requests")
        self._key_prompt_tokens = self._labelled("key_prompt_tokens")
        self._key_cached_tokens = self._labelled("key_cached_tokens")
        self._key_generation_tokens = self._labelled("key_generation_tokens")
        self._key_rejected = self._labelled("key_rejected")
        self._key_ttft = self._labelled_histogram("key_time_to_first_token_seconds")
        self._key_e2e = self._labelled_histogram("key_e2e_request_latency_seconds")

    def of_key(self, label: str) -> KeyMetrics:
        """The metrics of one API key."""
        found = self._keys.get(label)
        if found is None:
            found = self._keys[label] = KeyMetrics(
                requests=self._key_requests.labels(label),
                prompt_tokens=self._key_prompt_tokens.labels(label),
                cached_tokens=self._key_cached_tokens.labels(label),
                generation_tokens=self._key_generation_tokens.labels(label),
                rejected=self._key_rejected.labels(label),
                ttft=self._key_ttft.labels(label),
                e2e=self._key_e2e.labels(label),
            )
        return found

    def watch_pool(self, snapshot: Callable[[], PoolSnapshot]) -> None:
        """Set the source of the pool's metrics, which is called on every scrape."""
        self._pool = snapshot

    def snapshot(self) -> Snapshot:
        """The current value of every metric."""
        snapshot = {name: series_of(metric) for name, metric in self._own.items()}
        if self._pool is not None:
            snapshot |= self._pool().series()
        return snapshot

    def _number(self, name: str) -> Number:
        metric = self._own[name] = Number()
        return metric

    def _labelled(self, name: str) -> Labelled[Number]:
        metric = self._own[name] = Labelled(Number)
        return metric

    def _labelled_histogram(self, name: str) -> Labelled[Histogram]:
        bounds = DEFINITIONS[name].bounds
        metric = self._own[name] = Labelled(lambda: Histogram(bounds))
        return metric

    def _histogram(self, name: str) -> Histogram:
        metric = self._own[name] = Histogram(DEFINITIONS[name].bounds)
        return metric


def render(snapshot: Snapshot) -> bytes:
    """Render a snapshot in Prometheus' text exposition format, with vLLM's aliases."""
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
