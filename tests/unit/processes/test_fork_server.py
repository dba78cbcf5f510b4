"""Jobs in bounded forks: each bound, the order, what is reported, and what ends with the server."""

import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import python_path
from trtllm_openai.processes import fork_server
from trtllm_openai.processes.environment import module
from trtllm_openai.processes.fork_server import (
    MAX_ANSWER_BYTES,
    OUT_OF_MEMORY_SCORE,
    Begin,
    Bounds,
    Drop,
    Job,
    Outcome,
    decode_outcome,
    encode,
)
from trtllm_openai.processes.framing import framed, read_framed

ROOT = Path(__file__).parents[3]
WORK = "tests.unit.processes.fork_work"
CPU_S = 0.4
BOUNDS = Bounds(cpu_s=CPU_S, memory_bytes=100 << 20, processes=2)


class Server:
    """The process, and this end of its socket."""

    def __init__(self, setup: bytes = b"", bounds: Bounds = BOUNDS) -> None:
        self.end, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                module(fork_server.__name__, WORK, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                env={"PYTHONPATH": python_path(ROOT), "CUDA_VISIBLE_DEVICES": ""},
                stderr=subprocess.DEVNULL,
            )
        self.end.settimeout(60)
        self.send(Begin(bounds, setup))

    def send(self, *messages: Begin | Job | Drop) -> None:
        self.end.sendall(b"".join(framed(encode(message)) for message in messages))

    def loaded(self) -> bool:
        return read_framed(self.end.recv) == b""

    def outcome(self) -> Outcome:
        return decode_outcome(read_framed(self.end.recv))

    def run(self, body: str) -> Outcome:
        self.send(Job(7, body.encode()))
        outcome = self.outcome()
        assert outcome.number == 7
        return outcome

    def close(self) -> int:
        self.end.close()
        return self.process.wait(20)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    one = Server(b"loaded ")
    assert one.loaded()
    yield one
    assert one.close() == 0


def test_an_answer_with_its_cpu_time(server: Server) -> None:
    assert server.run("echo once").answer == b"loaded once"
    outcome = server.run("spin 0.25")  # more than the first two rounds' shares
    assert (outcome.answer, outcome.ended) == (b"done", "")
    assert (
        0.24 <= outcome.cpu_s < CPU_S
    )  # two clocks: its own, and the one that the kernel adds up for its parent


def test_cpu_time_is_bounded(server: Server) -> None:
    assert server.run("spin") == Outcome(7, b"", "time", CPU_S)


@pytest.mark.parametrize("body", [f"allocate {200 << 20}", "crash"])
def test_memory_and_crashes_end_the_fork_only(server: Server, body: str) -> None:
    outcome = server.run(body)
    assert (outcome.answer, outcome.ended) == (b"", "memory")
    assert server.run(f"allocate {50 << 20}").answer == str(50 << 20).encode()


def test_a_fault_of_the_work_is_an_error(server: Server) -> None:
    outcome = server.run("raise this")
    assert (outcome.answer, outcome.ended) == (b"KeyError: 'this'", "error")
    assert server.run(f"answer {MAX_ANSWER_BYTES}").answer == b"x" * MAX_ANSWER_BYTES
    assert server.run(f"answer {MAX_ANSWER_BYTES + 1}").ended == "error"


def test_what_else_is_bounded(server: Server) -> None:
    stack, core, score = server.run("bounds").answer.split()[:3]
    assert (int(stack), int(core), score.decode()) == (BOUNDS.stack_bytes, 0, OUT_OF_MEMORY_SCORE)


def test_hard_jobs_do_not_hold_up_easy_ones(server: Server) -> None:
    server.send(*(Job(number, b"spin") for number in range(6)), Job(9, b"echo easy"))
    assert server.outcome().number == 9
    assert [server.outcome().number for _ in range(6)] == pytest.approx(list(range(6)), abs=2)


def test_dropped_jobs_are_ended_and_not_reported(server: Server) -> None:
    server.send(*(Job(number, b"spin") for number in range(5)))
    server.send(*(Drop(number) for number in range(5)), Job(6, b"echo"))
    assert server.outcome().number == 6
    assert not select.select([server.end], [], [], 0.5)[0]


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_forks_end_with_the_server(tmp_path: Path, how: str) -> None:
    server = Server()
    assert server.loaded()
    server.send(Job(1, f"sleep {tmp_path / 'pid'}".encode()))
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fork = Path("/proc") / (tmp_path / "pid").read_text()
    if how == "killed":
        server.process.kill()
        with pytest.raises(EOFError):
            server.outcome()  # no fork holds the socket open
    server.close()
    while fork.exists() and "Z" not in (fork / "stat").read_text().split(") ")[-1][:1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_cannot_load_ends(tmp_path: Path) -> None:
    server = Server(b"fails")
    with pytest.raises(EOFError):
        server.loaded()
    assert server.close() == 1
