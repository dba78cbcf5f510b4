"""Prometheus metrics: what the HTTP side counts, and gauges read from the pool at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
        self.streams = Gauge(
            f"{PREFIX}_open_streams", "Streams being sent to clients", registry=self.registry
        )

    def watch_pool(self, snapshot: Callable[[], tuple[EngineStats, int, int, int]]) -> None:
        """Export the pool's gauges. `snapshot` gives stats, ready runners, all runners and restarts."""
        self.registry.register(_PoolCollector(snapshot))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _PoolCollector(Collector):
    def __init__(self, snapshot: Callable[[], tuple[EngineStats, int, int, int]]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        stats, ready, total, restarts = self._snapshot()
        gauges = {
            "requests_running": ("Sequences the engines are working on", stats.running),
            "requests_waiting": ("Sequences waiting in the engines", stats.waiting),
            "kv_blocks_used": ("KV cache blocks in use", stats.kv_blocks_used),
            "kv_blocks_total": ("KV cache blocks there are", stats.kv_blocks_total),
            "runners_ready": ("ModelRunners that take requests", ready),
            "runners": ("ModelRunners configured", total),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
        counters = {
            "engine_steps": ("Steps the engines made", stats.steps),
            "engine_prompt_tokens": ("Prompt tokens the engines took in", stats.prompt_tokens),
            "engine_generated_tokens": ("Tokens the engines made", stats.generated_tokens),
            "kv_blocks_reused": ("KV cache blocks taken from earlier prompts", stats.kv_blocks_reused),
            "runner_restarts": ("Runners started again after a failure", restarts),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
