"""What happens to a runner happens to as few requests as possible."""

import os
import signal
import time
from collections.abc import Callable

import httpx

from tests.e2e.conftest import children
from tests.faults.conftest import LONG, TEXT, Start, Stream

Say = Callable[[str], None]


def test_kill_a_runner_at_idle(start: Start, outcome: Say) -> None:
    with start() as victim:
        before = victim.state()
        os.kill(victim.runners()[0], signal.SIGKILL)
        began = time.monotonic()
        victim.server.wait(lambda: victim.server.metric("runner_restarts_total") == 1, 30)
        victim.recovers(before)
        outcome(f"served again after {time.monotonic() - began:.1f} s")


def test_kill_a_runner_in_mid_stream(start: Start, outcome: Say) -> None:
    with start("--replicas", "2") as victim:
        before = victim.state()
        streams = [Stream(victim.url, LONG) for _ in range(4)]
        for stream in streams:
            stream.wait_for_text()
        os.kill(victim.runners()[0], signal.SIGKILL)
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
        victim.recovers(before)
        outcome("its 2 streams got an error event, the other runner's 2 ended whole")


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


def test_kill_the_only_runner_in_prefill(start: Start, outcome: Say) -> None:
    """The request waits for the runner's successor."""
    with start() as victim:
        before = victim.state()
        victim.fault("hang")
        stream = Stream(victim.url, {**LONG, "max_tokens": 8})
        victim.server.wait(lambda: not victim.fault_file.exists(), 10)
        os.kill(victim.runners()[0], signal.SIGKILL)
        stream.join()
        assert stream.done
        victim.recovers(before)
        outcome("the request was answered by the next runner")


def test_a_request_that_ends_its_runners_is_given_up(start: Start, outcome: Say) -> None:
    with start() as victim:
        before = victim.state()
        victim.fault("raise")
        stream = Stream(victim.url, {**LONG, "max_tokens": 8})
        victim.server.wait(lambda: not victim.fault_file.exists(), 10)
        victim.fault("raise")
        stream.join()
        assert stream.error is not None
        victim.recovers(before)
        outcome("moved once, then an error; the server stayed")


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


def test_the_engine_raises(start: Start, outcome: Say) -> None:
    with start() as victim:
        before = victim.state()
        stream = Stream(victim.url, LONG)
        stream.wait_for_text()
        victim.fault("raise")
        stream.join()
        assert stream.error is not None
        assert "asked for" not in stream.error["message"]
        victim.recovers(before)
        outcome("error event, runner replaced")


def test_a_step_runs_out_of_memory(start: Start, outcome: Say) -> None:
    with start() as victim:
        before = victim.state()
        stream = Stream(victim.url, LONG)
        stream.wait_for_text()
        (runner,) = victim.runners()
        other = httpx.Client(base_url=victim.url, timeout=60)
        victim.fault("memory")
        refused = other.post(TEXT, json={"prompt": "Hi", "max_tokens": 2})
        stream.join()
        # Whichever made the step larger is given up, and only that one.
        assert (refused.status_code == 500) != (stream.error is not None)
        assert victim.runners() == [runner]
        victim.recovers(before)
        outcome("one request got an error, the engine went on")


def test_a_runner_that_keeps_failing_is_given_up(start: Start, outcome: Say) -> None:
    with start("--replicas", "2") as victim:
        model = victim.runners()
        for _ in range(5):
            victim.server.wait(lambda: len(victim.runners()) == 2, 60)
            os.kill(max(set(victim.runners()) - {model[0]}), signal.SIGKILL)
            victim.server.wait(lambda: len(victim.runners()) == 1, 10)
        victim.server.wait(
            lambda: "given up" in httpx.get(f"{victim.url}/health/ready").json().get("degraded", ""), 30
        )
        assert victim.answers()
        reason = httpx.get(f"{victim.url}/health/ready").json()["degraded"]
        outcome(f"still serving on one; /health/ready: {reason[:60]}")


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
