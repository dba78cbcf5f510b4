"""Guides that would end or hold up the engine's process are ended in a process of their own."""

import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from trtllm_openai.engines.torch import guide_trial
from trtllm_openai.engines.torch.guide_trial import Drop, Setup, Trial, Verdict, decode_verdict, encode
from trtllm_openai.engines.torch.guides import GuideLimits
from trtllm_openai.generation import Guide
from trtllm_openai.processes.environment import child_environment
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
                [sys.executable, "-m", guide_trial.__name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=child_environment(),
            )
        self.end.settimeout(60)
        self.send(Setup(VOCABULARY, len(VOCABULARY), (END,), LIMITS))

    def send(self, *messages: Setup | Trial | Drop) -> None:
        self.end.sendall(b"".join(framed(encode(message)) for message in messages))

    def verdict(self) -> Verdict:
        return decode_verdict(read_framed(self.end.recv))


@pytest.fixture(scope="module")
def court() -> Iterator[Court]:
    one = Court()
    yield one
    one.end.close()
    assert one.process.wait(20) == 0


def test_what_compiles_and_what_does_not(court: Court) -> None:
    court.send(Trial(1, GOOD))
    found = court.verdict()
    assert (found.number, found.refusal) == (1, "")
    court.send(Trial(2, Guide("regex", "(a", "p")))
    found = court.verdict()
    assert (found.number, found.param) == (2, "p")
    assert "unclosed group" in found.refusal


@pytest.mark.parametrize(
    ("guide", "why"), [(ENDLESS, "more than 0.5 s"), (DEEP, "too much memory or nesting")]
)
def test_what_cannot_be_bounded_is_ended(court: Court, guide: Guide, why: str) -> None:
    court.send(Trial(3, guide))
    found = court.verdict()
    assert found.number == 3
    assert f"it is too complex (it needs {why})" in found.refusal
    court.send(Trial(4, GOOD))
    assert court.verdict().number == 4


def test_hard_guides_do_not_hold_up_a_good_one(court: Court) -> None:
    court.send(*(Trial(number, ENDLESS) for number in range(10, 18)), Trial(18, GOOD))
    assert court.verdict().number == 18
    assert {court.verdict().number for _ in range(8)} == set(range(10, 18))


def test_a_dropped_one_gets_no_verdict(court: Court) -> None:
    court.send(*(Trial(number, ENDLESS) for number in range(20, 25)))
    court.send(*(Drop(number) for number in range(20, 25)), Trial(25, GOOD))
    assert court.verdict().number == 25
    assert not select.select([court.end], [], [], 0.5)[0]
