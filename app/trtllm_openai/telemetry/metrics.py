"""The server's metrics: counted by the HTTP process, or read from the pool at scrape time.

All metrics are defined in one table, which docs/operations.md repeats. Several HTTP processes are one target
to Prometheus: the scraped process collects every `Metrics.snapshot()` and renders
`render(merged(snapshots, DEFINITIONS))`. Aliases with vLLM's names are derived from the same snapshot
(`telemetry.vllm`).
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

from trtllm_openai.generation import GUIDE_COMPILE_BOUNDS, STEP_TOKEN_BOUNDS, EngineInfo, EngineStats
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
# vLLM's buckets, for metrics that were added for its dashboards. Those of token counts end at the longest
# sequence there (`telemetry.vllm`).
_VLLM_SECONDS = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
_VLLM_TOKENS = tuple(mantissa * 10**exponent for exponent in range(7) for mantissa in (1, 2, 5))
_VLLM_N = (1, 2, 5, 10, 20)

_HTTP = (
    Definition(
        "http_requests",
        "counter",
        "HTTP requests by route, method and status (499: the client disconnected)",
        ("route", "method", "status"),
    ),
    Definition(
        "model_requests",
        "counter",
        "Accepted requests by model id: the served model or a LoRA adapter",
        ("model_name",),
    ),
    Definition(
        "sequences",
        "counter",
        "Finished sequences by finish reason (cancelled: ended before completion)",
        ("finish_reason",),
    ),
    Definition(
        "rejected",
        "counter",
        "Requests rejected by admission or rate limits, by reason",
        ("reason",),
    ),
    Definition(
        "cancelled",
        "counter",
        "Requests ended before completion, by cause: client_gone, timeout, shutdown or error",
        ("reason",),
    ),
    Definition("prompt_tokens", "counter", "Prompt tokens of accepted requests"),
    Definition("generation_tokens", "counter", "Generated tokens"),
    Definition("prefix_cache_queried_tokens", "counter", "Prompt tokens looked up in the prefix cache"),
    Definition("prefix_cache_hit_tokens", "counter", "Prompt tokens found in the prefix cache"),
    Definition(
        "time_to_first_token_seconds",
        "histogram",
        "Time from a request's arrival to its first token",
        bounds=_SECONDS,
    ),
    Definition(
        "inter_token_latency_seconds",
        "histogram",
        "Time between tokens of one choice; tokens that arrive together share the gap",
        bounds=_SHORT,
    ),
    Definition(
        "time_per_output_token_seconds",
        "histogram",
        "Mean time between tokens of one request, after the first",
        bounds=_SHORT,
    ),
    Definition(
        "e2e_request_latency_seconds",
        "histogram",
        "Time from a request's arrival to its last token",
        bounds=_SECONDS,
    ),
    Definition(
        "queue_time_seconds",
        "histogram",
        "Time that a request waits in the engine's queue",
        bounds=_SECONDS,
    ),
    Definition(
        "prefill_time_seconds", "histogram", "Time to first token without queue time", bounds=_SECONDS
    ),
    Definition("decode_time_seconds", "histogram", "Time from the first token to the last", bounds=_SECONDS),
    Definition("request_prompt_tokens", "histogram", "Prompt tokens of a finished request", bounds=_TOKENS),
    Definition(
        "request_generation_tokens", "histogram", "Generated tokens of a finished request", bounds=_TOKENS
    ),
    Definition(
        "inference_time_seconds",
        "histogram",
        "Time from the end of a request's queue time to its last token",
        bounds=_VLLM_SECONDS,
    ),
    Definition("request_n", "histogram", "n (or best_of) of a finished request", bounds=_VLLM_N),
    Definition(
        "request_max_tokens",
        "histogram",
        "max_tokens of a finished request, as it held: after defaults and limits",
        bounds=_VLLM_TOKENS,
    ),
    Definition(
        "request_longest_choice_tokens",
        "histogram",
        "Generated tokens of a finished request's longest choice",
        bounds=_VLLM_TOKENS,
    ),
    Definition("key_requests", "counter", "Finished generating requests by API key", ("key",)),
    Definition("key_prompt_tokens", "counter", "Their prompt tokens", ("key",)),
    Definition("key_cached_tokens", "counter", "Their prompt tokens found in the prefix cache", ("key",)),
    Definition("key_generation_tokens", "counter", "Their generated tokens", ("key",)),
    Definition("key_rejected", "counter", "Rejected requests by API key", ("key",)),
    Definition(
        "key_time_to_first_token_seconds",
        "histogram",
        "Time to first token by API key",
        ("key",),
        bounds=_SECONDS,
    ),
    Definition(
        "key_e2e_request_latency_seconds",
        "histogram",
        "Time from arrival to last token by API key",
        ("key",),
        bounds=_SECONDS,
    ),
    Definition("open_streams", "gauge", "Open response streams"),
    Definition("requests_not_begun", "gauge", "Sequences without a first token yet"),
    Definition("requests_orphaned", "gauge", "Sequences without a request; above 0 means a leak"),
    Definition(
        "adapter_sequences_running",
        "gauge",
        "Sequences of a LoRA adapter that an engine has begun with",
        ("model_name",),
    ),
    Definition(
        "adapter_sequences_waiting",
        "gauge",
        "Sequences of a LoRA adapter that no engine has begun with",
        ("model_name",),
    ),
    Definition("moved_sequences", "counter", "Sequences restarted on another runner after theirs was lost"),
    Definition(
        "undecodable_messages",
        "counter",
        "Messages that HTTP processes and their supervisor could not decode: a bug",
    ),
)
# Every HTTP process reports the same values of these, so they are not summed.
_POOL = (
    Definition("requests_running", "gauge", "Sequences running in the engines", shared=True),
    Definition("requests_waiting", "gauge", "Sequences waiting in the engines (queue depth)", shared=True),
    Definition(
        "requests_deferred",
        "gauge",
        "Sequences of requests_waiting that wait for a guide to be compiled, and not for room",
        shared=True,
    ),
    Definition("preemptions", "counter", "Sequences that lost their KV blocks to another", shared=True),
    Definition(
        "kv_block_tokens", "gauge", "Tokens of a KV cache block (0: the engine does not say)", shared=True
    ),
    Definition(
        "max_sequence_tokens",
        "gauge",
        "Maximum prompt + generated tokens of a sequence (0: no engine was ready yet)",
        shared=True,
    ),
    Definition("kv_blocks_used", "gauge", "KV cache blocks in use", shared=True),
    Definition("kv_blocks_total", "gauge", "Total KV cache blocks", shared=True),
    Definition("kv_blocks_reused", "counter", "KV cache blocks reused from the prefix cache", shared=True),
    Definition("engine_steps", "counter", "Engine steps", shared=True),
    Definition(
        "step_tokens",
        "histogram",
        "Tokens that an engine step computed, of prompts and generated ones (not tensorrt_llm_pytorch)",
        bounds=STEP_TOKEN_BOUNDS,
        shared=True,
    ),
    Definition("engine_prompt_tokens", "counter", "Prompt tokens prefilled by the engines", shared=True),
    Definition("engine_generated_tokens", "counter", "Tokens generated by the engines", shared=True),
    Definition("guides_compiled", "counter", "Guides compiled by the torch engine", shared=True),
    Definition(
        "guide_cache_hits", "counter", "Guides whose compiled form was kept from an earlier one", shared=True
    ),
    Definition("guide_cache_misses", "counter", "Guides that were not kept and are compiled", shared=True),
    Definition(
        "guides_refused",
        "counter",
        "Guides refused by the torch engine, by error code",
        ("reason",),
        shared=True,
    ),
    Definition(
        "guides_ended",
        "counter",
        "Guides of the torch engine that failed while their text was generated, by reason",
        ("reason",),
        shared=True,
    ),
    Definition(
        "guide_compile_seconds",
        "histogram",
        "CPU time of a guide's compilation on trial in the torch engine",
        bounds=GUIDE_COMPILE_BOUNDS,
        shared=True,
    ),
    Definition("guide_mask_seconds", "counter", "CPU time of the torch engine's token masks", shared=True),
    Definition("drafts", "counter", "Drafts verified by speculative decoding", shared=True),
    Definition("draft_tokens", "counter", "Tokens of these drafts", shared=True),
    Definition(
        "accepted_draft_tokens",
        "counter",
        "Tokens of these drafts that were accepted, by position in the draft, from 0",
        ("position",),
        shared=True,
    ),
    Definition(
        "adapters_sent_again",
        "counter",
        "LoRA adapters that TensorRT-LLM had dropped when asked for",
        shared=True,
    ),
    Definition(
        "runner_undecodable_messages",
        "counter",
        "Messages of HTTP processes that runners could not decode: a bug",
        shared=True,
    ),
    Definition("runners_ready", "gauge", "Runners that accept requests", shared=True),
    Definition("runners", "gauge", "Runners that there are, in whatever phase", shared=True),
    Definition("runners_wanted", "gauge", "Runners that there should be", shared=True),
    Definition(
        "runner_phase",
        "gauge",
        "1 for the phase that a runner is in, as /admin/runners has it",
        ("runner", "phase"),
        shared=True,
    ),
    Definition("runner_requests_running", "gauge", "Sequences running on a runner", ("runner",), shared=True),
    Definition("runner_requests_waiting", "gauge", "Sequences waiting on a runner", ("runner",), shared=True),
    Definition(
        "runner_kv_blocks_used", "gauge", "KV cache blocks in use on a runner", ("runner",), shared=True
    ),
    Definition("runner_kv_blocks_total", "gauge", "KV cache blocks of a runner", ("runner",), shared=True),
    Definition("runner_restarts", "counter", "Runner restarts after a failure", shared=True),
    Definition(
        "build_info",
        "gauge",
        "Always 1; version, engine and model are in the labels",
        ("version", "engine", "model_name"),
        shared=True,
    ),
)
DEFINITIONS = {definition.name: definition for definition in (*_HTTP, *_POOL)}


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
