"""Several HTTP workers on one port: to a client they are one server."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import RunningServer, children, serve
from trtllm_openai.api.auth import make_key

TEXT, RESPONSES = "/v1/completions", "/v1/responses"
FLAGS = ("--engine", "synthetic", "--workers", "2", "--replicas", "2", "--synthetic.itl", "0.02")
LONG = {"prompt": "Once upon a time", "max_tokens": 4000, "stream": True}


def workers(server: RunningServer) -> list[int]:
    return server.processes("trtllm_openai.serve.workers")


def connections(server: RunningServer, pid: int) -> int:
    """Connections on the server's port that a process holds."""
    port = int(server.url.rsplit(":", 1)[1])
    established = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].split(":")[1], 16) == port and words[3] == "01":
            established.add(f"socket:[{words[9]}]")
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(file) in established
        except OSError:
            continue
    return found


class Streams:
    """Open streams, each on a connection of its own."""

    def __init__(self, url: str, number: int, **headers: str) -> None:
        self._stack = ExitStack()
        client = self._stack.enter_context(httpx.Client(timeout=60))
        self.responses = [
            self._stack.enter_context(client.stream("POST", url + TEXT, json=LONG, headers=headers))
            for _ in range(number)
        ]
        self.lines = [response.iter_lines() for response in self.responses]
        for lines in self.lines:
            next(lines)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(*FLAGS, "--log-level", "warning") as running:
        running.wait(lambda: running.metric("runners_ready") == 2, 20)
        yield running


@pytest.fixture
def streams(server: RunningServer) -> Iterator[Callable[[int], Streams]]:
    opened: list[Streams] = []

    def open_them(number: int) -> Streams:
        opened.append(Streams(server.url, number))
        return opened[-1]

    yield open_them
    for one in opened:
        one.close()
    server.wait(lambda: server.metric("requests_running") == 0, 10)


def test_connections_and_sequences_are_shared_out(
    server: RunningServer, streams: Callable[[int], Streams]
) -> None:
    streams(24)
    held = [connections(server, pid) for pid in workers(server)]
    assert sum(held) >= 24
    assert max(held) - min(held) <= 6
    server.wait(lambda: server.metric("requests_running") == 24, 5)
    assert server.metric("open_streams") == 24


def test_the_numbers_are_those_of_the_whole_server(server: RunningServer) -> None:
    before = server.metric("generation_tokens_total"), server.metric("http_requests_total")

    def ask(_: int) -> int:
        body = {"prompt": "Hi", "max_tokens": 3}
        return httpx.post(server.url + TEXT, json=body, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(40))) == {200}
    for _ in range(6):  # whichever worker answers
        assert server.metric("generation_tokens_total") == before[0] + 120
    assert server.metric("http_requests_total") >= before[1] + 40


def test_the_status_is_that_of_the_whole_server(server: RunningServer) -> None:
    slow = {"prompt": "Hi", "max_tokens": 100, "timeout": 0.001}
    headers = {"connection": "close"}  # each on whichever worker

    def timed_out() -> dict[str, int]:
        httpx.post(server.url + TEXT, json=slow, headers=headers, timeout=60)
        failures = httpx.get(f"{server.url}/status", headers=headers, timeout=60).json()["failures"]
        found = [one for one in failures if one["what"] == f"POST {TEXT}" and one["status"] == 504]
        return {one["process"]: one["count"] for one in found}

    server.wait(lambda: len(timed_out()) == 2, 30)
    before = timed_out()
    assert all(re.fullmatch(r"http-\d+", process) for process in before)
    assert sum(timed_out().values()) == sum(before.values()) + 1, "whichever worker was asked"
    server.wait(lambda: len(httpx.get(f"{server.url}/status").json()["samples"]["at"]) > 1, 20)
    status = httpx.get(f"{server.url}/status").json()
    assert (status["workers"], len(status["runners"])) == (2, 2)
    assert status["samples"]["sequences"] == sorted(status["samples"]["sequences"])
    assert status["samples"]["sequences"][-1] >= sum(before.values())


def test_vllms_names_add_up_over_workers_and_count_shared_numbers_once(server: RunningServer) -> None:
    """Each request is counted by the worker that served it, each engine step by its runner alone."""
    names = ("request_params_n_sum", "request_params_n_count", "iteration_tokens_total_sum")

    def counts() -> list[float]:
        text = httpx.get(f"{server.url}/metrics", timeout=30).text
        found = [re.findall(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE) for name in names]
        return [float(value) for (value,) in found]

    server.wait(lambda: server.metric("requests_running") + server.metric("requests_waiting") == 0, 10)
    before = counts()
    body = {"prompt": [7], "max_tokens": 5, "n": 3}
    for _ in range(8):
        assert httpx.post(server.url + TEXT, json=body, timeout=60).status_code == 200
    after = [before[0] + 24, before[1] + 8, before[2] + 8 * 3 * (1 + 5)]
    server.wait(lambda: counts() == after, 10)


def test_stored_responses_are_found_by_other_workers(server: RunningServer) -> None:
    made: list[dict[str, Any]] = []
    for _ in range(6):
        body = {"input": "Hi", "max_output_tokens": 4}
        made.append(httpx.post(server.url + RESPONSES, json=body, timeout=60).json())
    keepers = {response["id"].split("_")[1] for response in made}
    assert all(len(response["id"].split("_")) == 3 for response in made), keepers
    for response in made:
        for _ in range(6):  # a new connection each, to either worker
            url = f"{server.url}{RESPONSES}/{response['id']}"
            assert httpx.get(url).json() == response
        items = httpx.get(f"{url}/input_items").json()["data"]
        assert items[0]["content"][0]["text"] == "Hi"
        body = {"input": "And?", "previous_response_id": response["id"], "max_output_tokens": 2}
        further = httpx.post(server.url + RESPONSES, json=body, timeout=60)
        assert further.status_code == 200
        assert further.json()["usage"]["input_tokens"] > response["usage"]["input_tokens"]
        assert httpx.delete(url).json()["deleted"]
        for _ in range(4):
            assert httpx.get(url).status_code == 404
            assert httpx.delete(url).status_code == 404


def test_a_background_response_is_cancelled_by_whichever_worker(server: RunningServer) -> None:
    for _ in range(6):
        body = {"input": "Hi", "max_output_tokens": 4000, "background": True}
        response = httpx.post(server.url + RESPONSES, json=body, timeout=60).json()
        assert response["status"] == "in_progress"
        url = f"{server.url}{RESPONSES}/{response['id']}"
        assert httpx.get(url).json()["status"] == "in_progress"
        assert httpx.post(f"{url}/cancel").json()["status"] == "cancelled"
        assert httpx.get(url).json()["status"] == "cancelled"
    server.wait(lambda: server.metric("requests_running") == 0, 5)


def test_unknown_keepers_and_ids_are_404(server: RunningServer) -> None:
    for name in ("resp_99_0", "resp_1_0", "resp__0", "resp_x", "resp_1_2_3"):
        error = httpx.get(f"{server.url}{RESPONSES}/{name}")
        assert error.status_code == 404
        assert error.json()["error"]["code"] == "response_not_found"


def test_bounds_hold_for_all_workers_together(tmp_path: Path) -> None:
    keys = {
        name: make_key(name, scopes) for name, scopes in {"a": "api", "b": "api", "admin": "admin"}.items()
    }
    file = tmp_path / "keys"
    file.write_text("".join(line + "\n" for _, line in keys.values()))
    flags = ("--api-keys-file", str(file), "--limits.max-requests-per-key", "3", "--log-level", "error")
    with serve(*FLAGS, *flags) as server:
        server.key = keys["admin"][0]
        bearer = {name: {"authorization": f"Bearer {key}"} for name, (key, _) in keys.items()}
        held = Streams(server.url, 3, **bearer["a"])
        for _ in range(8):
            refused = httpx.post(server.url + TEXT, json=LONG, headers=bearer["a"])
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "key_concurrency"
            short = {"prompt": "Hi", "max_tokens": 1}
            assert httpx.post(server.url + TEXT, json=short, headers=bearer["b"]).status_code == 200
        held.close()
        server.wait(
            lambda: httpx.post(server.url + TEXT, json=short, headers=bearer["a"]).status_code == 200, 5
        )
        # Pool control goes to the owner of the runners, whoever is asked.
        for _ in range(4):
            listed = httpx.get(f"{server.url}/admin/runners", headers=bearer["admin"]).json()
            assert [one["state"] for one in listed["runners"]] == ["ready", "ready"]
            assert {one["pid"] for one in listed["runners"]} == set(
                server.processes("trtllm_openai.engine_host")
            )
        missing = httpx.post(f"{server.url}/admin/runners/7/restart", headers=bearer["admin"])
        assert missing.status_code == 404
        before = set(server.processes("trtllm_openai.engine_host"))
        assert before == set(
            server.processes("trtllm_openai.engine_host synthetic")
        )  # started ahead, and taken
        assert httpx.post(f"{server.url}/admin/runners/1/restart", headers=bearer["admin"]).status_code == 202
        server.wait(lambda: server.metric("runner_restarts_total") == 1, 30)
        server.wait(lambda: server.metric("runners_ready") == 2, 30)
        assert len(before & set(server.processes("trtllm_openai.engine_host"))) == 1


def test_a_worker_that_dies_takes_only_its_own_requests_along(
    server: RunningServer, streams: Callable[[int], Streams]
) -> None:
    counted = server.metric("prompt_tokens_total")
    opened = streams(12)
    server.wait(lambda: server.metric("requests_running") == 12, 5)
    before = server.metric("prompt_tokens_total")
    assert before > counted
    time.sleep(1.2)  # a report later the supervisor has that number too
    victim, other = workers(server)
    lost = connections(server, victim)
    assert lost
    os.kill(victim, signal.SIGKILL)
    server.wait(lambda: len(workers(server)) == 2 and victim not in workers(server), 20)
    server.wait(lambda: server.metric("requests_running") <= 12 - lost + 1, 10)

    def breaks_off(lines: Iterator[str]) -> bool:
        try:
            for _ in range(600):  # more than can have been on its way
                next(lines)
        except httpx.HTTPError:
            return True
        return False

    with ThreadPoolExecutor(12) as pool:
        ended = sum(pool.map(breaks_off, opened.lines))
    assert ended in (lost, lost - 1)  # one of its connections may have been ours for /metrics
    assert server.metric("prompt_tokens_total") >= before
    assert other in workers(server)
    assert httpx.post(server.url + TEXT, json={"prompt": "Hi", "max_tokens": 1}).status_code == 200


def test_a_worker_that_is_being_replaced_refuses_nobody(server: RunningServer) -> None:
    """It is not ready for a second, and leaves the connections to the other."""
    victim, other = workers(server)
    os.kill(victim, signal.SIGKILL)
    server.wait(lambda: workers(server) == [other], 5)
    statuses: list[int] = []
    body = {"prompt": "Hi", "max_tokens": 1}
    with ExitStack() as held:  # what keeps its connection is shared out

        def replaced() -> bool:
            http = held.enter_context(httpx.Client(base_url=server.url, timeout=30))
            statuses.append(http.post(TEXT, json=body).status_code)
            statuses.append(http.get("/health/ready").status_code)
            return any(connections(server, pid) for pid in workers(server) if pid != other)

        server.wait(replaced, 30)
    assert set(statuses) == {200}


def test_a_runner_that_dies_is_replaced_for_every_worker(server: RunningServer) -> None:
    restarts = server.metric("runner_restarts_total")
    os.kill(server.processes("trtllm_openai.engine_host")[0], signal.SIGKILL)
    server.wait(lambda: server.metric("runner_restarts_total") == restarts + 1, 20)
    server.wait(lambda: server.metric("runners_ready") == 2, 20)
    failures = httpx.get(f"{server.url}/status").json()["failures"]
    assert any(one["process"] == "supervisor" and "runner 0 failed" in one["reason"] for one in failures)
    for _ in range(8):
        assert httpx.post(server.url + TEXT, json={"prompt": "Hi", "max_tokens": 1}).status_code == 200


def test_sigterm_drains_every_worker() -> None:
    with serve(*FLAGS, "--drain-timeout", "20", "--log-level", "error") as server:
        body = {"prompt": "Hi", "max_tokens": 150, "stream": True}

        def read(_: int) -> str:
            with httpx.stream("POST", server.url + TEXT, json=body, timeout=60) as response:
                return "".join(response.iter_text())

        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(read, index) for index in range(8)]
            server.wait(lambda: server.metric("open_streams") == 8, 10)
            server.process.send_signal(signal.SIGTERM)
            server.wait(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503, 2)
            for _ in range(4):
                refused = httpx.post(server.url + TEXT, json={"prompt": "Hi"})
                assert refused.status_code == 503
            assert all(answer.result().rstrip().endswith("data: [DONE]") for answer in answers)
        assert server.process.wait(20) == 0


def test_nothing_is_left_of_a_killed_supervisor() -> None:
    with (  # noqa: PT012 - it is the end of the block that raises
        pytest.raises(AssertionError, match="exit status -9"),
        serve(*FLAGS, "--log-level", "error") as server,
    ):
        left = children(server.process.pid)
        assert len(left) == 4
        stream = Streams(server.url, 2)
        server.process.kill()
        server.process.wait(10)
        server.wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 15)
        stream.close()


def test_a_wrong_keys_file_is_said_once_and_ends_the_server(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("not a key\n")
    with (
        pytest.raises(AssertionError, match="the server ended") as caught,
        serve(*FLAGS, "--api-keys-file", str(file)),
    ):
        raise AssertionError("it serves")
    said = str(caught.value)
    assert re.findall(r"api_keys_file: .*", said) == [
        f"api_keys_file: {file}, line 1: expected NAME SCOPES SHA256"
    ]


def test_a_worker_that_cannot_be_replaced_now_leaves_the_others_serving(tmp_path: Path) -> None:
    key, line = make_key("mine", "api")
    file = tmp_path / "keys"
    file.write_text(line + "\n")
    headers = {"authorization": f"Bearer {key}"}
    with serve(*FLAGS, "--api-keys-file", str(file), "--log-level", "error") as server:
        victim, other = workers(server)
        tried: set[int] = set()

        def tried_twice() -> bool:
            tried.update(workers(server))
            return len(tried - {victim, other}) >= 2

        def shared_out() -> bool:
            opened = Streams(server.url, 4, **headers)
            shares = [connections(server, pid) for pid in workers(server)]
            opened.close()
            return len(shares) == 2 and all(shares)

        file.write_text("not a key\n")
        os.kill(victim, signal.SIGKILL)
        server.wait(tried_twice, 20)
        body = {"prompt": "Hi", "max_tokens": 1}
        assert httpx.post(server.url + TEXT, json=body, headers=headers).status_code == 200
        file.write_text(line + "\n")
        server.wait(shared_out, 20)
        assert other in workers(server)
