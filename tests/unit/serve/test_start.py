"""The order of start-up: engine hosts first, and what is imported when; no host is left, whatever ends it."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trtllm_openai.config import Settings
from trtllm_openai.engine_host.gpus import assign_gpus, gpus_per_replica
from trtllm_openai.engine_host.prestart import PrestartedHosts
from trtllm_openai.errors import ConfigError
from trtllm_openai.serve.start import first_gpus, run

NEVER = {"torch", "transformers", "triton", "tensorrt_llm", "ray", "numpy", "rich", "httpx", "llguidance"}
"""Packages that an HTTP process does without until a request needs them, if ever."""
PROGRAM = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from trtllm_openai.cli import main
from trtllm_openai.engine_host.prestart import PrestartedHosts

def say(what, *facts):
    print(what, *facts, file=sys.stderr, flush=True)

def imported():
    return sorted({name.split(".")[0] for name in sys.modules})

real = PrestartedHosts.start

async def start(self, engine, gpus):
    say("imported first:", *imported())
    await real(self, engine, gpus)
    say("hosts:", *(process.pid for _, process in self._waiting))
    if sys.argv[1] != "-":
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

PrestartedHosts.start = start
atexit.register(lambda: say("imported at the end:", *imported()))
sys.exit(main(["serve", "--port", "0", "--engine", "synthetic", *sys.argv[2:]]))
"""


class Started:
    """A server that says which hosts it starts, and what is imported then."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def wait_for(self, beginning: str) -> list[str]:
        """The rest of the first line that begins so, in words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith(beginning):
                return line.removeprefix(beginning).split()
        raise AssertionError("".join(self.said))


@contextmanager
def started(*flags: str, interrupt: str = "-") -> Iterator[Started]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, interrupt, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Started(process)
    finally:
        process.kill()
        process.communicate()


def gone(pid: int) -> bool:
    """Wait until there is no such process."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_the_host_imports_its_engine_while_the_http_side_is_imported(demo_dir: Path) -> None:
    with started("--model", str(demo_dir)) as server:
        before = set(server.wait_for("imported first:"))
        assert "pydantic" in before
        assert not before & {
            "fastapi",
            "starlette",
            "uvicorn",
            "tokenizers",
            "jinja2",
            "numpy",
            "prometheus_client",
        }
        (host,) = map(int, server.wait_for("hosts:"))
        server.wait_for("loading 100%")
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert children == [str(host)]  # it is the runner
        server.process.send_signal(signal.SIGTERM)
        after = set(server.wait_for("imported at the end:"))
        assert server.process.wait(30) == 0
        assert {"fastapi", "uvicorn", "tokenizers"} <= after
        assert not after & NEVER
        assert gone(host)


@pytest.mark.parametrize(("interrupt", "status"), [("SIGINT", 130), ("SIGKILL", -signal.SIGKILL)])
def test_no_host_is_left_when_start_up_is_interrupted(interrupt: str, status: int) -> None:
    """Before its launch nothing but its owner knows of it."""
    with started(interrupt=interrupt) as server:
        (host,) = map(int, server.wait_for("hosts:"))
        assert server.process.wait(30) == status
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()
        assert gone(host)


def test_no_host_is_left_when_start_up_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    start = PrestartedHosts.start

    async def noted(hosts: PrestartedHosts, engine: str, gpus: list[str | None]) -> None:
        await start(hosts, engine, gpus)
        pids.extend(process.pid for _, process in hosts._waiting)

    monkeypatch.setattr(PrestartedHosts, "start", noted)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)  # it would stay with the other tests
    with pytest.raises(ConfigError, match="api_keys_file: "):
        run(Settings(engine="synthetic", api_keys_file="/absent", replicas=2))
    assert len(pids) == 2
    assert all(map(gone, pids))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["4"]),
        ({"replicas": 2, "torch": {"tensor_parallel_size": 2}}, ["4,5", "6,7"]),
        ({"replicas": {"min": 2, "max": 8}}, ["4", "5"]),
        ({"torch": {"device": "cpu"}, "replicas": 2}, [None, None]),
        ({"engine": "synthetic"}, [None]),
        ({"replicas": 9}, []),
        ({"runners": {"launcher": "ray"}}, []),
    ],
)
def test_a_host_for_each_runner_that_is_launched_first(
    given: dict[str, Any], expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    settings = Settings(**{"engine": "torch", **given})
    assert first_gpus(settings) == expected
    if expected:
        assert assign_gpus(settings, gpus_per_replica(settings))[: len(expected)] == expected
