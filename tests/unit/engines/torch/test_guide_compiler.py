"""Guides become matchers, or errors, whatever happens to the process that tries them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

from tests.unit.engines.torch.test_guide_trial import DEEP, END, ENDLESS, GOOD, LIMITS, VOCABULARY
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide


@pytest.fixture(scope="module")
def compiler() -> Iterator[GuideCompiler]:
    one = GuideCompiler(VOCABULARY, len(VOCABULARY), (END,), LIMITS)
    yield one
    pid = one._trials.pid
    assert pid is not None
    one.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_good_guide_beside_hard_ones(compiler: GuideCompiler) -> None:
    hard = [compiler.compile(Guide(ENDLESS.kind, ENDLESS.text, f"p{n}")) for n in range(8)]
    good = compiler.compile(GOOD)
    assert not good.result(60).error
    assert not any(one.done() and one.exception() is None for one in hard)
    for one in hard:
        assert one.cancel()
    assert compiler.compile(Guide("regex", "b+", "p")).result(60).accept_token(ord("b"))


def test_a_refusal_is_the_same_the_second_time(compiler: GuideCompiler) -> None:
    refused, tried = compiler.refused["guide_too_complex"], sum(compiler.counts)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="too much memory or nesting") as caught:
            compiler.compile(DEEP).result(60)
        assert (caught.value.param, caught.value.code) == ("p", "guide_too_complex")
    assert compiler.refused["guide_too_complex"] == refused + 2
    assert sum(compiler.counts) == tried + 1


def test_the_same_guide_is_compiled_once(compiler: GuideCompiler) -> None:
    compiled, hits = compiler.compiled, compiler.cache.hits
    first, second = (compiler.compile(Guide("regex", "de?f", name)).result(60) for name in ("p", "q"))
    assert (compiler.compiled, compiler.cache.hits) == (compiled + 1, hits + 1)
    assert first.accept_token(ord("d"))
    assert not second.accept_token(ord("e")), "it begins at the beginning"


def kill(compiler: GuideCompiler) -> None:
    """Kill the process of trials, once it has begun with what it was sent."""
    trials = compiler._trials
    assert trials.loaded.wait(60)
    before = trials.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while trials.pid == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_goes_on_after_the_process_was_killed(compiler: GuideCompiler) -> None:
    """A lost job is tried by the next process; it fails if that is killed too."""
    lost = compiler.compile(Guide(ENDLESS.kind, ENDLESS.text, "killed"))
    kill(compiler)
    with pytest.raises(InvalidRequest, match="it needs more than"):
        lost.result(60)
    lost = compiler.compile(Guide(ENDLESS.kind, ENDLESS.text, "killed twice"))
    kill(compiler)
    kill(compiler)
    with pytest.raises(RuntimeError, match="ended with status -9"):
        lost.result(60)
    assert not compiler.compile(Guide("regex", "c+", "p")).result(60).error


def test_a_closed_one_ends_its_process_and_threads() -> None:
    before = threading.active_count()
    one = GuideCompiler(VOCABULARY, len(VOCABULARY), (END,), LIMITS)
    one.compile(GOOD).result(60)
    waiting = one.compile(ENDLESS)
    pid = one._trials.pid
    one.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises((RuntimeError, futures.CancelledError)):
        waiting.result(20)
    deadline = threading.Event()
    for _ in range(200):
        if threading.active_count() <= before:
            break
        deadline.wait(0.05)
    assert threading.active_count() <= before
