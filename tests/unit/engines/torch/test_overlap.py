"""Steps launched before the last tokens are read: the answers are those of one step at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engines.torch.conftest import finish, make_engine, request, run
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.executor import DoneStep, Executor
from trtllm_openai.engines.torch.plan import Plan
from trtllm_openai.engines.torch.sampler import Sampled
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.drafter import Drafter
from trtllm_openai.engines.torch.speculation.policy import StepCost


class LateStep:
    """A step whose tokens only the "device" knows until it is collected."""

    def __init__(self, step: DoneStep, device: dict[Sequence, int]) -> None:
        self.sampled, self.drafts = step.sampled, step.drafts
        self._chosen = step.chosen
        if not step.drafts:  # else it is read at once
            device.update((one, token.token_id) for one, token in zip(step.sampled, step.chosen, strict=True))

    def collect(self) -> list[Sampled]:
        return self._chosen


class LateExecutor:
    """What a GPU does, on a CPU: the last tokens stay with it, and it feeds them to the next step."""

    overlaps = True

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._last: dict[Sequence, int] = {}
        self.unread = 0

    def launch(self, plan: Plan) -> LateStep:
        ends = [chunk.sequence for chunk in plan.prefill if chunk.last]
        unread = [one for one in plan.decode if one.computed == len(one.tokens)]
        self.unread += len(unread)
        for sequence in unread:
            sequence.tokens.append(self._last[sequence])
        step = self._executor.launch(plan)
        for sequence in unread:
            sequence.tokens.pop()
        assert isinstance(step, DoneStep)
        assert set(step.sampled) == {*plan.decode, *ends}
        return LateStep(step, self._last)

    def close(self) -> None:
        self._executor.close()


@pytest.fixture
def engines(checkpoint: Callable[[str], Path]) -> tuple[TorchEngine, TorchEngine]:
    """One that takes a step at a time, and one that does not. The cache is too small for all that comes."""
    settings: dict[str, Any] = {"max_batch_size": 4, "max_seq_len": 160, "kv_cache_tokens": 320}
    plain, late = (make_engine(checkpoint("llama"), **settings, speculation="suffix") for _ in range(2))
    for engine in (plain, late):
        engine._drafter = engine._scheduler._drafter = None  # a test sets its own
    late._executor = LateExecutor(late._executor)
    return plain, late


KINDS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 1},
    {"max_tokens": 2},
    {"stop_token_ids": tuple(range(100))},
    {"repetition_penalty": 1.5, "frequency_penalty": 0.7},
    {"min_tokens": 5, "stop_token_ids": tuple(range(250))},
    {"logprobs": 2},
    {"prompt_logprobs": 1, "max_tokens": 0},
]


REPEATING: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0, "logit_bias": {7: 60.0}},
    {"temperature": 0, "logit_bias": {9: 60.0}, "logprobs": 1},
    {"temperature": 1.0, "logit_bias": {11: 4.0}, "frequency_penalty": 0.1},
]


def test_same_answers(engines: tuple[TorchEngine, TorchEngine]) -> None:
    plain, late = engines
    chance = random.Random(4)
    ones = [
        request(
            str(i),
            [chance.randrange(3, 500) for _ in range(chance.randrange(1, 100))],
            **{"max_tokens": 50, "temperature": 1.0, "seed": i, "ignore_eos": True, **KINDS[i % len(KINDS)]},
        )
        for i in range(3 * len(KINDS))
    ]
    expected, got = run(plain, *ones), run(late, *ones)
    assert late._executor.unread > 100  # type: ignore[attr-defined]
    for name, one in expected.items():
        other = got[name]
        assert (other.token_ids, other.finish_reason) == (one.token_ids, one.finish_reason), name
        assert other.logprobs == one.logprobs
    assert late.stats().kv_blocks_used == 0
    assert late.stats().generated_tokens == plain.stats().generated_tokens


def test_same_answers_with_drafts(engines: tuple[TorchEngine, TorchEngine]) -> None:
    """A step in flight is read first where drafts may come, and a step with drafts at once."""
    plain, late = engines
    chance = random.Random(6)
    ones = [
        request(
            str(i),
            [chance.randrange(3, 500) for _ in range(9)] * 4,
            **{"max_tokens": 40, "seed": i, "ignore_eos": True, **REPEATING[i % len(REPEATING)]},
        )
        for i in range(2 * len(REPEATING))
    ]
    expected = run(plain, *ones)
    drafter = Drafter("auto", 6, StepCost((1, 1.0), (64, 2.0)), kept=1000, read_cost=0.1)
    late._drafter = late._scheduler._drafter = drafter
    got = run(late, *ones)
    for name, one in expected.items():
        assert (got[name].token_ids, got[name].logprobs) == (one.token_ids, one.logprobs), name
    assert late._executor.unread > 20, "steps were still launched ahead"  # type: ignore[attr-defined]
    assert drafter.accepted.total() > 50
    assert late.stats().kv_blocks_used == 0
    assert late.stats().generated_tokens == plain.stats().generated_tokens


def test_an_abort_takes_one_step_and_its_late_token_is_dropped(
    engines: tuple[TorchEngine, TorchEngine],
) -> None:
    _, late = engines
    for name in ("a", "b"):
        late.submit(request(name, [5, 6, 7], max_tokens=40, ignore_eos=True))
    for _ in range(4):
        late.step(0)
    late.abort("a")
    outputs = late.step(0)
    assert [(one.token_ids, one.finish_reason) for one in outputs if one.request_id == "a"] == [([], "abort")]
    late.submit(request("a", [9], max_tokens=3, ignore_eos=True))  # the same name, another sequence
    whole = finish(late, {"a", "b"})
    assert len(whole["a"].token_ids) == 3
    assert late.stats().kv_blocks_used == 0
