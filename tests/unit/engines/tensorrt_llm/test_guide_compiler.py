"""What XGrammar says of a guide, and the messages of its process."""

import os
import socket
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from trtllm_openai.engines.tensorrt_llm import guide_compiler
from trtllm_openai.engines.tensorrt_llm.guide_compiler import (
    ACCEPTED,
    Cancel,
    Compile,
    Setup,
    Verdict,
    reason,
    verdict,
)
from trtllm_openai.generation import Guide
from trtllm_openai.processes.framing import framed, read_framed

SETUP = Setup([bytes([byte]) for byte in range(256)], 257, [256], 1, 256 << 20)


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
    mine, other = socket.socketpair()
    with mine:
        with other:
            command = [sys.executable, "-c", f"from {guide_compiler.__name__} import main; main()"]
            process = subprocess.Popen(command, stdin=other.fileno(), env=dict(os.environ))

        def send(message: Any) -> None:
            mine.sendall(framed(msgspec.msgpack.encode(message)))

        send(SETUP)
        assert read_framed(mine.recv) == b"", "compiling can begin"
        stuck = "x".join(["(.{0,1000}){0,1000}"] * 20_000)
        send(Compile(1, Guide("regex", stuck)))
        send(Compile(2, Guide("regex", "a+")))
        answer = msgspec.msgpack.decode(read_framed(mine.recv), type=Verdict)
        assert answer == Verdict(2), "the stuck one holds nobody up"
        send(Cancel(1))
        answer = msgspec.msgpack.decode(read_framed(mine.recv), type=Verdict)
        assert (answer.number, answer.exceeded) == (1, True)
        send(Compile(3, Guide("regex", stuck)))
    assert process.wait(30) == 0
