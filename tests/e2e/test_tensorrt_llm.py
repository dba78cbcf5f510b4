"""The tensorrt_llm engine over HTTP: a real server and real runner processes over the strict fake executor.

The fake's answers repeat their prompt. What is proved here is the server's side of the contract; nothing here
ran on TensorRT-LLM.
"""

import json
import os
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import python_path
from tests.e2e.conftest import RunningServer, children, serve
from tests.fakes.engine_dir import LOOKAHEAD, LORA, make_adapter, make_engine_dir
from tests.fakes.open_mpi import AS_ROOT, open_mpi_missing, other_machine
from trtllm_openai.processes.ranks import POLL_S, read_process

FAKES = Path(__file__).parents[1] / "fakes"
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
Start = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture
def start(tmp_path: Path, demo_dir: Path) -> Start:
    """`start(*flags, world=…, build={…}, **behaviour)` serves an engine over the fake."""

    @contextmanager
    def run(
        *flags: str,
        world: int = 1,
        gpus: str = "0,1,2,3",
        patience: float = 60.0,
        build: dict[str, Any] | None = None,
        **behaviour: Any,
    ) -> Iterator[RunningServer]:
        model = make_engine_dir(tmp_path / "llama", world, tokenizer=demo_dir, **(build or {}))
        env = {
            "PYTHONPATH": python_path(FAKES),
            "CUDA_VISIBLE_DEVICES": gpus,
            "FAKE_TRTLLM": json.dumps({"record": str(tmp_path / "record"), **behaviour}),
        }
        arguments = ["--engine", "tensorrt_llm", "--model", str(model), *flags]
        with serve(*arguments, env=env, patience=patience) as server:
            yield server

    return run


def recorded(tmp_path: Path, what: str) -> list[dict[str, Any]]:
    path = tmp_path / "record"
    lines = path.read_text().splitlines() if path.exists() else []
    return [fact for fact in map(json.loads, lines) if fact["what"] == what]


def stream(server: RunningServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx.stream("POST", server.url + TEXT, json={**body, "stream": True}, timeout=60) as response:
        data = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
    return [json.loads(item) for item in data]


def test_text_chat_sampling_guides_and_prefix_cache(start: Start, tmp_path: Path) -> None:
    """One server for many checks: starting it is what takes the time."""
    with (
        start("--tensorrt-llm.guided-decoding", "true") as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert http.get("/v1/models").json()["data"][0]["id"] == "llama"
        assert http.get("/version").json()["engine"] == "tensorrt_llm"

        korean = {"prompt": "대한민국의 수도는 👨‍👩‍👧‍👦", "max_tokens": 100, "temperature": 0}
        whole = http.post(TEXT, json=korean).json()
        assert whole["choices"][0]["text"] == korean["prompt"]
        assert whole["choices"][0]["finish_reason"] == "stop"
        chunks = stream(server, korean)
        pieces = [chunk["choices"][0]["text"] for chunk in chunks]
        assert "".join(pieces) == korean["prompt"]
        assert "\ufffd" not in "".join(pieces)
        assert len(pieces) > 8
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

        chat = http.post(
            CHAT, json={"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
        ).json()
        assert "helpful AI assistant" in chat["choices"][0]["message"]["content"]  # the prompt, repeated

        def one(i: int) -> str:
            body = {"prompt": f"Number {i}", "temperature": 0, "max_tokens": 50}
            return str(http.post(TEXT, json=body).json()["choices"][0]["text"])

        with ThreadPoolExecutor(24) as threads:  # three times the engine's max_batch_size
            assert list(threads.map(one, range(24))) == [f"Number {i}" for i in range(24)]

        stopped = http.post(TEXT, json={"prompt": "one two three", "temperature": 0, "stop": " thr"}).json()
        assert stopped["choices"][0]["text"] == "one two"

        scored = http.post(TEXT, json={"prompt": "one two", "temperature": 0, "logprobs": 0}).json()
        logprobs = scored["choices"][0]["logprobs"]
        assert logprobs["token_logprobs"][:2] == [-0.25, -0.5]
        for path, body, param in (
            (TEXT, {"prompt": "x", "logprobs": 2}, "logprobs"),
            (
                CHAT,
                {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2},
                "top_logprobs",
            ),
            (TEXT, {"prompt": "x " * 5000, "max_tokens": 1}, "prompt"),
        ):
            refused = http.post(path, json=body)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == param

        schema = {"type": "object"}
        guided = {
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 2,
            "priority": 0.9,
            "timeout": 5,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        }
        assert http.post(CHAT, json=guided).status_code == 200
        asked = recorded(tmp_path, "request")[-1]
        assert asked["guide"] == ["JSON_SCHEMA", '{"type":"object"}']
        assert asked["priority"] == 0.9
        assert asked["allotted_time_ms"] == 6000
        twice = http.post(CHAT, json={**guided, "guided_regex": "a"})
        assert twice.json()["error"]["param"] == "guided_regex"

        long = {"prompt": "word " * 200, "temperature": 0, "max_tokens": 2}
        http.post(TEXT, json=long)
        usage = http.post(TEXT, json=long).json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert 100 < cached <= usage["prompt_tokens"], "a block that matches in part counts whole"
    assert recorded(tmp_path, "shutdown")
    assert recorded(tmp_path, "request")[0]["sampling"]["top_k"] == 1


def test_adapters_are_models(start: Start, tmp_path: Path) -> None:
    """The fake answers with the prompt's ids shifted by the adapter's first weight; it keeps one adapter."""
    flags: list[str] = []
    for name, shift in (("sql", 3.0), ("ko", 5.0)):
        adapter = make_adapter(tmp_path / name, shift)
        flags += ["--tensorrt-llm.lora-adapters", f"{name}={adapter}"]
    with (
        start(*flags, "--workers", "1", build=LORA, lora_cache=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        cards = http.get("/v1/models").json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [
            ("llama", None),
            ("sql", "llama"),
            ("ko", "llama"),
        ]
        prompt = [1000, 1001, 1002, 1003]
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 4}

        def expected(shift: int) -> str:
            tokens = [token + shift for token in prompt]
            return str(http.post("/detokenize", json={"tokens": tokens}).json()["prompt"])

        shifts = {"sql": 3, "ko": 5, "llama": 0}
        for model in ("sql", "ko", "sql", "llama", "sql"):
            answer = http.post(TEXT, json={**body, "model": model}).json()
            assert (answer["model"], answer["choices"][0]["text"]) == (model, expected(shifts[model]))
        assert [fact["lora"] for fact in recorded(tmp_path, "request")] == [
            [1, True],
            [2, True],
            [1, False],  # evicted, and sent again without the client's notice
            [1, True],
            None,
            [1, False],
        ]
        chunks = stream(server, {**body, "model": "ko"})
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected(5)
        assert {chunk["model"] for chunk in chunks} == {"ko"}
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"

        long = {"prompt": "word " * 200, "temperature": 0, "max_tokens": 2}
        cached = [
            http.post(TEXT, json={**long, "model": model}).json()["usage"]["prompt_tokens_details"]
            for model in ("llama", "sql", "sql")
        ]
        assert [found["cached_tokens"] > 0 for found in cached] == [False, False, True]

        unknown = http.post(TEXT, json={**body, "model": "sq"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert "this server has 'llama', 'sql', 'ko'" in unknown.json()["error"]["message"]


def test_an_engine_built_for_lookahead(start: Start, tmp_path: Path) -> None:
    with (
        start(build=LOOKAHEAD, burst=3) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        assert recorded(tmp_path, "init")[0]["lookahead"] == [7, 7, 7]
        chunks = stream(server, {"prompt": "one two three four", "max_tokens": 20})  # greedy without a word
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two three four"
        message = {"messages": [{"role": "user", "content": "x"}]}
        for path, body, param in (
            (TEXT, {"prompt": "x", "temperature": 0.7}, "temperature"),
            (TEXT, {"prompt": "x", "top_p": 0.5}, "top_p"),
            (TEXT, {"prompt": "x", "logprobs": 0}, "logprobs"),
            (CHAT, {**message, "frequency_penalty": 1}, "frequency_penalty"),
            (CHAT, {**message, "response_format": {"type": "json_object"}}, "response_format"),
        ):
            refused = http.post(path, json=body)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("flags", "build", "message"),
    [
        (["--tensorrt-llm.lora-adapters", "sql=/nowhere"], LORA, "model.lora_weights.npy"),
        (["--tensorrt-llm.lora-adapters", "sql=/nowhere"], {}, "built without LoRA"),
        ([], {"speculative_decoding_mode": 4}, "the speculative decoding mode medusa"),
    ],
    ids=["missing files", "no plugin", "medusa"],
)
def test_features_missing_in_the_build_are_refused_at_start(
    start: Start, flags: list[str], build: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError) as caught, start(*flags, build=build):
        pass
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_client_that_leaves_and_a_deadline_cancel_the_request(start: Start, tmp_path: Path) -> None:
    """One server for all: starting it is what takes the time."""
    with start(itl=0.02) as server:

        def is_cancelled(times: int) -> None:
            server.wait(lambda: len(recorded(tmp_path, "cancel")) == times, patience=2)
            server.wait(lambda: server.metric("requests_running") == 0, patience=2)

        body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True}
        with httpx.stream("POST", server.url + TEXT, json={**body, "stream": True}, timeout=60) as response:
            next(response.iter_lines())
        is_cancelled(1)
        late = {**body, "timeout": 0.5}
        *chunks, error = stream(server, late)
        assert chunks
        assert error["error"]["code"] == "timeout"
        is_cancelled(2)
        whole = httpx.post(server.url + TEXT, json=late, timeout=60)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
        is_cancelled(3)


@pytest.mark.parametrize(
    ("world", "guided"), [(1, True), (2, False), pytest.param(2, True, marks=pytest.mark.slow)]
)
def test_a_full_executor_queue_is_429(start: Start, tmp_path: Path, world: int, guided: bool) -> None:
    """One GPU: the executor throws at enqueue. An orchestrator: it answers with an error response. What is
    `guided` is enqueued later, once its guide was compiled."""
    flags = ["--tensorrt-llm.max-queue-size", "1", "--tensorrt-llm.max-batch-size", "1"]
    guide = {"response_format": {"type": "json_object"}} if guided else {}
    flags += ["--tensorrt-llm.guided-decoding", str(guided).lower()]
    with (
        start(*flags, world=world, itl=0.2) as server,
        ThreadPoolExecutor(2) as threads,
    ):
        body = {"prompt": "x", "max_tokens": 25, "ignore_eos": True}
        runs = threads.submit(httpx.post, server.url + TEXT, json=body, timeout=60)
        server.wait(lambda: server.metric("requests_running") == 1, patience=5)
        short = {**body, "max_tokens": 2}
        waits = threads.submit(httpx.post, server.url + TEXT, json=short, timeout=60)
        server.wait(lambda: len(recorded(tmp_path, "request")) == 2, patience=5)
        message = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        refused = [
            httpx.post(server.url + TEXT, json=body, timeout=60),
            httpx.post(server.url + CHAT, json={**message, **guide}, timeout=60),
            httpx.post(server.url + CHAT, json={**message, **guide, "stream": True}, timeout=60),
            httpx.post(server.url + CHAT, json={**message, "stream": True}, timeout=60),
            httpx.post(server.url + TEXT, json={**body, "stream": True}, timeout=60),
            httpx.post(server.url + "/v1/responses", json={"input": "x", "stream": True}, timeout=60),
        ]
        for response in refused:
            assert response.status_code == 429, response.text
            assert response.json()["error"]["code"] == "queue_full"
            assert int(response.headers["retry-after"]) >= 1
        assert server.metric("rejected_total") == len(refused)
        assert [one.result().status_code for one in (runs, waits)] == [200, 200]


@pytest.mark.parametrize(
    ("limit", "status", "code"), [("queue", 429, "queue_timeout"), ("first-token", 504, "timeout")]
)
def test_timeouts_hold_for_what_waits_in_the_executors_queue(
    start: Start, tmp_path: Path, limit: str, status: int, code: str
) -> None:
    """The executor looks at a queued request only once it is active: nothing comes from it in time."""
    flags = [f"--limits.{limit}-timeout", "1", "--tensorrt-llm.max-batch-size", "1"]
    if limit == "queue":
        flags += ["--tensorrt-llm.guided-decoding", "true"]
    guide = {"response_format": {"type": "json_object"}} if limit == "queue" else {}
    with start(*flags, itl=0.02) as server:
        body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True}
        with httpx.stream("POST", server.url + TEXT, json={**body, "stream": True}, timeout=60) as runs:
            lines = runs.iter_lines()
            next(lines)
            message = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
            asked: list[tuple[str, dict[str, Any]]] = [
                (TEXT, body),
                (TEXT, {**body, "stream": True}),
                (CHAT, {**message, **guide}),
                (CHAT, {**message, **guide, "stream": True}),
                ("/v1/responses", {"input": "x", "stream": True}),
            ]
            with ThreadPoolExecutor(len(asked)) as threads:
                late = list(
                    threads.map(lambda one: httpx.post(server.url + one[0], json=one[1], timeout=60), asked)
                )
            for response in late:
                assert response.status_code == status, response.text
                assert response.json()["error"]["code"] == code
                assert ("retry-after" in response.headers) == (status == 429)
            server.wait(lambda: len(recorded(tmp_path, "cancel")) == len(asked), patience=5)
            assert server.metric("requests_running") == 1
        # What was cancelled in the queue leaves it when its turn comes, and holds nobody up.
        server.wait(lambda: httpx.post(server.url + TEXT, json={**body, "max_tokens": 2}).is_success, 10)


def test_a_client_that_leaves_the_executors_queue(start: Start, tmp_path: Path) -> None:
    with start("--tensorrt-llm.max-batch-size", "1", itl=0.02) as server:
        body = {"prompt": "x", "max_tokens": 100, "ignore_eos": True, "stream": True}
        with ThreadPoolExecutor(1) as threads:
            runs = threads.submit(stream, server, body)
            server.wait(lambda: server.metric("requests_running") == 1, patience=5)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(server.url + TEXT, json=body, timeout=0.2)
            server.wait(lambda: len(recorded(tmp_path, "cancel")) == 1, patience=5)
            after = httpx.post(server.url + TEXT, json={"prompt": "one two", "temperature": 0}, timeout=60)
            assert after.json()["choices"][0]["text"] == "one two"
            assert runs.result()[-1]["choices"][0]["finish_reason"] == "length"


def test_streams_beside_bad_and_stuck_guides_end_whole(start: Start, tmp_path: Path) -> None:
    """Inside the executor one of these would end every active request."""
    bad = {
        "guided_json": {"type": "nothing"},
        "guided_regex": "(",
        "guided_grammar": "root ::= missing",
    }
    stuck = {"guided_regex": "x".join(["(.{0,1000}){0,1000}"] * 6_000)}
    with (
        start("--tensorrt-llm.guided-decoding", "true", itl=0.05) as server,
        ThreadPoolExecutor(4) as threads,
    ):
        body = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
        streams = [threads.submit(stream, server, body) for _ in range(3)]
        server.wait(lambda: server.metric("requests_running") == 3, patience=10)
        held = threads.submit(httpx.post, server.url + TEXT, json=body | stuck, timeout=120)
        for param, guide in bad.items():
            refused = httpx.post(server.url + TEXT, json={**body, param: guide}, timeout=60)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"].startswith(param)
        good = httpx.post(server.url + TEXT, json={**body, "max_tokens": 2, "guided_regex": "a+"}, timeout=60)
        assert good.status_code == 200
        assert held.result().status_code == 400
        assert "too complex" in held.result().json()["error"]["message"]
        for one in streams:
            *_, last = one.result()
            assert last["choices"][0]["finish_reason"] == "length"
        assert len(recorded(tmp_path, "request")) == 4


def test_another_failure_at_enqueue_is_a_server_error(start: Start) -> None:
    with start(enqueue_error="CUDA error: an illegal memory access was encountered") as server:
        for streamed in (False, True):
            body = {"prompt": "x", "stream": streamed}
            response = httpx.post(server.url + TEXT, json=body, timeout=60)
            assert response.status_code == 500
            assert response.json()["error"]["type"] == "server_error"


def test_an_error_in_the_middle_of_a_stream(start: Start) -> None:
    with start(error_after=3) as server:
        *chunks, last = stream(server, {"prompt": "one two three four five", "temperature": 0})
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two three"
        assert last["error"]["type"] == "server_error"
        assert "CUDA error" in last["error"]["message"]
        assert "0x7f" not in last["error"]["message"]


def test_a_dead_rank_is_noticed_and_the_runner_replaced(start: Start, tmp_path: Path) -> None:
    with start("--stall-timeout", "1", stall_after=2) as server:
        *_, last = stream(server, {"prompt": "one two three four five", "temperature": 0})
        assert last["error"]["type"] == "server_error"
        server.wait(lambda: server.metric("runner_restarts_total") == 1, patience=10)
        server.wait(lambda: httpx.get(server.url + "/health/ready").status_code == 200, patience=20)
    assert len(recorded(tmp_path, "init")) == 2


def ranks_of(server: RunningServer) -> list[int]:
    """The spawned ranks of the runner."""
    return [pid for pid in _descendants(server.process.pid) if _name(pid) == "executorWorker"]


def test_a_killed_rank_is_noticed_at_once(start: Start) -> None:
    """Idle, loading and streaming: long before `stall_timeout` or `load_timeout`."""
    with start(world=3, rank_load=2.0, itl=0.02) as server:

        def kill_a_rank(restarts: int) -> None:
            ranks = ranks_of(server)
            os.kill(ranks[1], signal.SIGKILL)
            took = server.wait(lambda: server.metric("runner_restarts_total") == restarts, patience=8)
            print(f"replaced after {took:.2f} s")
            server.wait(lambda: not any(map(_alive, ranks)), patience=2)

        kill_a_rank(1)  # it was idle
        server.wait(lambda: len(ranks_of(server)) == 3, patience=20)
        time.sleep(3 * POLL_S)  # Open MPI's daemon, unlike the fake, has run for long when it starts them
        kill_a_rank(2)  # it was loading
        server.wait(lambda: httpx.get(server.url + "/health/ready").status_code == 200, patience=30)
        body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True}
        with ThreadPoolExecutor(1) as threads:
            streams = threads.submit(stream, server, body)
            server.wait(lambda: server.metric("requests_running") == 1, patience=10)
            kill_a_rank(3)
            assert streams.result()[-1]["error"]["type"] == "server_error"
        server.wait(lambda: httpx.get(server.url + "/health/ready").status_code == 200, patience=30)
        assert stream(server, {"prompt": "one two", "temperature": 0})
        failures = [line for line in server.stderr if "runner 0 failed: rank " in line]
        assert len(failures) == 3
        assert all("(executorWorker, process " in line for line in failures)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary directory whose path leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="here-") as path:
        yield Path(path)


@pytest.mark.skipif(bool(open_mpi_missing()), reason=open_mpi_missing())
def test_ranks_on_two_machines(
    start: Start, tmp_path: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real mpirun. The other machine has neither this one's environment nor its temporary files."""
    for name, value in AS_ROOT.items():
        monkeypatch.setenv(name, value)
    there = tmp_path / "there"
    there.mkdir()
    here = short_dir
    monkeypatch.setenv("TMPDIR", str(here))
    installed = {
        "PYTHONPATH": python_path(FAKES),
        "FAKE_TRTLLM": json.dumps({"record": str(tmp_path / "record")}),
    }
    command = [*other_machine(there, hides=here, **installed), "-n", "{world}"]
    with start(
        "--tensorrt-llm.launch", "leader", "--tensorrt-llm.mpi-command", shlex.join(command), world=2
    ) as server:
        assert list(here.glob("trtllm-openai-*/runner-0-0.sock"))
        assert stream(server, {"prompt": "one two", "temperature": 0})
        server.wait(lambda: len(recorded(tmp_path, "init")) == 2, patience=30)
        assert sorted((one["rank"], one["gpus"]) for one in recorded(tmp_path, "init")) == [
            (0, "0,1"),
            (1, None),
        ]
        far = [pid for pid in _descendants(server.process.pid) if f"TMPDIR={there}" in _environment(pid)]
        rank = next(pid for pid in far if "OMPI_COMM_WORLD_RANK=1" in _environment(pid))
        os.kill(rank, signal.SIGKILL)
        took = server.wait(lambda: server.metric("runner_restarts_total") == 1, patience=8)
        print(f"replaced after {took:.2f} s")
        server.wait(lambda: httpx.get(server.url + "/health/ready").status_code == 200, patience=30)
        assert stream(server, {"prompt": "one two", "temperature": 0})
        assert [line for line in server.stderr if f"runner 0 failed: rank 1 (python, process {rank})" in line]


def _name(pid: int) -> str:
    process = read_process(pid)
    return process.name if process is not None else ""


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def test_an_engine_that_never_loads(start: Start) -> None:
    """The port answers with the reason, and SIGTERM still ends everything."""
    with (
        pytest.raises(AssertionError, match="not ready in time"),
        start("--load-timeout", "1", init_hang=True, patience=5.0),
    ):
        pass


def test_a_shutdown_that_hangs(start: Start) -> None:
    with start(shutdown_hang=True) as server:
        assert stream(server, {"prompt": "one", "temperature": 0})
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 12


@pytest.mark.parametrize("mode", ["orchestrator", "leader"])
def test_tensor_parallel_4(start: Start, tmp_path: Path, mode: str) -> None:
    flags = ["--tensorrt-llm.launch", mode, "--tensorrt-llm.mpi-command", f"{FAKES}/mpirun -n {{world}}"]
    with start(*flags, world=4) as server:
        assert stream(server, {"prompt": "one two", "temperature": 0})
        ranks = [0, 1, 2, 3] if mode == "leader" else [0]
        server.wait(lambda: len(recorded(tmp_path, "init")) >= len(ranks), patience=30)
        assert sorted(fact["rank"] for fact in recorded(tmp_path, "init")) == ranks
        pids = _descendants(server.process.pid)
        assert len(pids) >= (5 if mode == "leader" else 1)
        if mode == "leader":
            rank = next(pid for pid in pids if "OMPI_COMM_WORLD_RANK=2" in _environment(pid))
            os.kill(rank, signal.SIGKILL)
            server.wait(lambda: server.metric("runner_restarts_total") == 1, patience=8)
            failed = [line for line in server.stderr if "runner 0 failed: " in line]
            assert f"rank 2 ({_name(os.getpid())}, process {rank}) " in failed[0]
            pids += _descendants(server.process.pid)
    time.sleep(0.2)
    assert not [pid for pid in pids if _alive(pid)]


def test_replicas_share_out_the_gpus(start: Start, tmp_path: Path) -> None:
    with start("--replicas", "2", world=2) as server:
        server.wait(lambda: len(recorded(tmp_path, "init")) == 2, patience=10)
        assert sorted(fact["gpus"] for fact in recorded(tmp_path, "init")) == ["0,1", "2,3"]


@pytest.mark.parametrize(
    ("flags", "gpus", "message"),
    [
        (["--replicas", "3"], "0,1,2,3", "3 replicas with 2 GPU(s) each need 6, but there are 4"),
        (["--gpus-per-replica", "1"], "0,1,2,3", "for 2 GPUs"),
        (["--tokenizer", "/nowhere"], "0,1,2,3", "no tokenizer directory /nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_at_start(
    start: Start, flags: list[str], gpus: str, message: str
) -> None:
    with pytest.raises(AssertionError) as caught, start(*flags, world=2, gpus=gpus):
        pass
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def _descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *_descendants(child))]


def _alive(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and not process.ended  # nobody may have asked for the status of an orphan


def test_the_pytorch_backend(demo_dir: Path) -> None:
    env = {"PYTHONPATH": python_path(FAKES), "CUDA_VISIBLE_DEVICES": "0", "FAKE_TRTLLM": "{}"}
    flags = ["--engine", "tensorrt_llm_pytorch", "--tensorrt-llm.guided-decoding", "true"]
    with serve(*flags, "--model", str(demo_dir), env=env) as server:
        assert httpx.get(server.url + "/version").json()["engine"] == "tensorrt_llm_pytorch"
        body = {"prompt": "one two three", "temperature": 0, "logprobs": 2}
        choice = httpx.post(server.url + TEXT, json=body).json()["choices"][0]
        assert choice["text"] == "one two three"
        assert len(choice["logprobs"]["top_logprobs"][0]) == 2
        pieces = [
            chunk["choices"][0]["text"] for chunk in stream(server, {"prompt": "a b", "temperature": 0})
        ]
        assert "".join(pieces) == "a b"
        for streamed in (False, True):
            bad = {"prompt": "x", "guided_regex": "(", "stream": streamed}
            refused = httpx.post(server.url + TEXT, json=bad, timeout=60)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_regex")
        good = httpx.post(server.url + TEXT, json={"prompt": "x", "guided_regex": "a+"}, timeout=60)
        assert good.status_code == 200
