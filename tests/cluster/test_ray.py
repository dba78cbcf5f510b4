"""A server whose runners Ray places on nodes: streams, a node that is lost, one that comes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve

pytest.importorskip("ray", reason="make cluster installs it")

from ray.cluster_utils import Cluster

KEY = {"authorization": "Bearer k"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without resources, and two nodes with room for a runner each."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        started.add_node(num_cpus=1)
    yield started
    started.shutdown()


def until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.2)


def ready(server: RunningServer) -> int:
    with httpx.Client(base_url=server.url, headers=KEY, timeout=30) as client:
        runners = client.get("/admin/runners").json()["runners"]
    return sum(runner["state"] == "ready" for runner in runners)


def stream(server: RunningServer, tokens: int) -> tuple[int, str]:
    """A streamed completion: how many chunks had text, and the error that ended it."""
    body = {"prompt": "a b c", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    texts, failed = 0, ""
    with (
        httpx.Client(base_url=server.url, headers=KEY, timeout=120) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                failed = failed or str(chunk.get("error", {}).get("message", ""))
                texts += any(choice["text"] for choice in chunk.get("choices", []))
    return texts, failed


SLOW = ("--engine", "synthetic", "--synthetic.itl", "0.02")
"""Each token takes 20 ms."""


@contextmanager
def served(cluster: Any, *engine: str) -> Iterator[RunningServer]:
    """A server with two runners on the cluster."""
    flags = (*engine, "--replicas", "2")
    ray = ("--runners.launcher", "ray", "--runners.ray-address", cluster.address)
    with serve(*flags, *ray, env={"TRTLLM_OPENAI_API_KEY": "k"}) as server:
        until(lambda: ready(server) == 2)
        yield server


def test_a_lost_node_takes_its_streams_and_nothing_else(cluster: Any) -> None:
    with served(cluster, *SLOW) as server:
        results: list[tuple[int, str]] = []
        threads = [threading.Thread(target=lambda: results.append(stream(server, 300))) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(2)  # in the middle of their 6 seconds
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        for thread in threads:
            thread.join(60)
        assert sorted(bool(failed) for _, failed in results) == [False, False, True, True]
        assert all(texts for texts, _ in results)
        assert ready(server) == 1
        assert stream(server, 20)[1] == ""
        cluster.add_node(num_cpus=1)
        until(lambda: ready(server) == 2)
        assert [stream(server, 20)[1] for _ in range(4)] == [""] * 4


def test_a_rolling_restart_fails_no_request(cluster: Any) -> None:
    with served(cluster, *SLOW) as server:
        failures: list[str] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                texts, failed = stream(server, 30)
                failures.extend([failed] * bool(failed) or ["it was empty"] * (not texts))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        with httpx.Client(base_url=server.url, headers=KEY, timeout=30) as client:
            for index in (0, 1):
                assert client.post(f"/admin/runners/{index}/restart").status_code == 202
                until(lambda: ready(server) == 1)
                until(lambda: ready(server) == 2)
            assert client.get("/admin/runners").json()["restarts"] == 2
        over.set()
        for thread in threads:
            thread.join(60)
        assert failures == []


def test_the_torch_engine_serves_on_nodes(cluster: Any, few_layers: Path) -> None:
    """Two runners with the same seed say the same: what TLS carries arrives whole."""
    body = {"prompt": "a b c", "max_tokens": 40, "seed": 5, "ignore_eos": True, "logprobs": 1}
    with (
        served(cluster, "--torch.device", "cpu", "--model", str(few_layers)) as server,
        ThreadPoolExecutor(4) as executor,
    ):

        def ask(_: int) -> str:
            response = httpx.post(f"{server.url}/v1/completions", json=body, headers=KEY, timeout=120)
            return str(response.raise_for_status().json()["choices"][0]["text"])

        texts = set(executor.map(ask, range(8)))
        assert len(texts) == 1
        assert texts != {""}
