"""Guides become matchers, or errors, whatever happens to the process that tries them."""

import threading
from collections.abc import Iterator
from concurrent import futures

import pytest

from tests.unit.engines.torch.test_guide_trial import DEEP, END, ENDLESS, GOOD, LIMITS, VOCABULARY
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.errors import InvalidRequest
from trtllm_openai.generation import Guide


@pytest.fixture(scope="module")
def compiler() -> Iterator[GuideCompiler]:
    one = GuideCompiler(VOCABULARY, len(VOCABULARY), (END,), LIMITS)
    yield one
    process = one._process
    one.close()
    assert process is not None
    assert process.wait(20) is not None


def test_a_good_guide_beside_hard_ones(compiler: GuideCompiler) -> None:
    hard = [compiler.compile(Guide(ENDLESS.kind, ENDLESS.text, f"p{n}")) for n in range(8)]
    good = compiler.compile(GOOD)
    assert not good.result(60).error
    assert not any(one.done() and one.exception() is None for one in hard)
    for one in hard:
        assert one.cancel()
    assert compiler.compile(Guide("regex", "b+", "p")).result(60).accept_token(ord("b"))


def test_a_refusal_is_the_same_the_second_time(compiler: GuideCompiler) -> None:
    refused = compiler.refused
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="too much memory or nesting") as caught:
            compiler.compile(DEEP).result(60)
        assert caught.value.param == "p"
    assert compiler.refused == refused + 2


def test_it_goes_on_after_the_process_was_killed(compiler: GuideCompiler) -> None:
    lost = compiler.compile(Guide(ENDLESS.kind, ENDLESS.text, "killed"))
    assert compiler._process is not None
    compiler._process.kill()
    with pytest.raises(RuntimeError, match=r"ended \(-9\)"):
        lost.result(60)
    assert not compiler.compile(Guide("regex", "c+", "p")).result(60).error


def test_a_closed_one_ends_its_process_and_threads() -> None:
    before = threading.active_count()
    one = GuideCompiler(VOCABULARY, len(VOCABULARY), (END,), LIMITS)
    one.compile(GOOD).result(60)
    waiting = one.compile(ENDLESS)
    one.close()
    assert one._process is not None
    assert one._process.wait(20) is not None
    with pytest.raises((RuntimeError, futures.CancelledError)):
        waiting.result(20)
    deadline = threading.Event()
    for _ in range(200):
        if threading.active_count() <= before:
            break
        deadline.wait(0.05)
    assert threading.active_count() <= before
