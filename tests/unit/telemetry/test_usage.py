"""Usage by key: quantiles from buckets, and keys that have only some of the metrics."""

import pytest

from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.usage import quantile, usage_by_key
from trtllm_openai.telemetry.values import merged


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([0, 10, 0], 0.5, 1.5),
        ([0, 10, 0], 1.0, 2.0),
        ([5, 5, 0], 0.99, 1.98),
        ([5, 0, 5], 0.99, 2.0),  # above every bound
        ([0, 0, 1], 0.5, 2.0),
    ],
)
def test_quantiles_as_prometheus_estimates_them(buckets: list[int], q: float, expected: float | None) -> None:
    assert quantile(buckets, (1.0, 2.0), q) == (None if expected is None else pytest.approx(expected))


def test_processes_add_up() -> None:
    snapshots = []
    for tokens in (5, 7):
        metrics = Metrics()
        key = metrics.of_key("alice")
        assert metrics.of_key("alice") is key
        key.generation_tokens.inc(tokens)
        key.ttft.observe(0.2)
        snapshots.append(metrics.snapshot())
    usage = usage_by_key(merged(snapshots, DEFINITIONS))
    assert usage["alice"]["generation_tokens"] == 12
    assert usage["alice"]["requests"] == 0
    assert usage["alice"]["time_to_first_token_seconds"]["count"] == 2
    assert usage["alice"]["time_to_first_token_seconds"]["mean"] == pytest.approx(0.2)
    assert usage_by_key({}) == {}
