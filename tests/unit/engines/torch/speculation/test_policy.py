"""How many draft tokens are verified: as an exhaustive search would have it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_openai.engines.torch.speculation.policy import PRIOR, Acceptance, StepCost, worthwhile

COST = StepCost((1, 1.0), (2, 1.0), (4, 1.2), (8, 1.6), (16, 2.4))
CHANCES = st.lists(
    st.lists(st.floats(0, 1), max_size=3).map(lambda one: sorted(one, reverse=True)), min_size=1, max_size=3
)


def test_cost_between_and_beyond_its_points() -> None:
    assert [COST(rows) for rows in (1, 2, 3, 4, 6, 16, 24)] == pytest.approx([1, 1, 1.1, 1.2, 1.4, 2.4, 3.2])
    assert COST.least_chance(1) == 0
    assert COST.least_chance(8) == pytest.approx(8 * (1.7 / 1.6 - 1))


@given(CHANCES, st.integers(0, 6), st.integers(0, 9), st.floats(0, 0.5))
def test_the_most_tokens_in_the_time(
    chances: list[list[float]], others: int, most: int, delay: float
) -> None:
    rows = len(chances) + others

    def pace(kept: tuple[int, ...]) -> float:
        number = sum(kept)
        gain = rows + sum(sum(one[:count]) for one, count in zip(chances, kept, strict=True))
        return gain / (COST(rows + number) + (delay if number else 0))

    choices = itertools.product(*(range(len(one) + 1) for one in chances))
    best = max(pace(kept) for kept in choices if sum(kept) <= most)
    kept = worthwhile(chances, rows, most, COST, delay)
    assert sum(kept) <= most
    assert pace(tuple(kept)) == pytest.approx(best)


def test_large_batches_draft_only_what_is_nearly_sure() -> None:
    doubtful, sure = [0.6, 0.4, 0.2], [0.99, 0.98, 0.97]
    assert worthwhile([doubtful], 1, 99, COST) == [3]
    assert worthwhile([doubtful] * 16, 16, 99, COST) == [0] * 16
    assert worthwhile([doubtful] * 15 + [sure], 16, 99, COST) == [0] * 15 + [3]


def test_acceptance_follows_what_came_true_lately() -> None:
    acceptance = Acceptance()
    assert acceptance.rate == pytest.approx(PRIOR)
    for _ in range(20):
        acceptance.note(0, 4)
    assert acceptance.rate < 0.15
    for _ in range(5):
        acceptance.note(4, 4)
    assert acceptance.rate > 0.7
    acceptance.note(4, 4)
    before = acceptance.rate
    acceptance.note(2, 4)
    assert acceptance.rate < before
