"""Where drafts come from, whose they are, and when there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.engines.torch.conftest import make_engine, request, run
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.drafter import PROBE_INTERVAL, Drafter, Mode
from trtllm_openai.engines.torch.speculation.policy import StepCost
from trtllm_openai.errors import ConfigError

FREE = StepCost((1, 1.0), (2, 1.0))
"""A cost at which every draft pays."""
DEAR = StepCost((1, 1.0), (2, 1.9))
TEXT = list(range(10, 40))


def sequence(
    tokens: list[int], *, salt: str | None = None, predicted: Iterable[int] = (), **more: Any
) -> Sequence:
    asked = request("a", tokens, **{"max_tokens": 100, **more})
    return Sequence(msgspec.structs.replace(asked, cache_salt=salt, prediction_token_ids=list(predicted)))


def draft(drafter: Drafter, one: Sequence, most: int = 99) -> list[int]:
    return drafter.propose([one], most).get(one, [])


def say(one: Sequence, tokens: list[int]) -> None:
    one.tokens += tokens


@pytest.mark.parametrize("mode", ["auto", "suffix", "ngram"])
def test_its_own_text(mode: Mode) -> None:
    drafter = Drafter(mode, 5, FREE)
    one = sequence([*TEXT, 1, 2])
    assert draft(drafter, one) == []
    say(one, TEXT[3:9])
    assert draft(drafter, one) == TEXT[9:14]
    assert draft(drafter, one, most=2) == TEXT[9:11]


def test_suffix_takes_the_most_frequent_and_ngram_the_latest() -> None:
    tokens = [1, 2, 3, 7, 1, 2, 3, 7, 1, 2, 3, 8, 5, 1, 2, 3]
    assert draft(Drafter("suffix", 1, FREE), sequence(tokens)) == [7]
    assert draft(Drafter("ngram", 1, FREE), sequence(tokens)) == [8]
    # a longer match wins over a later one, which n-grams of 4 tokens cannot tell apart
    tokens = [5, 1, 2, 3, 4, 7, 6, 1, 2, 3, 4, 8, 5, 1, 2, 3, 4]
    assert draft(Drafter("suffix", 1, FREE), sequence(tokens)) == [7]
    assert draft(Drafter("ngram", 1, FREE), sequence(tokens)) == [8]


def test_no_more_tokens_than_the_answer_may_have() -> None:
    one = sequence([*TEXT, *TEXT[:4]], max_tokens=3)
    assert draft(Drafter("ngram", 12, FREE), one) == TEXT[4:6]
    say(one, TEXT[4:6])
    assert draft(Drafter("ngram", 12, FREE), one) == []


def test_a_prediction_is_followed_from_its_first_token() -> None:
    drafter = Drafter("suffix", 4, FREE)
    one = sequence([1, 2, 3], predicted=TEXT)
    say(one, TEXT[:1])
    assert draft(drafter, one) == TEXT[1:5]
    say(one, [*TEXT[1:3], 99, *TEXT[10:12]])  # it goes on elsewhere
    assert draft(drafter, one) == TEXT[12:16]


def test_answers_of_the_same_salt_only() -> None:
    drafter = Drafter("suffix", 4, FREE, kept=1000)
    first = sequence([1, 2, 3], salt="mine")
    say(first, TEXT)
    drafter.ended(first)
    for salt, expected in (("mine", TEXT[3:7]), ("other", []), (None, [])):
        one = sequence([4, 5], salt=salt)
        say(one, TEXT[:3])
        assert draft(drafter, one) == expected


def test_auto_stops_where_drafts_do_not_come_true_and_looks_again() -> None:
    drafter = Drafter("auto", 4, StepCost((1, 1.0), (8, 2.4)))
    one = sequence(TEXT * 2, max_tokens=1000)
    asked = 0
    for new in range(100, 160):
        say(one, [new, *TEXT[3:6]])  # a match, whose continuation will be wrong
        found = draft(drafter, one)
        if found:
            asked += 1
            drafter.judge(one, len(found), 0)
    assert 0 < asked < 12
    start = TEXT * 3
    spoken = 0
    while not draft(drafter, one):
        say(one, [start[spoken % len(start)]])
        spoken += 1
        assert spoken < 6 * PROBE_INTERVAL, "it never looks again"


def test_auto_drafts_nothing_where_rows_are_dear() -> None:
    one = sequence([*TEXT, *TEXT[:6]])
    others = [sequence([1, 2]) for _ in range(15)]
    cheap = Drafter("auto", 4, FREE)
    assert one in cheap.propose([one, *others], 99)
    assert Drafter("auto", 4, DEAR).propose([one, *others], 99) == {}
    assert one.drafting is not None


def test_auto_pauses_where_steps_with_drafts_take_too_long() -> None:
    """The assumed cost of rows does not matter. Steps beside prompts or of other modes are not judged."""
    one = sequence([*TEXT, *TEXT[:6]])

    def decode(drafter: Drafter, beside_prompts: bool = False) -> None:
        at = 0.0
        for number in range(40):
            drafts = {one: [1]} if number % 2 else {}
            prompts = [Chunk(one, 0, 1)] if beside_prompts else []
            drafter.launched(Plan(decode=[one], drafts=drafts, prefill=prompts))
            at += 0.05 if drafts else 0.02
            drafter.read(2 if drafts else 1, at)

    cases: list[tuple[Mode, bool, dict[Sequence, list[int]]]] = [
        ("auto", False, {}),
        ("auto", True, {one: TEXT[6:10]}),
        ("suffix", False, {one: TEXT[6:10]}),
    ]
    for mode, beside_prompts, expected in cases:
        drafter = Drafter(mode, 4, FREE, read_cost=0.0)
        assert drafter.propose([one], 9) == {one: TEXT[6:10]}
        decode(drafter, beside_prompts)
        assert drafter.propose([one], 9) == expected, mode
        one.computed, one.unread = len(one.tokens), 1
        assert drafter.wants([one]) == bool(expected)
        one.computed, one.unread = 0, 0
        one.drafting = None


def test_a_step_in_flight_is_read_only_where_drafts_pay() -> None:
    repeating, other = sequence([*TEXT, *TEXT[:6]]), sequence(TEXT)
    for one in (repeating, other):
        one.computed, one.unread = len(one.tokens), 1
    eager = Drafter("auto", 4, FREE)
    assert not eager.wants([repeating])
    late = Drafter("auto", 4, FREE, read_cost=0.1)
    assert late.wants([repeating, other])
    assert not late.wants([other])
    assert late.propose([repeating], 9) == {}, "its last token is not known"
    repeating.tokens.append(TEXT[6])
    repeating.unread = 0
    assert late.propose([repeating], 9) == {repeating: TEXT[7:11]}
    dear = Drafter("auto", 4, DEAR, read_cost=5.0)
    assert not dear.wants([repeating])


@pytest.mark.parametrize("mode", ["auto", "suffix", "ngram", "off"])
def test_the_setting(checkpoint: Callable[[str], Path], mode: str) -> None:
    """A loop is soon drafted, and an answer with drafts takes fewer steps."""
    engine = make_engine(checkpoint("llama"), speculation=mode)
    assert engine.info.capabilities.prediction == (mode != "off")
    prompt = [5, 6, 7, 8] * 6
    # the bias makes the model repeat its prompt
    one = request("a", prompt, max_tokens=40, temperature=0, logit_bias={5: 60.0}, ignore_eos=True)
    found = run(engine, one)["a"]
    stats = engine.stats()
    assert found.token_ids == [5] * 40
    assert (stats.steps < 25) == (mode != "off")
    assert (stats.drafts > 0) == (mode != "off")


def test_several_ranks_draft_nothing(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"torch\.speculation: suffix needs torch\.tensor_parallel_size 1"):
        make_engine(checkpoint("llama"), speculation="suffix", tensor_parallel_size=2)
