"""Drafts pause where steps with them make fewer tokens a second, and only there."""

from __future__ import annotations

import pytest

from trtllm_openai.engines.torch.speculation.trial import ENOUGH, LONGEST_PAUSE, SHORTEST_PAUSE, Trial


def steps(trial: Trial, count: int, plain_s: float, drafted_s: float) -> list[bool]:
    """Decode four sequences; every other step may have drafts, for six tokens. Returns which had them."""
    drafted = []
    for number in range(count):
        with_drafts = number % 2 == 1 and trial.allows(4)
        drafted.append(with_drafts)
        if with_drafts:
            trial.note(4, 6, drafted_s, drafted=True)
        else:
            trial.note(4, 4, plain_s, drafted=False)
    return drafted


@pytest.mark.parametrize("drafted_s", [0.010, 0.0149])
def test_drafts_that_pay_go_on(drafted_s: float) -> None:
    assert sum(steps(Trial(), 400, 0.010, drafted_s)) == 200


def test_pauses_grow_while_drafts_do_not_pay() -> None:
    had = steps(Trial(), 4000, 0.010, 0.016)
    assert 2 * ENOUGH <= sum(had) <= 2 * ENOUGH * 8
    gaps, last = [], 0
    for number, one in enumerate(had):
        if one:
            gaps.append(number - last)
            last = number
    assert max(gaps) == pytest.approx(LONGEST_PAUSE, abs=2)
    assert min(gap for gap in gaps if gap > 2) == pytest.approx(SHORTEST_PAUSE, abs=2)


def test_drafts_come_back_when_they_pay_again() -> None:
    trial = Trial()
    steps(trial, 200, 0.010, 0.016)
    had = steps(trial, 1200, 0.010, 0.011)
    assert sum(had[-200:]) == 100


def test_old_steps_without_drafts_cost_one_pause() -> None:
    """The context has grown since: every step takes longer than the only ones without drafts."""
    trial = Trial()
    for _ in range(10):
        trial.note(1, 1, 0.010, drafted=False)
    drafted = paused = 0
    for _ in range(1000):
        if trial.allows(1):
            trial.note(1, 2, 0.030, drafted=True)
            drafted += 1
        else:
            trial.note(1, 1, 0.030, drafted=False)
            paused += 1
    assert paused == SHORTEST_PAUSE


def test_numbers_of_sequences_are_apart() -> None:
    trial = Trial()
    for _ in range(ENOUGH):
        trial.note(16, 16, 0.010, drafted=False)
        trial.note(16, 17, 0.020, drafted=True)
    assert not trial.allows(16)
    assert trial.allows(15)
    assert trial.allows(1)
