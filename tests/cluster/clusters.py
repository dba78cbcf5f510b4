"""Ray clusters on this machine, servers on them, and what tests ask of both."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.e2e.conftest import RunningServer, serve

KEY = {"authorization": "Bearer k"}
SLOW = ("--engine", "synthetic", "--synthetic.itl", "0.02")
"""Each token takes 20 ms."""
VISIBLE = " a" * 20
"""Of the synthetic engine's tokens, which count up from the prompt's length, the first 17 have no text."""


def until(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.2)


def runners(server: RunningServer) -> list[dict[str, Any]]:
    """As /admin/runners has them."""
    with httpx.Client(base_url=server.url, headers=KEY, timeout=30) as client:
        found: list[dict[str, Any]] = client.get("/admin/runners").json()["runners"]
    return found


def ready(server: RunningServer) -> int:
    return sum(runner["state"] == "ready" for runner in runners(server))


def stream(
    server: RunningServer, tokens: int, prompt: str = VISIBLE, begun: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """A streamed completion: how many chunks had text, and the error that ended it.

    `begun` is called at the first text. Until then an error is the response's status, and no event.
    """
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    texts, failed = 0, ""
    with (
        httpx.Client(base_url=server.url, headers=KEY, timeout=120) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                failed = failed or str(chunk.get("error", {}).get("message", ""))
                if any(choice["text"] for choice in chunk.get("choices", [])):
                    texts += 1
                    if texts == 1:
                        begun()
    return texts, failed


class Streams:
    """So many streams at once, each of which has some text by now."""

    def __init__(self, server: RunningServer, number: int, tokens: int) -> None:
        self.results: list[tuple[int, str]] = []
        """Those that have ended, as `stream` returns them."""
        begun = threading.Semaphore(0)

        def run() -> None:
            self.results.append(stream(server, tokens, begun=begun.release))

        self._threads = [threading.Thread(target=run) for _ in range(number)]
        for thread in self._threads:
            thread.start()
        for _ in range(number):
            assert begun.acquire(timeout=60), "a stream did not begin"

    def join(self) -> list[tuple[int, str]]:
        """Wait for the end of all. Returns the results."""
        for thread in self._threads:
            thread.join(60)
        return self.results


@contextmanager
def under_load(server: RunningServer, clients: int) -> Iterator[None]:
    """So many clients stream, one answer after the other, until the block ends; none of them may fail."""
    failures: list[str] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            texts, failed = stream(server, 30)
            failures.extend([failed] * bool(failed) or ["it was empty"] * (not texts))

    threads = [threading.Thread(target=load) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert failures == []


@contextmanager
def served(address: str, *flags: str, replicas: str = "2") -> Iterator[RunningServer]:
    """A server with runners on the cluster, ready or not."""
    ray = ("--runners.launcher", "ray", "--runners.ray-address", address)
    with serve(*flags, "--replicas", replicas, *ray, env={"TRTLLM_OPENAI_API_KEY": "k"}) as server:
        yield server
