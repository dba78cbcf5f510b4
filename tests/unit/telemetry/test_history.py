"""Samples of the metrics, and the histograms between two of them."""

import asyncio

import pytest

from trtllm_openai.telemetry import history
from trtllm_openai.telemetry.definitions import DEFINITIONS
from trtllm_openai.telemetry.history import DISTRIBUTIONS, SAMPLED, History, columns, distributions, sample
from trtllm_openai.telemetry.metrics import Metrics
from trtllm_openai.telemetry.values import Snapshot


def observed(*seconds: float, rejected: int = 0) -> Snapshot:
    metrics = Metrics()
    for value in seconds:
        metrics.ttft.observe(value)
    for reason in ("queue_full", "key_concurrency"):
        metrics.rejected.labels(reason).inc(rejected)
    return metrics.snapshot()


def test_names_are_those_of_metrics() -> None:
    assert {DEFINITIONS[name].kind for name in DISTRIBUTIONS} == {"histogram"}
    assert {DEFINITIONS[name].kind for name in SAMPLED} == {"counter", "gauge"}


def test_columns_have_the_sum_over_labels_and_zero_for_what_is_missing() -> None:
    table = columns([sample(observed(), 10), sample(observed(rejected=3), 15.5)])
    assert table["at"] == [10, 15.5]
    assert table["rejected"] == [0, 6]
    assert table["kv_blocks_used"] == [0, 0], "there is no pool"
    assert {len(column) for column in table.values()} == {2}
    assert columns([])["rejected"] == []


def test_histograms_are_of_the_time_between_the_samples() -> None:
    first, last = sample(observed(0.02, 9.0), 0), sample(observed(0.02, 9.0, 9.5, 400), 5)
    found = distributions([first, last])
    ttft = found["time_to_first_token_seconds"]
    assert sum(ttft["counts"]) == 2
    assert ttft["counts"][ttft["bounds"].index(10)] == 1
    assert ttft["counts"][-1] == 1, "above every bound"
    assert ttft["sum"] == 409.5
    assert sum(found["inter_token_latency_seconds"]["counts"]) == 0
    assert distributions([])["e2e_request_latency_seconds"]["sum"] == 0


def test_the_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = History()
    for at in range(1000):
        kept.add({}, at)
    every = kept.samples
    assert every[-1].at == 999
    assert (len(every) - 1) * history.INTERVAL_S == history.WINDOW_S


def test_it_samples_until_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "INTERVAL_S", 0.001)

    async def main() -> None:
        kept = History()
        keeping = asyncio.create_task(kept.keep(lambda: observed(rejected=1)))
        while len(kept.samples) < 3:
            await asyncio.sleep(0.001)
        keeping.cancel()
        await asyncio.wait({keeping})
        assert columns(kept.samples)["rejected"][:3] == [2, 2, 2]

    asyncio.run(main())
