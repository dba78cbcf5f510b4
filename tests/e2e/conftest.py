"""Starts the real server as a user does: `python -m trtllm_openai serve`, on a free port."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import pytest

from trtllm_openai.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "trtllm_openai_"


@dataclass
class RunningServer:
    """A started server: its URL, its process and everything it printed."""

    process: subprocess.Popen[str]
    url: str = ""
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    ready_after: float = 0.0
    key: str = ""
    """An admin's key, if keys are asked for."""

    def metric(self, name: str) -> float:
        """The value of a gauge or counter without labels (of all its labels together)."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        text = httpx.get(f"{self.url}/metrics", headers=headers, timeout=30).raise_for_status().text
        values = re.findall(rf"^{PREFIX}{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert values, f"{name} is not in /metrics"
        return sum(map(float, values))

    def processes(self, module: str) -> list[int]:
        """Process ids of its children that run this module, e.g. trtllm_openai.engine_host."""
        return [pid for pid in children(self.process.pid) if module in _command(pid)]

    def cpu_seconds(self) -> float:
        """Processor time that it and its children have used."""
        ticks = sum(
            int(field)
            for pid in (self.process.pid, *children(self.process.pid))
            for field in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
        )
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait(self, condition: Callable[[], bool], patience: float) -> float:
        """Poll until `condition` holds; returns the seconds it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < patience, "the condition did not come true in time"
            time.sleep(0.02)
        return time.monotonic() - started


def children(pid: int) -> list[int]:
    """Process ids of the living children of `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _collect(stream: IO[str] | None, lines: list[str]) -> threading.Thread:
    assert stream is not None
    thread = threading.Thread(target=lines.extend, args=(iter(stream.readline, ""),), daemon=True)
    thread.start()
    return thread


@contextmanager
def serve(
    *flags: str, patience: float = 180.0, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[RunningServer]:
    """Run the server until the block ends; it must then stop by itself on SIGTERM with status 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trtllm_openai", "serve", "--port", "0", *flags],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    server = RunningServer(process)
    pumps = [_collect(process.stdout, server.stdout), _collect(process.stderr, server.stderr)]
    started = time.monotonic()
    try:
        while not server.url:
            found = re.search(r"is ready on (https?://\S+)", "".join(server.stdout))
            if found:
                server.url = found[1]
                break
            assert process.poll() is None, "the server ended:\n" + "".join(server.stderr)
            assert time.monotonic() - started < patience, "not ready in time:\n" + "".join(server.stderr)
            time.sleep(0.02)
        server.ready_after = time.monotonic() - started
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        for pump, pipe in zip(pumps, (process.stdout, process.stderr), strict=True):
            pump.join(5)
            if pipe is not None and not pump.is_alive():
                pipe.close()
    assert status == 0, f"exit status {status}:\n" + "".join(server.stderr)


@pytest.fixture(scope="session")
def server(few_layers: Path) -> Iterator[RunningServer]:
    """The torch engine with a few layers of the demo model: what it says makes no sense, and comes soon."""
    model = ("--model", str(few_layers), "--served-model-name", "SmolLM2-135M-Instruct")
    with serve(*model, "--torch.max-seq-len", "2048", "--log-level", "warning") as running:
        yield running


@pytest.fixture(scope="session")
def terse(demo_tokenizer: Tokenizer) -> dict[str, float]:
    """A `logit_bias` without white space, of which a few layers write as much between the parts of JSON as
    they may.
    """
    ids = range(demo_tokenizer.vocab_size)
    return {str(token): -100 for token in ids if demo_tokenizer.token_text(token).isspace()}


@pytest.fixture(scope="session")
def demo_server() -> Iterator[RunningServer]:
    """The whole demo model, where what it says matters: it ends JSON, and calls tools."""
    with serve("--torch.max-seq-len", "2048", "--log-level", "warning") as running:
        yield running


@pytest.fixture(scope="session")
def synthetic() -> Iterator[RunningServer]:
    """The synthetic engine, slow enough to be interrupted."""
    with serve("--engine", "synthetic", "--synthetic.itl", "0.02", "--log-level", "warning") as running:
        yield running
