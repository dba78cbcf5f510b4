"""What happens to a runner happens to as few requests as possible."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import children, serve
from tests.faults.conftest import LONG, TEXT, Start, Stream, Victim, run_victim
from trtllm_openai.api.auth import make_key

Say = Callable[[str], None]


@pytest.fixture(scope="module")
def single(victim_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A server with one runner, which each test leaves as it found it."""
    with run_victim(victim_model, tmp_path_factory.mktemp("single")) as victim:
        yield victim


@pytest.fixture(scope="module")
def pair(victim_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """The same with two runners."""
    with run_victim(victim_model, tmp_path_factory.mktemp("pair"), "--replicas", "2") as victim:
        yield victim


def test_kill_a_runner_at_idle(single: Victim, outcome: Say) -> None:
    before, restarts = single.state(), single.server.metric("runner_restarts_total")
    os.kill(single.runners()[0], signal.SIGKILL)
    began = time.monotonic()
    single.server.wait(lambda: single.server.metric("runner_restarts_total") == restarts + 1, 30)
    single.recovers(before)
    outcome(f"served again after {time.monotonic() - began:.1f} s")


def test_kill_a_runner_in_mid_stream(pair: Victim, outcome: Say) -> None:
    before = pair.state()
    streams = [Stream(pair.url, LONG) for _ in range(4)]
    for stream in streams:
        stream.wait_for_text()
    os.kill(pair.runners()[0], signal.SIGKILL)
    for stream in streams:
        stream.join()
    broken = [stream for stream in streams if stream.error]
    whole = [stream for stream in streams if stream.done]
    assert len(broken) + len(whole) == 4
    assert len(broken) == 2
    assert {stream.error["code"] for stream in broken if stream.error} == {"generation_failed"}
    assert len({stream.text for stream in whole}) == 1
    for stream in broken:  # what came is a true part, nothing lost or doubled
        assert whole[0].text.startswith(stream.text)
    pair.recovers(before)
    outcome("its 2 streams got an error event, the other runner's 2 ended whole")


def test_kill_a_runner_before_there_is_text(outcome: Say) -> None:
    """The first tokens have no text, so that nothing was sent: the error is the response, not an event."""
    slow = ("--engine", "synthetic", "--synthetic.itl", "0.4", "--log-level", "error")
    with serve(*slow) as server:
        stream = Stream(server.url, {"prompt": "a b c", "max_tokens": 20})
        server.wait(lambda: server.metric("engine_generated_tokens_total") > 0, 30)
        os.kill(server.processes("trtllm_openai.engine_host")[0], signal.SIGKILL)
        stream.join()
        assert (stream.status, stream.chunks) == (500, [])
        server.wait(lambda: server.metric("runners_ready") == 1, 30)
    outcome("its stream got status 500")


def test_kill_a_runner_in_prefill(start: Start, outcome: Say) -> None:
    """Nothing was sent yet, so the other runner takes the request, and the client notices nothing."""
    prompt = "word " * 800
    with start("--replicas", "2", "--torch.max-batch-size", "1") as victim:
        before = victim.state()
        bodies = [{**LONG, "max_tokens": 60, "prompt": prompt} for _ in range(4)]
        runners = victim.runners()
        for runner in runners:  # else a prompt may be through before this has seen that it is not
            os.kill(runner, signal.SIGSTOP)
        streams = [Stream(victim.url, body) for body in bodies]
        victim.server.wait(lambda: victim.server.metric("requests_not_begun") == 4, 10)
        for runner in runners:
            os.kill(runner, signal.SIGCONT)
        os.kill(runners[0], signal.SIGKILL)
        for stream in streams:
            stream.join()
            assert stream.done, stream.chunks[-1:]
        # Asked afterwards: before, it would have cached the prompt, and left no prefill to kill.
        expected = httpx.post(victim.url + TEXT, json=bodies[0], timeout=90).json()["choices"][0]["text"]
        assert {stream.text for stream in streams} == {expected}
        assert victim.server.metric("moved_sequences_total") >= 1
        victim.recovers(before)
        outcome(f"{victim.server.metric('moved_sequences_total'):.0f} requests moved, all 4 answered in full")


def test_kill_the_only_runner_in_prefill(single: Victim, outcome: Say) -> None:
    """The request waits for the runner's successor."""
    before = single.state()
    single.fault("hang")
    stream = Stream(single.url, {**LONG, "max_tokens": 8})
    single.server.wait(lambda: not single.fault_file.exists(), 10)
    os.kill(single.runners()[0], signal.SIGKILL)
    stream.join()
    assert stream.done
    single.recovers(before)
    outcome("the request was answered by the next runner")


def test_a_request_that_ends_its_runners_is_given_up(pair: Victim, outcome: Say) -> None:
    """Alone it ends one runner, beside others two; no number of them ends the server or gives a runner up."""
    before = pair.state()
    moved, restarts = (pair.server.metric(f"{name}_total") for name in ("moved_sequences", "runner_restarts"))
    alone = httpx.post(pair.url + TEXT, json={"prompt": "x", "cache_salt": "raise"}, timeout=60)
    assert alone.status_code == 500
    assert "not tried again" in alone.json()["error"]["message"]
    assert pair.server.metric("moved_sequences_total") == moved
    pair.server.wait(lambda: pair.server.metric("runners_ready") == 2, 60)
    assert pair.server.metric("runner_restarts_total") == restarts + 1
    others = [Stream(pair.url, LONG) for _ in range(4)]
    for stream in others:
        stream.wait_for_text()
    bad = [Stream(pair.url, {"prompt": "x", "cache_salt": salt}) for salt in ("raise", "crash", "raise")]
    for stream in bad + others:
        stream.join()
    # 503: it came while both runners were started again.
    ends = [(stream.status, stream.error, stream.text) for stream in bad]
    assert all(error is not None or status in (500, 503) for status, error, _ in ends), ends
    assert all(stream.done or stream.error for stream in others)
    pair.server.wait(lambda: pair.server.metric("runners_ready") == 2, 60)
    again = [Stream(pair.url, {**LONG, "max_tokens": 8}) for _ in others]
    for stream in again:
        stream.join()
    assert all(stream.done for stream in again)
    assert "degraded" not in httpx.get(f"{pair.url}/health/ready").json()
    pair.recovers(before)
    outcome("alone: an error at once; beside others: moved once, then an error; the server stayed")


def test_stop_a_runner(start: Start, outcome: Say) -> None:
    """SIGSTOP: alive, and silent."""
    with start("--stall-timeout", "4") as victim:
        before = victim.state()
        stream = Stream(victim.url, LONG)
        stream.wait_for_text()
        os.kill(victim.runners()[0], signal.SIGSTOP)
        victim.server.wait(lambda: httpx.get(f"{victim.url}/health/ready").status_code == 503, 10)
        said = httpx.get(f"{victim.url}/health/ready").json()["error"]["message"]
        assert "runner 0 is unresponsive: it gave no result for" in said
        for still_well in ("live", "startup"):
            assert httpx.get(f"{victim.url}/health/{still_well}").status_code == 200
        stream.join()
        assert stream.error is not None
        victim.recovers(before)
        outcome("not ready, with the reason, after 1 s; replaced after 4; its stream got an error event")


def test_the_engine_raises(single: Victim, outcome: Say) -> None:
    before = single.state()
    stream = Stream(single.url, LONG)
    stream.wait_for_text()
    single.fault("raise")
    stream.join()
    assert stream.error is not None
    assert "asked for" not in stream.error["message"]
    single.recovers(before)
    outcome("error event, runner replaced")


def test_a_step_runs_out_of_memory(single: Victim, outcome: Say) -> None:
    before = single.state()
    stream = Stream(single.url, LONG)
    stream.wait_for_text()
    (runner,) = single.runners()
    single.fault("memory")
    refused = httpx.post(single.url + TEXT, json={"prompt": "Hi", "max_tokens": 2}, timeout=60)
    stream.join()
    # Whichever made the step larger is given up, and only that one.
    assert (refused.status_code == 500) != (stream.error is not None)
    assert single.runners() == [runner]
    single.recovers(before)
    outcome("one request got an error, the engine went on")


@pytest.mark.parametrize(
    ("workers", "replicas", "pause"), [pytest.param(1, 1, 5, marks=pytest.mark.slow), (2, 2, 600)]
)
def test_runners_that_cannot_start_are_given_up_and_tried_again(
    victim_model: Path, tmp_path: Path, outcome: Say, workers: int, replicas: int, pause: int
) -> None:
    """The checkpoint is damaged while the server runs. One worker: the pause passes. Two: an admin asks."""
    model = tmp_path / "model"
    shutil.copytree(victim_model, model)
    (weights,) = model.glob("*.safetensors")
    key, line = make_key("ops", "api,admin")
    (tmp_path / "keys").write_text(line)
    flags = ["--workers", str(workers), "--replicas", str(replicas), "--runner-retry-interval", str(pause)]
    flags += ["--api-keys-file", str(tmp_path / "keys")]
    headers = {"authorization": f"Bearer {key}"}
    with (
        run_victim(model, tmp_path, *flags, key=key) as victim,
        httpx.Client(base_url=victim.url, headers=headers, timeout=60) as http,
    ):

        def states() -> list[str]:
            return [one["state"] for one in http.get("/admin/runners").json()["runners"]]

        def answer() -> httpx.Response:
            return http.post(TEXT, json={"prompt": "x", "max_tokens": 2})

        weights.rename(tmp_path / "weights")
        runners = victim.runners()
        os.kill(runners.pop(), signal.SIGKILL)
        if runners:
            victim.server.wait(lambda: sorted(states()) == ["given_up", "ready"], 30)
            assert answer().status_code == 200
            assert "was given up: " in http.get("/health/ready").json()["degraded"]
            os.kill(runners.pop(), signal.SIGKILL)
        victim.server.wait(lambda: states() == ["given_up"] * replicas, 30)
        victim.server.wait(lambda: http.get("/health/ready").status_code == 503, 10)
        refused = answer()
        assert refused.status_code == 503
        assert "was given up: " in refused.json()["error"]["message"]
        shutil.move(tmp_path / "weights", weights)
        if workers > 1:
            for index in range(replicas):
                assert http.post(f"/admin/runners/{index}/restart").status_code == 202
        victim.server.wait(lambda: states() == ["ready"] * replicas, 60)
        victim.server.wait(lambda: answer().status_code == 200, 10)
        outcome("other runners serve, then 503 with the reason; served again after the pause, or on request")


def test_kill_a_rank_of_a_runner(start: Start, outcome: Say) -> None:
    with start("--torch.tensor-parallel-size", "3") as victim:
        before = victim.state()
        stream = Stream(victim.url, LONG)
        stream.wait_for_text()
        ranks = children(victim.runners()[0])
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        stream.join()
        assert stream.error is not None
        victim.server.wait(lambda: victim.server.metric("runner_restarts_total") == 1, 30)
        victim.recovers(before)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in ranks)
        outcome("the stream got an error event, the other ranks ended, a new runner took over")
