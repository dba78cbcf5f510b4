"""Rules on logits: when they are needed, what stays untouched, and tokens that do not exist.

The formulas and their order are in `test_sampler`, extreme values in `test_extreme_values`.
"""

import math
from typing import Any

import pytest
import torch

from trtllm_openai.engines.torch.logit_rules import LogitRules
from trtllm_openai.generation import SamplingParams

VOCAB = 10


def rules(prompt: list[int], ends: frozenset[int] = frozenset(), **sampling: Any) -> LogitRules:
    return LogitRules(SamplingParams(10, **sampling), prompt, ends, VOCAB, torch.device("cpu"))


def applied(subject: LogitRules, generated: int) -> list[float]:
    logits = torch.ones(VOCAB)
    subject.apply(logits, generated)
    return logits.tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        {"presence_penalty": 0.5},
        {"presence_penalty": -0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 0.9},
        {"logit_bias": {3: 1.0}},
        {"min_tokens": 1},
    ],
)
def test_each_parameter_needs_rules(sampling: dict[str, Any]) -> None:
    assert LogitRules.needed(SamplingParams(10, **sampling))
    assert not LogitRules.needed(SamplingParams(10, temperature=0.5, top_p=0.5, logit_bias={}))


def test_frequency_counts_each_token_and_the_prompt_does_not_count() -> None:
    subject = rules([1, 1, 1], frequency_penalty=0.25, presence_penalty=0.5)
    assert applied(subject, 0) == [1.0] * VOCAB
    for token in (4, 4, 5):
        subject.add(torch.tensor([token]))
    expected = [1.0] * VOCAB
    expected[4], expected[5] = 0.0, 0.25
    assert applied(subject, 3) == pytest.approx(expected)


def test_repetition_counts_the_prompt_and_each_token_once() -> None:
    subject = rules([1, 1], repetition_penalty=2.0)
    subject.add(torch.tensor([4]))
    subject.add(torch.tensor([4]))
    expected = [1.0] * VOCAB
    expected[1] = expected[4] = 0.5
    assert applied(subject, 2) == expected


def test_ends_are_forbidden_until_enough_is_out() -> None:
    subject = rules([1], frozenset({2, 3, -1, VOCAB, 10**6}), min_tokens=2)  # some ends are no tokens here
    for generated in (0, 1):
        forbidden = [token for token, value in enumerate(applied(subject, generated)) if value == -math.inf]
        assert forbidden == [2, 3]
    assert applied(subject, 2) == [1.0] * VOCAB


def test_a_bias_does_not_lift_the_ban_on_an_end() -> None:
    subject = rules([1], frozenset({2}), min_tokens=1, logit_bias={2: 100.0, 5: 2.5})
    assert applied(subject, 0)[2] == -math.inf
    assert applied(subject, 1)[2] == 101.0
    assert applied(subject, 0)[5] == 3.5


def test_no_token_may_follow_a_token_that_could_not_be_chosen() -> None:
    subject = rules([1], frequency_penalty=0.25, repetition_penalty=2.0)
    subject.add(torch.tensor([-1]))  # the sequence is about to end: it must not fail, nor count from the end
    assert applied(subject, 1)[VOCAB - 1] == 1.0
