"""The number of runners follows the load, in one HTTP process and in two; nothing is lost on the way."""

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve

KEY = {"authorization": "Bearer k"}
FLAGS = (
    *("--engine", "synthetic", "--synthetic.itl", "0.02", "--synthetic.max-batch-size", "2"),
    *("--replicas", '{"min": 1, "max": 2}', "--log-level", "warning"),
    *("--runners.scale-up-queue-time", "0.3", "--runners.scale-down-after", "1"),
)


def tokens(server: RunningServer, number: int) -> int:
    """The length of a streamed completion that has to be complete."""
    body = {
        "prompt": "a b c",
        "max_tokens": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage = 0
    with (
        httpx.Client(base_url=server.url, headers=KEY, timeout=120) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk
                usage = (chunk.get("usage") or {}).get("completion_tokens", usage)
    return usage


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_up_under_load_and_down_after_it(workers: int) -> None:
    with (
        serve(*FLAGS, "--workers", str(workers), env={"TRTLLM_OPENAI_API_KEY": "k"}) as server,
        ThreadPoolExecutor(8) as executor,
    ):
        server.key = "k"
        assert [server.metric(name) for name in ("runners", "runners_wanted")] == [1, 1]
        over = threading.Event()

        def load() -> list[int]:
            made = []
            while not over.is_set():
                made.append(tokens(server, 20))
            return made

        loads = [executor.submit(load) for _ in range(6)]
        server.wait(lambda: server.metric("runners_ready") == 2, 60)
        assert server.metric("runners_wanted") == 2
        last: Future[int] = executor.submit(tokens, server, 200)  # 4 s: it is there when one is drained
        over.set()
        for one in loads:
            assert set(one.result()) == {20}
        with httpx.Client(base_url=server.url, headers=KEY, timeout=30) as client:
            server.wait(lambda: len(client.get("/admin/runners").json()["runners"]) == 1, 60)
            answer = client.get("/admin/runners").json()
            assert (answer["wanted"], answer["runners"][0]["state"]) == (1, "ready")
            assert client.get("/status").json()["wanted"] == 1
        assert last.result() == 200
        assert tokens(server, 5) == 5
        assert server.metric("moved_sequences_total") == 0
