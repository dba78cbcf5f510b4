"""Prometheus metrics: what the HTTP side counts, and gauges read from the pool at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.generation import EngineStats

PREFIX = "trtllm_openai"
_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TPOT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The metrics of one HTTP process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}_http_requests",
            "HTTP requests by route, method and status (499: the client left before the end)",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.sequences = Counter(
            f"{PREFIX}_sequences",
            "Generated sequences by how they ended (cancelled: the client left)",
            ["finish_reason"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            f"{PREFIX}_prompt_tokens", "Prompt tokens of accepted requests", registry=self.registry
        )
        self.generation_tokens = Counter(
            f"{PREFIX}_generation_tokens", "Tokens generated for clients", registry=self.registry
        )
        self.ttft = Histogram(
            f"{PREFIX}_time_to_first_token_seconds",
            "From the request's arrival to its first token",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.tpot = Histogram(
            f"{PREFIX}_time_per_output_token_seconds",
            "Mean time between the tokens of one request, after the first",
            buckets=_TPOT,
            registry=self.registry,
        )
        self.e2e = Histogram(
            f"{PREFIX}_e2e_request_latency_seconds",
            "From the request's arrival to its last token",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.queue_time = Histogram(
            f"{PREFIX}_queue_time_seconds",
            "From the submission of a request to its turn in the engine",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.rejected = Counter(
            f"{PREFIX}_rejected",
            "Requests refused with 429, by the bound they met",
            ["reason"],
            registry=self.registry,
        )
        self.cancelled = Counter(
            f"{PREFIX}_cancelled",
            "Requests ended before their answer was complete: client_gone, timeout, shutdown or error",
            ["reason"],
            registry=self.registry,
        )
        self.streams = Gauge(
            f"{PREFIX}_open_streams", "Streams being sent to clients", registry=self.registry
        )

    def watch_pool(self, snapshot: Callable[[], PoolSnapshot]) -> None:
        """Export the pool's gauges, as they are when somebody looks."""
        self.registry.register(_PoolCollector(snapshot))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


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


class _PoolCollector(Collector):
    def __init__(self, snapshot: Callable[[], PoolSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        pool = self._snapshot()
        stats = pool.stats
        usage = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        gauges = {
            "requests_running": ("Sequences the engines are working on", stats.running),
            "requests_waiting": ("Sequences waiting in the engines", stats.waiting),
            "requests_not_begun": ("Sequences without a first output yet", pool.not_begun),
            "requests_orphaned": ("Sequences that no request waits for any more", pool.orphaned),
            "kv_blocks_used": ("KV cache blocks in use", stats.kv_blocks_used),
            "kv_blocks_total": ("KV cache blocks there are", stats.kv_blocks_total),
            "runners_ready": ("ModelRunners that take requests", pool.ready),
            "runners": ("ModelRunners configured", pool.runners),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
        counters = {
            "engine_steps": ("Steps the engines made", stats.steps),
            "engine_prompt_tokens": ("Prompt tokens the engines took in", stats.prompt_tokens),
            "engine_generated_tokens": ("Tokens the engines made", stats.generated_tokens),
            "kv_blocks_reused": ("KV cache blocks taken from earlier prompts", stats.kv_blocks_reused),
            "runner_restarts": ("Runners started again after a failure", pool.restarts),
            "moved_sequences": ("Sequences begun again because their runner was lost", pool.moved),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        # Under the names of vLLM too, which dashboards for inference servers look for.
        aliases: dict[str, tuple[str, float]] = {
            "vllm:num_requests_running": ("Alias of requests_running", stats.running),
            "vllm:num_requests_waiting": ("Alias of requests_waiting", stats.waiting),
            "vllm:kv_cache_usage_perc": ("Share of the KV cache's blocks in use, 0 to 1", usage),
        }
        for name, (text, share) in aliases.items():
            yield GaugeMetricFamily(name, text, value=share)
