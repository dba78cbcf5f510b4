"""Jobs reach a fork server that is started for them, and the next one when it ends."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from tests.conftest import python_path
from trtllm_openai.processes.fork_client import ForkClient
from trtllm_openai.processes.fork_server import Bounds, Outcome, encode
from trtllm_openai.processes.framing import framed

ROOT = Path(__file__).parents[3]
WORK = "tests.unit.processes.fork_work"
BOUNDS = Bounds(cpu_s=0.4, memory_bytes=100 << 20, processes=2)
PATIENCE = 60.0


def make(setup: bytes = b"") -> ForkClient:
    return ForkClient(WORK, lambda: setup, BOUNDS, "runs tests")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path(ROOT))


@pytest.fixture
def client() -> Iterator[ForkClient]:
    one = make()
    yield one
    one.close()
    one.close()


def test_the_first_job_starts_the_server(client: ForkClient) -> None:
    assert client.pid is None
    assert client.run(b"echo here").result(PATIENCE).answer == b"here"
    client.wait_until_loaded()
    assert client.run(b"bounds").result(PATIENCE).answer.split()[3:] == [], "it sees no GPU"
    assert client.run(b"crash").result(PATIENCE).ended == "memory"
    with pytest.raises(RuntimeError, match="the process that runs tests failed: KeyError: 'x'"):
        client.run(b"raise x").result(PATIENCE)


def test_a_cancelled_job_makes_room(client: ForkClient) -> None:
    stuck = [client.run(b"sleep /dev/null") for _ in range(BOUNDS.processes)]
    waits = client.run(b"echo after")
    client.wait_until_loaded()
    assert not waits.done()
    for one in stuck:
        assert one.cancel()
    assert waits.result(PATIENCE).answer == b"after"


def test_a_killed_server_is_replaced_at_once_and_its_jobs_are_run_again(
    client: ForkClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.start()
    client.wait_until_loaded()
    before = client.pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    waits = [client.run(f"echo {i}".encode()) for i in range(3)]
    os.kill(before, signal.SIGKILL)
    later = client.run(b"echo later")
    assert [one.result(PATIENCE).answer for one in (*waits, later)] == [b"0", b"1", b"2", b"later"]
    assert client.pid != before
    assert [record.message for record in caplog.records] == [
        "the process that runs tests ended with status -9; starting it again now"
    ]


def test_a_job_that_ends_its_server_is_given_up(
    client: ForkClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (
        client.run(f"end-server {tmp_path / 'once'}".encode()).result(PATIENCE).answer == b"the second time"
    )
    with pytest.raises(RuntimeError, match="the process that runs tests ended with status -9"):
        client.run(b"end-every-server").result(PATIENCE)
    assert client.run(b"echo again").result(PATIENCE).answer == b"again"
    ends = [record.message.rpartition("again ")[2] for record in caplog.records]
    assert ends == ["now", "now", "in 0.5 s"]


def test_a_server_that_cannot_load_is_said_and_not_tried_for_ever() -> None:
    client = make(b"fails")
    client.start()
    with pytest.raises(RuntimeError, match="ended with status 1"):
        client.wait_until_loaded()
    with pytest.raises(RuntimeError, match="ended with status 1"):
        client.run(b"echo").result(PATIENCE)
    client.close()


def test_a_server_that_does_not_read_holds_up_nobody(client: ForkClient) -> None:
    client.start()
    client.wait_until_loaded()
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    began = time.monotonic()
    large = client.run(b"echo " + b"x" * 60_000 + b" " * 10_000_000)
    assert time.monotonic() - began < 30
    large.cancel()
    assert client.run(b"echo").result(PATIENCE).answer == b"", "by the next one"


def test_an_outcome_that_cannot_be_decoded_is_the_end_of_its_server(client: ForkClient) -> None:
    mine, other = socket.socketpair()
    with mine, other:
        for body in (b"", encode(Outcome(1, b"", "", 0.0)), b"\xc1"):
            other.sendall(framed(body))
        assert client._follow(mine)


def test_close_ends_the_process_the_thread_and_what_waits() -> None:
    before = threading.active_count()
    client = make()
    waits = client.run(b"sleep /dev/null")
    cancelled = client.run(b"echo")
    cancelled.cancel()
    client.wait_until_loaded()
    pid = client.pid
    client.close()
    with pytest.raises(RuntimeError, match="was closed"):
        waits.result(0)
    with pytest.raises(CancelledError):
        cancelled.result(0)
    with pytest.raises(RuntimeError, match="was closed"):
        client.run(b"echo")
    assert not Path(f"/proc/{pid}").exists()
    assert threading.active_count() <= before
