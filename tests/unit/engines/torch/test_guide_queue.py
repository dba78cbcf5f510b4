"""Sequences leave the queue when their guide is compiled, refused, or given up."""

from collections.abc import Iterator

import msgspec
import pytest

from tests.unit.engines.torch.conftest import request
from tests.unit.engines.torch.test_guide_trial import END, ENDLESS, GOOD, LIMITS, VOCABULARY
from trtllm_openai.engines.base import FAILED_ON_REQUEST
from trtllm_openai.engines.torch.guide_compiler import GuideCompiler
from trtllm_openai.engines.torch.guide_queue import GuideQueue
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import EngineStats, Guide, StepOutput

BAD = Guide("regex", "(a", "p")


@pytest.fixture(scope="module")
def queue() -> Iterator[GuideQueue]:
    one = GuideQueue(GuideCompiler(VOCABULARY, len(VOCABULARY), (END,), LIMITS))
    yield one
    one.close()


def add(queue: GuideQueue, name: str, guide: Guide) -> Sequence:
    sequence = Sequence(msgspec.structs.replace(request(name, [3], stop_token_ids=(9,)), guide=guide))
    queue.add(sequence, guide)
    return sequence


def take_all(queue: GuideQueue) -> tuple[list[Sequence], list[StepOutput]]:
    ready: list[Sequence] = []
    failed: list[StepOutput] = []
    while queue:
        more, ends = queue.take(60)
        assert more or ends, "nothing came in a minute"
        ready += more
        failed += ends
    return ready, failed


def test_each_leaves_with_what_became_of_its_guide(queue: GuideQueue) -> None:
    good = add(queue, "good", GOOD)
    add(queue, "bad", BAD)
    without = add(queue, "optional", msgspec.structs.replace(BAD, optional=True))
    stats = EngineStats()
    queue.count(stats)
    assert stats.deferred == len(queue) == 3
    ready, (refused,) = take_all(queue)
    assert sorted(ready, key=Sequence.rank) == [good, without]
    assert good.matcher.accept_token(ord("a"))
    assert good.matcher.accept_token(9), "a stop token of the request"
    assert without.matcher is None
    assert (refused.request_id, refused.finish_reason, refused.error_param) == ("bad", "error", "p")
    queue.count(stats)
    assert (stats.deferred, stats.guides_compiled) == (0, 1)
    assert sum(stats.guides_refused.values()) == 2


def test_a_guide_that_is_given_up(queue: GuideQueue) -> None:
    slow, other = add(queue, "slow", ENDLESS), Sequence(request("other", [3]))
    assert queue.take(0) == ([], [])
    assert not queue.remove(other)
    assert queue.remove(slow)
    assert not queue.remove(slow)
    assert not queue


def test_a_compilation_that_fails_is_not_the_guides_fault(
    queue: GuideQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("trtllm_openai.engines.torch.guide_compiler.compile_guide", broken)
    add(queue, "x", Guide("regex", "x+", "p"))
    assert take_all(queue) == ([], [StepOutput("x", [], "error", error=FAILED_ON_REQUEST)])
