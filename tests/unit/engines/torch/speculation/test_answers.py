"""Earlier answers: apart by salt, and within their bound."""

from __future__ import annotations

import random

from trtllm_openai.engines.torch.speculation.answers import MOST_OF_A_SALT, SHORTEST_ANSWER, Answers
from trtllm_openai.engines.torch.speculation.matching import LONGEST, SEPARATOR

ANSWER = list(range(100, 120))


def test_salts_are_apart() -> None:
    answers = Answers(1000)
    answers.add("a", [1, 2], ANSWER)
    answers.add(None, [3], ANSWER[::-1])
    assert answers.of("b") is None
    mine, nobodys = answers.of("a"), answers.of(None)
    assert mine is not None
    assert nobodys is not None
    assert mine.tolist() == [SEPARATOR, 1, 2, *ANSWER]
    assert nobodys.tolist() == [SEPARATOR, 3, *ANSWER[::-1]]


def test_the_end_of_a_prompt_comes_first_and_short_answers_are_not_kept() -> None:
    answers = Answers(1000)
    answers.add("a", list(range(90)), ANSWER)
    kept = answers.of("a")
    assert kept is not None
    assert kept.tolist() == [SEPARATOR, *range(90 - LONGEST, 90), *ANSWER]
    answers.add("b", [1], ANSWER[: SHORTEST_ANSWER - 1])
    assert answers.of("b") is None


def test_it_is_bounded_and_what_was_used_last_stays() -> None:
    chance = random.Random(3)
    answers = Answers(3000)
    for _ in range(500):
        answers.add(str(chance.randrange(40)), [1] * 50, [chance.randrange(99)] * chance.randrange(8, 300))
        assert answers.total <= 3000
        assert answers.total == sum(
            len(tokens) for salt in map(str, range(40)) if (tokens := answers.of(salt)) is not None
        )
    answers = Answers(100)
    for salt in "abc":
        answers.add(salt, [], ANSWER)
    assert answers.of("a") is not None
    for salt in "de":
        answers.add(salt, [], ANSWER)
    assert [salt for salt in "abcde" if answers.of(salt) is not None] == ["a", "c", "d", "e"]


def test_one_salt_has_a_bound_of_its_own_and_none_is_kept_without_room() -> None:
    answers = Answers(10 * MOST_OF_A_SALT)
    for _ in range(20):
        answers.add("a", [], ANSWER * 500)
    assert 0 < answers.total <= MOST_OF_A_SALT
    nothing = Answers(0)
    nothing.add("a", [], ANSWER)
    assert nothing.of("a") is None
