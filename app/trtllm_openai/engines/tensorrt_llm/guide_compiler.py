"""The process that compiles guides, each in a fork of itself that is bounded in CPU time and memory.

XGrammar's compiler has no bounds: a short guide can take hours or all memory, and nothing ends it but the end
of its process. `main` is that process, with a stream socket as standard input. XGrammar and the vocabulary
are loaded once; a fork shares them and takes milliseconds. The other end sends `Setup`, then `Compile` and
`Cancel`; it gets an empty message once compiling can begin, and a `Verdict` for each guide. The process ends
with the socket.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import select
import signal
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from trtllm_openai.engines.tensorrt_llm.guided import guide_text
from trtllm_openai.generation import Guide
from trtllm_openai.processes.framing import FramedSocket, read_framed

MAX_PROCESSES = 4
"""Guides that are compiled at the same time; further ones wait."""
MAX_REASON_BYTES = 2000
ACCEPTED = b"+"


class Setup(msgspec.Struct, array_like=True):
    """`vocabulary`: bytes of each token by id, empty for special ones; `vocab_size`: width of logits.

    `cpu_s` and `memory_bytes` bound the compilation of each guide, memory beyond what the process has anyway.
    """

    vocabulary: list[bytes]
    vocab_size: int
    end_ids: list[int]
    cpu_s: int
    memory_bytes: int


class Compile(msgspec.Struct, tag="compile", array_like=True):
    """Compile this guide and answer with its number."""

    number: int
    guide: Guide


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    """Nobody waits for this guide any more."""

    number: int


class Verdict(msgspec.Struct, array_like=True):
    """`error` is XGrammar's reason to reject the guide; `exceeded`: it was ended at one of the bounds."""

    number: int
    error: str | None = None
    exceeded: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(Setup).decode
_decode = msgspec.msgpack.Decoder(Compile | Cancel).decode


@dataclass(frozen=True, slots=True)
class _Running:
    number: int
    pid: int


class CompilerProcess:
    """Serves one socket: forks for each guide, ends what is cancelled, reports verdicts."""

    def __init__(self, end: socket.socket, setup: Setup, compiler: Any) -> None:
        self._channel = FramedSocket(end)
        self._compiler = compiler
        self._cpu_s = setup.cpu_s
        self._address_space = _address_space() + setup.memory_bytes
        self._waiting: deque[Compile] = deque()
        self._running: dict[int, _Running] = {}  # by the pipe that the fork writes its verdict to

    def run(self) -> None:
        """Say that compiling can begin, and serve until the other end closes."""
        self._channel.send(b"")
        while not self._channel.gone:
            select.select([self._channel.fileno(), *self._running], [], [])
            for body in self._channel.receive():
                self._handle(_decode(body))
            for pipe in select.select(list(self._running), [], [], 0)[0]:
                self._finish(pipe)
            while self._waiting and len(self._running) < MAX_PROCESSES:
                self._start(self._waiting.popleft())
        for running in self._running.values():
            os.kill(running.pid, signal.SIGKILL)

    def _handle(self, message: Compile | Cancel) -> None:
        if isinstance(message, Compile):
            self._waiting.append(message)
            return
        self._waiting = deque(one for one in self._waiting if one.number != message.number)
        for running in self._running.values():
            if running.number == message.number:
                os.kill(running.pid, signal.SIGKILL)

    def _start(self, job: Compile) -> None:
        pipe, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(self._channel.fileno())  # a fork must not hold the socket open
            self._compile(job.guide, writing)
        os.close(writing)
        self._running[pipe] = _Running(job.number, pid)

    def _compile(self, guide: Guide, pipe: int) -> NoReturn:
        """In the fork: write `ACCEPTED` or the reason of a rejection, or end at a bound without a word."""
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (self._cpu_s, self._cpu_s))
            resource.setrlimit(resource.RLIMIT_AS, (self._address_space, self._address_space))
            os.write(pipe, verdict(self._compiler, guide))
        finally:
            os._exit(0)

    def _finish(self, pipe: int) -> None:
        running = self._running.pop(pipe)
        answer = os.read(pipe, MAX_REASON_BYTES)
        os.close(pipe)
        os.waitpid(running.pid, 0)
        error = None if answer in (b"", ACCEPTED) else answer.decode(errors="replace")
        self._channel.send(_encode(Verdict(running.number, error, not answer)))
        self._channel.drain(1.0)


def verdict(compiler: Any, guide: Guide) -> bytes:
    """`ACCEPTED`, or why XGrammar rejects the guide. Raises `MemoryError`."""
    try:
        compile_guide(compiler, guide)
    except (RuntimeError, ValueError) as error:
        if "bad_alloc" in str(error):
            raise MemoryError from None
        return reason(error).encode()[:MAX_REASON_BYTES] or b"XGrammar rejects it"
    return ACCEPTED


def make_compiler(setup: Setup) -> Any:
    """XGrammar's compiler for the vocabulary. Imports XGrammar, which takes seconds."""
    import xgrammar

    info = xgrammar.TokenizerInfo(
        setup.vocabulary, xgrammar.VocabType.RAW, vocab_size=setup.vocab_size, stop_token_ids=setup.end_ids
    )
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


def compile_guide(compiler: Any, guide: Guide) -> None:
    """With the calls of TensorRT-LLM's `GuidedDecoder::build`. Raises what XGrammar raises."""
    text = guide_text(guide)
    match guide.kind:
        case "json_object" | "json_schema":
            compiler.compile_json_schema(text)
        case "regex":
            compiler.compile_regex(text)
        case "grammar":
            compiler.compile_grammar(text)
        case "structural_tag":
            compiler.compile_structural_tag(text)


_SOURCE_LOCATION = re.compile(r"^\[[\d:]+\] \S+?:\d+: ")


def reason(error: Exception) -> str:
    """The first line of XGrammar's message without the location in XGrammar's source."""
    return _SOURCE_LOCATION.sub("", str(error).strip().split("\n", 1)[0]).strip()


def _address_space() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def main() -> None:
    """Serve the socket that is standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the other end decides
    end = socket.socket(fileno=os.dup(0))
    setup = _decode_setup(read_framed(end.recv))
    compiler = make_compiler(setup)
    process = CompilerProcess(end, setup, compiler)
    gc.freeze()  # or each fork's collections would copy the pages that it shares
    process.run()


if __name__ == "__main__":
    main()
