"""A server to be harmed, and what it looks like before and after."""

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ROOT, RunningServer, serve

HOOKS = Path(__file__).parent / "hooks"
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 600, "ignore_eos": True, "temperature": 0}


@dataclass
class Victim:
    """A started server with a file that makes its engine fail."""

    server: RunningServer
    fault_file: Path

    @property
    def url(self) -> str:
        return self.server.url

    def runners(self) -> list[int]:
        """Process ids of the runners."""
        return self.server.processes("trtllm_openai.engine_host")

    def fault(self, kind: str) -> None:
        """Have the next engine step fail."""
        self.fault_file.write_text(kind)

    def state(self) -> dict[str, float]:
        """What must come back to where it was."""
        pid = self.server.process.pid
        return {
            "running": self.server.metric("requests_running"),
            "waiting": self.server.metric("requests_waiting"),
            "not_begun": self.server.metric("requests_not_begun"),
            "orphaned": self.server.metric("requests_orphaned"),
            "kv_blocks": self.server.metric("kv_blocks_used"),
            "open_streams": self.server.metric("open_streams"),
            "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
            "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        }

    def answers(self) -> bool:
        """Whether an ordinary request is served."""
        try:
            response = httpx.post(self.url + TEXT, json={"prompt": "Hi", "max_tokens": 2}, timeout=60)
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    def recovers(self, before: dict[str, float], patience: float = 60) -> None:
        """Wait until it serves again and holds no more than it did."""
        self.server.wait(self.answers, patience)
        slack = {"threads": 2, "descriptors": 4}
        deadline = time.monotonic() + 20
        while True:
            now = self.state()
            more = {
                name: (was, now[name]) for name, was in before.items() if now[name] > was + slack.get(name, 0)
            }
            if not more:
                return
            assert time.monotonic() < deadline, f"these did not come back: {more}"
            time.sleep(0.05)


@dataclass
class Stream:
    """A stream read by a thread: what came, and how it ended."""

    url: str
    body: dict[str, Any]
    send_headers: dict[str, str] = field(default_factory=dict)
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    chunks: list[Any] = field(default_factory=list)
    done: bool = False
    status: int = 0
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        body = {**self.body, "stream": True}
        with httpx.stream(
            "POST", self.url + TEXT, json=body, headers=self.send_headers, timeout=90
        ) as response:
            self.headers = response.headers
            self.status = response.status_code
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    self.chunks.append(json.loads(line[6:]))

    def wait_for_text(self, chunks: int = 3, patience: float = 30) -> None:
        deadline = time.monotonic() + patience
        while len(self.chunks) < chunks:
            assert time.monotonic() < deadline, "no text came"
            time.sleep(0.01)

    def join(self, patience: float = 90) -> None:
        self._thread.join(patience)
        assert not self._thread.is_alive(), "the stream hangs"

    @property
    def text(self) -> str:
        return "".join(chunk["choices"][0]["text"] for chunk in self.chunks if chunk.get("choices"))

    @property
    def error(self) -> dict[str, Any] | None:
        return self.chunks[-1].get("error") if self.chunks else None


Start = Callable[..., AbstractContextManager[Victim]]


@contextmanager
def run_victim(model: Path, directory: Path, *flags: str, key: str = "", **env: str) -> Iterator[Victim]:
    """A server on `model`. `key`: an admin's, if it asks for keys; requests then need another."""
    fault = directory / "fault"
    path = os.pathsep.join([str(HOOKS), os.environ.get("PYTHONPATH", "")])
    # One thread: two would wait for each other at every barrier while a busy machine runs something else.
    small = [
        "--model",
        str(model),
        "--torch.max-seq-len",
        "1024",
        "--torch.kv-cache-tokens",
        "8192",
        "--torch.threads",
        "1",
    ]
    with serve(
        *small, "--log-level", "warning", *flags, env={"FAULT_FILE": str(fault), "PYTHONPATH": path, **env}
    ) as server:
        server.key = key
        victim = Victim(server, fault)
        server.wait(lambda: server.metric("runners_ready") == server.metric("runners"), 60)
        if not key:
            server.wait(victim.answers, 60)
        yield victim


@contextmanager
def launched(*flags: str, stderr: Any = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A server process that may not get as far as serving; gone when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trtllm_openai", "serve", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def victim_model(request: pytest.FixtureRequest) -> Path:
    """A part of the demo model; all of it with `make faults`."""
    whole = "FAULTS_ON_THE_WHOLE_DEMO" in os.environ
    model: Path = request.getfixturevalue("demo_dir" if whole else "few_layers")
    return model


@pytest.fixture
def start(victim_model: Path, tmp_path: Path) -> Start:
    """`start(*flags)`: a server to be harmed."""
    return functools.partial(run_victim, victim_model, tmp_path)


@pytest.fixture
def outcome(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[[str], None]:
    """Says what a fault led to, for the table."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    return lambda text: record_property("outcome", (name, text))
