"""A real Prometheus reads the server: alert rules, and data in every panel of docker/'s dashboard.

It is Debian's package `prometheus`; without it these tests are skipped.
"""

import json
import math
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.manifests import ROOT
from tests.e2e.conftest import RunningServer, serve

DOCKER = ROOT / "docker"
ALERTS = DOCKER / "alerts.yml"
pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not installed")


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", str(DOCKER / "prometheus.yml"))
    promtool("check", "rules", str(ALERTS))


def test_each_alert_comes_when_it_should() -> None:
    cases = Path(__file__).parent / "alerts_test.yml"
    promtool("test", "rules", str(cases))
    tested = set(re.findall(r"alertname: (\w+)", cases.read_text()))
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert tested == {rule["alert"] for rule in group["rules"]}


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **params: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=20).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """The values of a query now, without those that are no number."""
        found = [float(one["value"][1]) for one in self.get("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]


@pytest.fixture(scope="module")
def loaded(few_layers: Path) -> Iterator[RunningServer]:
    """A server with room for two sequences, and one that waits."""
    flags = (
        "--torch.max-seq-len",
        "512",
        "--torch.max-batch-size",
        "2",
        "--limits.max-waiting-requests",
        "1",
    )
    with serve("--model", str(few_layers), *flags, "--log-level", "warning") as running:
        yield running


def load(server: RunningServer) -> None:
    """Requests of which some are rejected, and one whose client leaves."""
    body = {"prompt": "Seoul is the capital of South Korea. " * 12, "max_tokens": 24, "ignore_eos": True}

    def ask(_: int) -> int:
        return httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(ask, range(16)))
    assert statuses == {200, 429}
    with (
        httpx.Client(timeout=60) as client,
        client.stream(
            "POST", f"{server.url}/v1/completions", json={**body, "stream": True, "max_tokens": 300}
        ) as answer,
    ):
        next(answer.iter_lines())
    server.wait(lambda: server.metric("requests_running") == 0, 30)


@pytest.fixture(scope="module")
def prometheus(loaded: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """docker/prometheus.yml with another target and a short interval."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ALERTS)]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [loaded.url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    running = Prometheus(f"http://{address}")
    try:
        loaded.wait(lambda: is_ready(running.url), 60)
        loaded.wait(lambda: running.values("up") == [1.0], 60)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def is_ready(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    return False


@pytest.mark.slow
def test_every_panel_has_data_and_no_alert_is_on(loaded: RunningServer, prometheus: Prometheus) -> None:
    load(loaded)
    rejected = "trtllm_openai_rejected_total"
    loaded.wait(lambda: bool(prometheus.values(rejected)), 30)  # a rate needs a series that has begun
    load(loaded)
    panels = json.loads((DOCKER / "grafana" / "dashboard.json").read_text())["panels"]
    queries = {target["expr"] for panel in panels for target in panel["targets"]}
    assert len(queries) > 15
    missing = queries

    def complete() -> bool:
        nonlocal missing
        missing = {query for query in missing if not prometheus.values(query)}
        return not missing

    with suppress(AssertionError):
        loaded.wait(complete, 30)
    assert not missing
    assert prometheus.values("sum(rate(trtllm_openai_rejected_total[1m]))")[0] > 0
    (group,) = prometheus.get("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []


@pytest.mark.slow
def test_vllms_names_are_read_too(loaded: RunningServer, prometheus: Prometheus) -> None:
    """As vLLM's dashboards ask; Prometheus takes every line of the page."""
    queries = (
        'vllm:num_requests_running{model_name!=""}',
        "histogram_quantile(0.9, sum by (le) (vllm:iteration_tokens_total_bucket))",
        "histogram_quantile(0.9, sum by (le) (vllm:request_params_max_tokens_bucket))",
        'sum(vllm:num_requests_waiting_by_reason{reason="capacity"})',
        "vllm:num_preemptions_total",
        "vllm:cache_config_info",
    )
    loaded.wait(lambda: all(prometheus.get("query", query=query)["result"] for query in queries), 30)
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
