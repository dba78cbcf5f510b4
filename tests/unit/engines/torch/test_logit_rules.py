"""Rules on logits: when they are needed, what stays untouched, and tokens that do not exist.

The formulas and their order are in `test_sampler`, extreme values in `test_extreme_values`.
"""

import math
import random
from typing import Any

import pytest
import torch

from trtllm_openai.engines.torch.logit_rules import BiasTables, LogitRules
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
        {"allowed_token_ids": (3,)},
        {"bad_words": ((3,),)},
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


def masked(subject: LogitRules, generated: int = 0) -> list[int]:
    return [token for token, value in enumerate(applied(subject, generated)) if value == -math.inf]


def test_only_allowed_tokens_are_left() -> None:
    subject = rules([1], allowed_token_ids=(7, 0, 7), logit_bias={7: 2.0, 8: 100.0})
    assert masked(subject) == [token for token in range(VOCAB) if token not in (0, 7)]
    assert applied(subject, 0)[7] == 3.0


def test_a_word_is_masked_at_its_last_token() -> None:
    subject = rules([1, 5], bad_words=((3,), (5, 6), (5, 5, 6), (4, 5, 7), (2, 7)))
    assert masked(subject) == [3], "tokens of the prompt do not begin a word"
    for token, expected in ((5, [3, 6]), (4, [3]), (5, [3, 6, 7]), (2, [3, 7]), (7, [3])):
        subject.add(torch.tensor([token], dtype=torch.int32))
        assert masked(subject) == expected


@pytest.mark.parametrize("seed", range(20))
def test_bad_words_against_a_search_of_the_whole_answer(seed: int) -> None:
    chance = random.Random(seed)
    words = tuple(
        tuple(chance.choices(range(4), k=chance.randint(1, 4))) for _ in range(chance.randint(1, 6))
    )
    subject = rules([0], bad_words=words)
    answer: list[int] = []
    for _ in range(30):
        completed = {
            token
            for token in range(VOCAB)
            for word in words
            if len(word) <= len(answer) + 1 and tuple([*answer, token][-len(word) :]) == word
        }
        assert masked(subject) == sorted(completed)
        answer.append(chance.randrange(4))
        subject.add(torch.tensor([answer[-1]]))


def test_choices_share_the_table_of_their_bias() -> None:
    tables, device = BiasTables(torch.device("cpu")), torch.device("cpu")
    biases = [{1: 2.0, 3: -4.0}, {1: 2.0, 3: -4.0}, {1: 2.0, 3: -5.0}, {1: 2.0, 3: -4.0}]
    subjects = [
        LogitRules(SamplingParams(10, logit_bias=bias), [0], frozenset(), VOCAB, device, tables)
        for bias in biases
    ]
    for bias, subject in zip(biases, subjects, strict=True):
        for _ in range(2):  # applying it changes nothing for the others
            assert applied(subject, 0) == [1.0 + bias.get(token, 0.0) for token in range(VOCAB)]
    first, second, other, _ = (subject._bias for subject in subjects)
    assert first is second
    assert first is not other
