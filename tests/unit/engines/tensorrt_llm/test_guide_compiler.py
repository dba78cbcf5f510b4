"""What XGrammar says of a guide, and the messages of its process."""

import socket
import subprocess

import pytest

from trtllm_openai.engines.tensorrt_llm import guide_compiler
from trtllm_openai.engines.tensorrt_llm.guide_compiler import ACCEPTED, Setup, encode, reason, verdict
from trtllm_openai.generation import Guide
from trtllm_openai.processes import fork_server
from trtllm_openai.processes.environment import child_environment, module
from trtllm_openai.processes.fork_server import Begin, Bounds, Drop, Job, Outcome
from trtllm_openai.processes.framing import framed, read_framed


class Compiler:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def compile_regex(self, text: str) -> None:
        if self.error is not None:
            raise self.error


def test_verdicts() -> None:
    guide = Guide("regex", "a")
    assert verdict(Compiler(), guide) == ACCEPTED
    assert verdict(Compiler(RuntimeError("[12:00:01] /src/x.cc:7: no good\nbacktrace")), guide) == b"no good"
    assert verdict(Compiler(ValueError("")), guide) == b"XGrammar rejects it"
    assert len(verdict(Compiler(ValueError("x" * 9000)), guide)) == guide_compiler.MAX_REASON_BYTES
    with pytest.raises(MemoryError):
        verdict(Compiler(RuntimeError("std::bad_alloc")), guide)


def test_reason_without_a_location() -> None:
    assert reason(RuntimeError("plain\nmore")) == "plain"


def test_the_process_answers_and_ends_with_its_socket() -> None:
    bounds = Bounds(cpu_s=0.5, memory_bytes=256 << 20, processes=2)
    mine, other = socket.socketpair()
    with mine:
        with other:
            process = subprocess.Popen(
                module(fork_server.__name__, guide_compiler.__name__, str(other.fileno())),
                pass_fds=[other.fileno()],
                env=child_environment(),
            )

        def send(message: Begin | Job | Drop) -> None:
            mine.sendall(framed(fork_server.encode(message)))

        def outcome() -> Outcome:
            return fork_server.decode_outcome(read_framed(mine.recv))

        setup = Setup([bytes([byte]) for byte in range(256)], 257, [256])
        send(Begin(bounds, encode(setup)))
        assert read_framed(mine.recv) == b"", "compiling can begin"
        stuck = encode(Guide("regex", "x".join(["(.{0,1000}){0,1000}"] * 20_000)))
        send(Job(1, stuck))
        send(Job(2, encode(Guide("regex", "a+"))))
        answer = outcome()
        assert (answer.number, answer.answer, answer.ended) == (2, ACCEPTED, ""), (
            "the stuck one holds nobody up"
        )
        assert outcome() == Outcome(1, b"", "time", bounds.cpu_s)
        send(Job(3, encode(Guide("regex", "("))))
        answer = outcome()
        assert (answer.number, answer.ended) == (3, "")
        assert answer.answer != ACCEPTED
        send(Job(4, stuck))
    assert process.wait(30) == 0
