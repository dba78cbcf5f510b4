"""Guides that would end or hold up the engine's process are ended in a process of their own."""

import json
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from trtllm_openai.engines.torch import guide_trial
from trtllm_openai.engines.torch.guide_trial import Setup, Verdict, bounds, encode, verdict
from trtllm_openai.engines.torch.guides import GuideLimits
from trtllm_openai.generation import Guide
from trtllm_openai.processes import fork_server
from trtllm_openai.processes.environment import child_environment, module
from trtllm_openai.processes.fork_server import Begin, Drop, Job
from trtllm_openai.processes.framing import framed, read_framed

BYTES = [bytes([value]) for value in range(256)]
VOCABULARY = [*BYTES, b""]
END = 256
LIMITS = GuideLimits(compile_timeout=0.5, processes=2, max_memory_mb=300, max_mask_ms=5.0)
GOOD = Guide("regex", "[a-z]+", "p")
ENDLESS = Guide(
    "json_schema",
    json.dumps({"allOf": [{"type": "integer", "multipleOf": p} for p in (101, 103, 107, 109)]}),
    "p",
)
"""Its compilation would take minutes."""
DEEP = Guide(
    "grammar",
    "root ::= r0\n" + "\n".join(f'r{i} ::= "x" r{(i + 1) % 3000} | "y"' for i in range(3000)),
    "p",
)
"""Its compilation would overflow the stack."""


class Court:
    """A process of trials."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                module(fork_server.__name__, guide_trial.__name__, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                env=child_environment(),
            )
        self.end.settimeout(60)
        self.guides: dict[int, Guide] = {}
        setup = encode(Setup(VOCABULARY, len(VOCABULARY), (END,), LIMITS.max_mask_ms))
        self._send(Begin(bounds(LIMITS), setup))
        assert read_framed(self.end.recv) == b""

    def try_(self, number: int, guide: Guide) -> None:
        self.guides[number] = guide
        self._send(Job(number, encode(guide)))

    def drop(self, number: int) -> None:
        self._send(Drop(number))

    def verdict(self) -> tuple[int, Verdict]:
        outcome = fork_server.decode_outcome(read_framed(self.end.recv))
        return outcome.number, verdict(self.guides[outcome.number], outcome, LIMITS)

    def _send(self, message: Begin | Job | Drop) -> None:
        self.end.sendall(framed(fork_server.encode(message)))


@pytest.fixture(scope="module")
def court() -> Iterator[Court]:
    one = Court()
    yield one
    one.end.close()
    assert one.process.wait(20) == 0


def test_what_compiles_and_what_does_not(court: Court) -> None:
    court.try_(1, GOOD)
    assert court.verdict() == (1, Verdict())
    court.try_(2, Guide("regex", "(a", "p"))
    number, found = court.verdict()
    assert (number, found.param) == (2, "p")
    assert "unclosed group" in found.refusal


@pytest.mark.parametrize(
    ("guide", "why"), [(ENDLESS, "more than 0.5 s"), (DEEP, "too much memory or nesting")]
)
def test_what_cannot_be_bounded_is_ended(court: Court, guide: Guide, why: str) -> None:
    court.try_(3, guide)
    number, found = court.verdict()
    assert (number, found.param) == (3, "p")
    assert f"it is too complex (it needs {why})" in found.refusal
    court.try_(4, GOOD)
    assert court.verdict() == (4, Verdict())


def test_hard_guides_do_not_hold_up_a_good_one(court: Court) -> None:
    for number in range(10, 18):
        court.try_(number, ENDLESS)
    court.try_(18, GOOD)
    assert court.verdict() == (18, Verdict())
    assert {court.verdict()[0] for _ in range(8)} == set(range(10, 18))


def test_a_dropped_one_gets_no_verdict(court: Court) -> None:
    for number in range(20, 25):
        court.try_(number, ENDLESS)
    for number in range(20, 25):
        court.drop(number)
    court.try_(25, GOOD)
    assert court.verdict() == (25, Verdict())
    assert not select.select([court.end], [], [], 0.5)[0]
