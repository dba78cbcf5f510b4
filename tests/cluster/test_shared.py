"""Servers that share a pool of runners on a Ray cluster, any of which may go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.clusters import SLOW, Streams, ready, runners, served, stream, under_load, until
from tests.e2e.conftest import RunningServer

pytestmark = pytest.mark.slow
SHARED = (*SLOW, "--runners.pool", "shared", "--runners.orphan-timeout", "8")


def pids(server: RunningServer) -> list[int]:
    return [runner["pid"] for runner in runners(server)]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def kill(server: RunningServer) -> None:
    """The whole front machine is gone: the server with its HTTP workers."""
    for pid in (server.process.pid, *server.processes("trtllm_openai.serve.workers")):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


@contextmanager
def doomed(address: str) -> Iterator[RunningServer]:
    """A server that the block kills."""
    with pytest.raises(AssertionError, match="exit status -9"), served(address, *SHARED) as server:
        yield server


def test_servers_share_runners_and_any_of_them_may_vanish(cluster: Any) -> None:
    """The first one, which leads, is killed in the middle of streams; the second one takes over."""
    with ExitStack() as fronts, doomed(cluster.address) as first:
        until(lambda: ready(first) == 2)
        second = fronts.enter_context(served(cluster.address, *SHARED, "--workers", "2"))
        until(lambda: ready(second) == 2)
        before = pids(first)
        assert pids(second) == before
        assert [stream(one, 20)[1] for one in (first, second)] == ["", ""]
        streams = Streams(second, 4, 300)
        kill(first)
        assert [failed for _, failed in streams.join()] == [""] * 4
        os.kill(before[0], signal.SIGKILL)  # and is there somebody who starts it again?
        until(lambda: ready(second) == 2 and pids(second)[0] != before[0])
        assert pids(second)[1] == before[1]
        third = fronts.enter_context(served(cluster.address, *SHARED))
        until(lambda: ready(third) == 2)
        assert stream(third, 20)[1] == ""
        last = pids(third)
    until(lambda: not any(map(alive, last)), 20)  # the last server took them along


def test_runners_of_servers_that_all_vanished_end_by_themselves(cluster: Any) -> None:
    with doomed(cluster.address) as server:
        until(lambda: ready(server) == 2)
        orphans = pids(server)
        kill(server)
        assert all(map(alive, orphans))
        until(lambda: not any(map(alive, orphans)), 30)
    with served(cluster.address, *SHARED) as again:  # what they held is free again
        until(lambda: ready(again) == 2)
        assert stream(again, 20)[1] == ""


def test_a_server_with_other_settings_says_which(cluster: Any) -> None:
    with served(cluster.address, *SHARED):
        command = ["-m", "trtllm_openai", "serve", "--port", "0", *SHARED, "--synthetic.ttft", "0.5"]
        flags = ["--replicas", "2", "--runners.launcher", "ray", "--runners.ray-address", cluster.address]
        other = subprocess.run(
            [sys.executable, *command, *flags], capture_output=True, text=True, timeout=120
        )
        assert other.returncode == 1
        assert "the pool cannot be joined: its front machines have other settings: synthetic" in other.stderr


def test_the_number_of_runners_follows_the_load(cluster: Any) -> None:
    scaling = ("--runners.scale-up-queue-time", "0.5", "--runners.scale-down-after", "3")
    small = ("--synthetic.max-batch-size", "2")
    with served(cluster.address, *SLOW, *scaling, *small, replicas='{"min": 1, "max": 2}') as server:
        with under_load(server, 6):
            until(lambda: ready(server) == 2)
        until(lambda: len(runners(server)) == 1)
        assert stream(server, 20)[1] == ""
