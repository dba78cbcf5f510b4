"""What the machine does to the server: files, ports, memory, disks and clocks."""

import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import RunningServer, serve
from tests.faults.conftest import LONG, TEXT, Start, Stream, launched

Say = Callable[[str], None]


def test_the_port_is_taken(start: Start, outcome: Say) -> None:
    with start() as victim:
        port = victim.url.rpartition(":")[2]
        with launched("--port", port, stderr=subprocess.PIPE) as second:
            _, error = second.communicate(timeout=60)
            assert second.returncode == 1
            assert port in error
            assert "Traceback" not in error
        assert victim.answers()
        outcome(error.strip().splitlines()[-1][:70])


@pytest.mark.parametrize("damage", ["truncated", "missing", pytest.param("rubbish", marks=pytest.mark.slow)])
def test_the_weights_are_damaged(demo_dir: Path, tmp_path: Path, outcome: Say, damage: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_dir, model)
    (weights,) = model.glob("*.safetensors")
    if damage == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(b"\0" * 1000)
    with launched("--model", str(model), stderr=subprocess.PIPE) as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert str(model) in error
    outcome(error.strip().splitlines()[-1].replace(str(tmp_path), "")[:90])


def test_no_memory_is_left_for_a_step(start: Start, outcome: Say) -> None:
    """The runner's address space is closed; what needs more of it fails, what does not goes on."""
    with start() as victim:
        before = victim.state()
        stream = Stream(victim.url, {**LONG, "max_tokens": 900})
        stream.wait_for_text()
        (runner,) = victim.runners()
        size = int(Path(f"/proc/{runner}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(runner, resource.RLIMIT_AS, (size + 2**20, resource.RLIM_INFINITY))
        greedy = httpx.post(
            victim.url + TEXT,
            json={"prompt": "word " * 900, "max_tokens": 1, "echo": True, "logprobs": 20},
            timeout=60,
        )
        resource.prlimit(runner, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert greedy.status_code == 500
        assert greedy.json()["error"]["code"] == "generation_failed"
        stream.join()
        assert victim.runners() == [runner]
        assert stream.done
        victim.recovers(before)
        outcome("the request that needed it got 500; a stream under way ended whole; same process")


def test_the_disk_of_the_log_is_full(outcome: Say, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full, launched("--port", "0", stderr=full) as process:
        server = RunningServer(process)
        assert process.stdout is not None
        for line in process.stdout:
            if "is ready on" in line:
                server.url = line.split()[-1]
                break
        for _ in range(3):
            response = httpx.post(server.url + TEXT, json={"prompt": "x", "max_tokens": 2}, timeout=60)
            assert response.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    outcome("started, served and ended as if it were not")


def test_the_log_is_not_read(outcome: Say) -> None:
    """A pipe takes 64 KiB; who writes more waits for its reader, unless he looks first."""
    with launched("--port", "0", "--engine", "synthetic", stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "is ready on" in line)
        with httpx.Client(base_url=line.split()[-1], timeout=30) as http:
            for _ in range(20):
                path = "/" + "x" * 6000
                assert http.get(path).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    outcome("served and ended as if it were; the lines that did not fit are lost")


def test_the_clock_jumps(start: Start, outcome: Say, tmp_path: Path) -> None:
    """Deadlines, queues and the watchdog run by the monotonic clock; only `created` follows the other."""
    clock = tmp_path / "clock"
    with start("--stall-timeout", "30", CLOCK_FILE=str(clock)) as victim:
        before = victim.state()
        stream = Stream(victim.url, {**LONG, "max_tokens": 200, "timeout": 100})
        stream.wait_for_text()
        for seconds in (86_400.0, -86_400.0):
            clock.write_text(str(seconds))
            answer = httpx.post(victim.url + TEXT, json={"prompt": "x", "max_tokens": 2}, timeout=60)
            assert answer.status_code == 200
            assert abs(answer.json()["created"] - time.time() - seconds) < 60
        stream.join()
        assert stream.done
        assert victim.server.metric("runner_restarts_total") == 0
        victim.recovers(before)
        outcome("a day forth and back: a stream with a deadline ended whole, nothing was restarted")


@pytest.mark.parametrize("workers", [1, 2])
def test_directories_and_descriptors_are_gone(outcome: Say, tmp_path: Path, workers: int) -> None:
    """While a process is replaced: the next attempt makes its own, and nothing is given up."""
    cwd, temporary = tmp_path / "cwd", Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for a socket
    cwd.mkdir()
    flags = ("--engine", "synthetic", "--workers", str(workers), "--log-level", "error")
    with serve(*flags, cwd=cwd, env={"TMPDIR": str(temporary)}) as server:

        def pids(of: str) -> list[int]:
            return server.processes({"runner": "engine_host", "worker": "serve.workers"}[of])

        def kill(of: str) -> None:
            for pid in pids(of):
                os.kill(pid, signal.SIGKILL)

        def answers() -> bool:
            try:
                answer = httpx.post(server.url + TEXT, json={"prompt": "x", "max_tokens": 1}, timeout=60)
            except httpx.TransportError:
                return False
            return answer.status_code == 200

        (sockets,) = temporary.iterdir()
        shutil.rmtree(sockets)
        server.wait(lambda: any(sockets.glob("runner-*.sock")), 10)  # the runner makes it again
        if workers > 1:
            kill("worker")
            server.wait(lambda: len(pids("worker")) == workers and answers(), 30)
        shutil.rmtree(temporary)
        cwd.rmdir()
        kill("runner")
        server.wait(lambda: server.metric("runners_ready") == 1 and answers(), 30)
        http = server.process.pid
        limit = resource.prlimit(http, resource.RLIMIT_NOFILE)
        resource.prlimit(http, resource.RLIMIT_NOFILE, (4, limit[1]))
        kill("runner")
        if workers > 1:
            os.kill(pids("worker")[0], signal.SIGKILL)
        time.sleep(1)
        assert pids("runner") == []
        resource.prlimit(http, resource.RLIMIT_NOFILE, limit)
        server.wait(lambda: len(pids("worker")) == (workers if workers > 1 else 0), 30)
        server.wait(lambda: answers() and server.metric("runners_ready") == 1, 30)
        left = [line for line in server.stderr if "Traceback" in line or "given up" in line]
        assert not left, server.stderr
    outcome("sockets, working and temporary directory, descriptors: served again, nothing given up")


def test_a_config_that_is_wrong(outcome: Say, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"limits": {"queue_timeout": -1}}))
    with launched("--config", str(file), stderr=subprocess.PIPE) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "limits.queue_timeout" in error
    outcome("status 2, the key is named")
