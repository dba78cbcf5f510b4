"""A server whose runners Ray places on nodes: streams, a node that is lost, one that comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.clusters import KEY, SLOW, Streams, ready, served, stream, under_load, until
from tests.e2e.conftest import RunningServer
from trtllm_openai.processes.address import connect, parse_address
from trtllm_openai.processes.authentication import AuthenticationError, authenticate, new_secret


@contextmanager
def two_runners(cluster: Any, *engine: str) -> Iterator[RunningServer]:
    """A server with two runners on the cluster."""
    with served(cluster.address, *engine) as server:
        until(lambda: ready(server) == 2)
        yield server


def attaches(server: RunningServer) -> bool:
    """Whether somebody without the key of a launch, who knows where its runner listens, is let in."""
    address = re.findall(r"runner 0 is placed at (tcp://\S+)", "".join(server.stderr))[-1]

    async def attach() -> bool:
        connection = await connect(parse_address(address))
        try:
            await authenticate(connection, new_secret())
        except AuthenticationError:
            return False
        finally:
            connection.close()
        return True

    return asyncio.run(attach())


def test_a_lost_node_takes_its_streams_and_nothing_else(cluster: Any) -> None:
    with two_runners(cluster, *SLOW) as server:
        assert not attaches(server)
        streams = Streams(server, 4, 200)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        assert sorted(bool(failed) for _, failed in streams.join()) == [False, False, True, True]
        assert ready(server) == 1
        assert stream(server, 20)[1] == ""
        cluster.add_node(num_cpus=1)
        until(lambda: ready(server) == 2)
        assert [stream(server, 20)[1] for _ in range(4)] == [""] * 4


@pytest.mark.slow
def test_a_rolling_restart_fails_no_request(cluster: Any) -> None:
    with (
        two_runners(cluster, *SLOW) as server,
        under_load(server, 4),
        httpx.Client(base_url=server.url, headers=KEY, timeout=30) as client,
    ):
        for index in (0, 1):
            assert client.post(f"/admin/runners/{index}/restart").status_code == 202
            until(lambda: ready(server) == 1)
            until(lambda: ready(server) == 2)
        assert client.get("/admin/runners").json()["restarts"] == 2


@pytest.mark.slow
def test_the_torch_engine_serves_on_nodes(cluster: Any, few_layers: Path) -> None:
    """Two runners with the same seed say the same: what TLS carries arrives whole."""
    body = {"prompt": "a b c", "max_tokens": 40, "seed": 5, "ignore_eos": True, "logprobs": 1}
    with (
        two_runners(cluster, "--torch.device", "cpu", "--model", str(few_layers)) as server,
        ThreadPoolExecutor(4) as executor,
    ):

        def ask(_: int) -> str:
            response = httpx.post(f"{server.url}/v1/completions", json=body, headers=KEY, timeout=120)
            return str(response.raise_for_status().json()["choices"][0]["text"])

        texts = set(executor.map(ask, range(8)))
        assert len(texts) == 1
        assert texts != {""}
