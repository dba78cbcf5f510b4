"""Many clients at once, clients that leave, and the end of the server."""

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve

TEXT = "/v1/completions"


def read_stream(url: str, body: dict[str, object], limit: int | None = None) -> tuple[str, bool]:
    """Text of a stream and whether it ended properly; leaves after `limit` frames."""
    text, done, seen = "", False, 0
    with httpx.stream("POST", url + TEXT, json={**body, "stream": True}, timeout=120) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                text += json.loads(line[6:])["choices"][0]["text"]
                seen += 1
                if limit is not None and seen >= limit:
                    break
    return text, done


def test_32_clients_all_finish(server: RunningServer) -> None:
    def one(i: int) -> tuple[str, bool]:
        return read_stream(
            server.url, {"prompt": f"Story number {i}:", "max_tokens": 32, "seed": i, "ignore_eos": True}
        )

    with ThreadPoolExecutor(32) as threads:
        results = list(threads.map(one, range(32)))
    assert all(done and text for text, done in results)
    # A runner's statistics may follow its last tokens.
    server.wait(lambda: server.metric("requests_running") + server.metric("requests_waiting") == 0, 10)


def test_same_seed_same_text_in_any_batch(server: RunningServer) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 42, "temperature": 1.0}
    alone, _ = read_stream(server.url, body)

    def other(i: int) -> None:
        read_stream(server.url, {"prompt": "x " * (i * 13 + 1), "max_tokens": 24, "seed": i})

    with ThreadPoolExecutor(9) as threads:
        crowd = [threads.submit(other, i) for i in range(8)]
        in_company, _ = threads.submit(read_stream, server.url, body).result()
        for future in crowd:
            future.result()
    assert in_company == alone


def test_half_of_32_killed_mid_stream_leaves_nothing_running(server: RunningServer) -> None:
    leave = threading.Barrier(17)

    def leaver(i: int) -> None:
        body = {"prompt": f"Leaver {i}", "max_tokens": 1500, "seed": i, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", server.url + TEXT, json=body, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            leave.wait(60)  # all 16 have a stream; then all are cut

    def stayer(i: int) -> tuple[str, bool]:
        return read_stream(
            server.url, {"prompt": f"Stayer {i}", "max_tokens": 12, "seed": i, "ignore_eos": True}
        )

    with ThreadPoolExecutor(32) as threads:
        leavers = [threads.submit(leaver, i) for i in range(16)]
        stayers = [threads.submit(stayer, i) for i in range(16)]
        assert all(future.result()[1] for future in stayers)
        server.wait(lambda: server.metric("requests_running") == 16, patience=1.0)
        leave.wait(60)
        for future in leavers:
            future.result()
        took = server.wait(
            lambda: server.metric("requests_running") + server.metric("requests_waiting") == 0, patience=1.0
        )
    assert took < 1.0
    assert server.metric("kv_blocks_used") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_client_gone_aborts_streamed_or_not(server: RunningServer, stream: bool) -> None:
    body = json.dumps({"prompt": "Go on", "max_tokens": 1500, "ignore_eos": True, "stream": stream}).encode()
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80)) as raw:
        head = [
            f"POST {TEXT} HTTP/1.1",
            "host: x",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        raw.sendall("\r\n".join([*head, "", ""]).encode() + body)
        server.wait(lambda: server.metric("requests_running") == 1, patience=10)
    server.wait(lambda: server.metric("requests_running") == 0, patience=1.0)
    assert server.metric("kv_blocks_used") == 0


def test_more_requests_than_the_batch_wait_and_finish() -> None:
    with (
        serve(
            "--engine", "synthetic", "--synthetic.max-batch-size", "2", "--synthetic.itl", "0.01"
        ) as running,
        ThreadPoolExecutor(8) as threads,
    ):
        body = {"prompt": "x", "max_tokens": 10}
        results = list(threads.map(lambda _: read_stream(running.url, body), range(8)))
        assert all(done for _, done in results)


def test_live_streams_finish_on_sigterm() -> None:
    with (
        serve("--engine", "synthetic", "--synthetic.itl", "0.05") as running,
        ThreadPoolExecutor(1) as thread,
    ):
        result = thread.submit(read_stream, running.url, {"prompt": "x", "max_tokens": 40})
        running.wait(lambda: running.metric("requests_running") == 1, patience=10)
        running.process.send_signal(signal.SIGTERM)
        text, done = result.result()
        assert done
        assert text


def test_killed_runner_is_an_error_event_and_the_server_recovers() -> None:
    with (
        serve("--engine", "synthetic", "--synthetic.itl", "0.05") as running,
        ThreadPoolExecutor(1) as thread,
    ):
        begun = threading.Event()  # before its first token a sequence is moved, and nobody sees an error

        def read() -> list[str]:
            lines = []
            with httpx.stream(
                "POST",
                running.url + TEXT,
                json={"prompt": "x", "max_tokens": 500, "stream": True},
                timeout=60,
            ) as response:
                for line in filter(None, response.iter_lines()):
                    lines.append(line)
                    begun.set()
            return lines

        result = thread.submit(read)
        assert begun.wait(10)
        os.kill(running.processes("trtllm_openai.engine_host")[0], signal.SIGKILL)
        last = json.loads(result.result()[-1].removeprefix("data: "))
        assert last["error"]["type"] == "server_error"
        running.wait(lambda: httpx.get(running.url + "/health/ready").status_code == 200, patience=30)
        assert read_stream(running.url, {"prompt": "x", "max_tokens": 3})[1]
        assert running.metric("runner_restarts_total") == 1


def test_a_second_start_takes_less_than_10_seconds_of_processor_time(server: RunningServer) -> None:
    """`server` made sure that the demo model is converted.

    A second start takes some 6 seconds of processor time, and as many of two idle cores; how long it takes on
    a busy machine says nothing about the server.
    """
    with serve("--log-level", "warning") as second:
        assert second.cpu_seconds() < 10
        assert read_stream(second.url, {"prompt": "x", "max_tokens": 2})[1]
