"""Durations of steps are learnt from steps; the tokens that fit a budget follow; answers do not change."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.step_budget import H100, Simulation
from tests.unit.engines.torch.conftest import finish, make_engine, request
from tests.unit.engines.torch.test_scheduler import new
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.plan import Chunk, Limits, Plan
from trtllm_openai.engines.torch.step_budget import StepBudget, StepTimes, Work, work_of
from trtllm_openai.generation import StepOutput

GPU = Limits(256, 8192, 7936, 16)
TILED = Limits(32, 512, 256, 16, tile=64, exact=True)


def linear(work: Work, pace: float = 1.0) -> float:
    """Seconds of a step of a made-up device."""
    return pace * (5e-3 + 2e-5 * work.rows + 5e-8 * work.context + 2e-5 * work.tokens + 1e-9 * work.pairs)


def steps(count: int, seed: int = 1) -> list[Work]:
    """Steps with and without prompts, up to 64 rows."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        rows, tokens = chance.randint(1, 64), chance.choice([0, chance.randint(64, 2048)])
        found.append(Work(rows, rows * chance.randint(100, 1500), tokens, tokens * chance.randint(0, 4000)))
    return found


def predicted(times: StepTimes, work: Work) -> float:
    depth = work.pairs // work.tokens if work.tokens else 0
    return times.decodes_s(work.rows, work.context) + work.tokens * times.prompt_token_s(depth)


def errors(times: StepTimes, true: Callable[[Work], float], seed: int = 2) -> list[float]:
    """Relative errors at steps that were not learnt from, smallest first."""
    return sorted(abs(predicted(times, work) / true(work) - 1) for work in steps(200, seed))


@pytest.mark.parametrize("guess_s", [1e-4, 0.015, 5.0])
def test_durations_are_learnt_whatever_was_guessed(guess_s: float) -> None:
    times, chance = StepTimes(guess_s), random.Random(3)
    for work in steps(600):
        times.note(work, linear(work) * max(0.5, chance.gauss(1, 0.05)))
    found = errors(times, linear)
    assert found[100] < 0.1, found[100::30]


def test_a_step_that_took_long_by_accident_hardly_counts() -> None:
    times = StepTimes(0.015)
    for work in steps(400):
        times.note(work, linear(work))
    work = Work(32, 20_000, 512, 512 * 256)
    before = predicted(times, work)
    times.note(work, 20.0)  # a kernel was compiled
    assert before < predicted(times, work) < 1.2 * before
    for again in steps(12, seed=5):
        times.note(again, linear(again))
    assert predicted(times, work) == pytest.approx(before, rel=0.06)


def test_an_accident_at_the_very_first_step_is_forgotten() -> None:
    times = StepTimes(0.015)
    times.note(Work(0, 0, 20, 200), 30.0)
    for work in steps(60):
        times.note(work, linear(work))
    assert errors(times, linear)[100] < 0.2


def test_a_change_of_pace_is_followed() -> None:
    times = StepTimes(0.015)
    for pace in (1.0, 3.0, 0.5):
        for work in steps(40, seed=int(10 * pace)):
            times.note(work, linear(work, pace))
        assert errors(times, lambda work, pace=pace: linear(work, pace))[100] < 0.15, pace  # type: ignore[misc]


def test_what_cannot_be_is_bounded() -> None:
    times = StepTimes(0.015)
    for seconds in (0.0, 1e9, float("inf"), 0.0):
        for _ in range(200):
            times.note(Work(1, 100, 64, 4096), seconds)
        assert 0 < times.decodes_s(1, 100) < 1e6
        assert 0 < times.prompt_token_s(100_000) < 1e6


def test_tokens_fill_what_the_decodes_leave() -> None:
    budget = StepBudget(0.020, GPU)
    for work in steps(600):
        budget.times.note(work, linear(work))
    assert budget.tokens(16, 10_000) == pytest.approx((0.020 - 0.00582) / 2e-5, rel=0.15)
    assert budget.tokens(16, 10_000, depth=20_000) < 0.7 * budget.tokens(16, 10_000), "it attends to more"
    assert budget.tokens(64, 90_000) < budget.tokens(16, 10_000) < budget.tokens()


@pytest.mark.parametrize(("limits", "least"), [(GPU, 64), (TILED, 64), (Limits(4, 40, 16, 16), 16)])
def test_prompts_advance_whatever_the_limit(limits: Limits, least: int) -> None:
    budget = StepBudget(1e-6, limits)
    for work in steps(100):
        budget.times.note(work, linear(work))
    assert budget.tokens() == least, "nothing decodes: only the limit counts"
    share = budget.times.decodes_s(64, 50_000) / 2
    assert budget.tokens(64, 50_000) == pytest.approx(share / budget.times.prompt_token_s(0), rel=0.01)
    assert 16 <= StepBudget(0.015, limits).tokens(1, 100) <= 64, "before anything is known"


def plan_of(tokens: int) -> Plan:
    return Plan(prefill=[Chunk(new("a", tokens, 1), 0, tokens)])


class Noted(StepTimes):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(0.015)
        self.noted: list[tuple[int, Any]] = []

    def note(self, work: Work, seconds: float) -> None:
        self.noted.append((work.tokens, pytest.approx(seconds)))


@pytest.mark.parametrize(
    ("events", "noted"),
    [
        # One at a time: from launch to read, without the pause between.
        (["launch 1 0.0", "read 1.0", "launch 2 5.0", "read 7.0"], [(1, 1.0), (2, 2.0)]),
        # Overlapping: from read to read; the first from its launch.
        (
            ["launch 1 0.0", "launch 2 0.2", "read 1.0", "launch 3 1.1", "read 4.0", "read 4.5"],
            [(1, 1.0), (2, 3.0), (3, 0.5)],
        ),
        # Steps 2 and 3 went first in the midst of step 1, which says nothing about its own duration.
        (
            ["launch 2 0.1", "read 0.3", "launch 3 0.3", "read 0.7", "launch 1 0.0", "read 2.0"],
            [(2, 0.2), (3, 0.4)],
        ),
    ],
)
def test_the_duration_of_a_step(events: list[str], noted: list[tuple[int, float]]) -> None:
    budget = StepBudget(0.015, GPU)
    budget.times = times = Noted()
    for event in events:
        kind, *numbers = event.split()
        if kind == "launch":
            budget.launched(plan_of(int(numbers[0])), float(numbers[1]))
        else:
            budget.read(float(numbers[0]))
    assert times.noted == noted


def test_the_work_of_a_step() -> None:
    one, other = new("one", 30, 4), new("other", 100, 4)
    plan = Plan(decode=[one], prefill=[Chunk(other, 40, 20)], drafts={one: [1, 2]}, context=48)
    assert work_of(plan) == Work(rows=3, context=48, tokens=20, pairs=20 * 50)
    assert work_of(Plan(prefill=[Chunk(other, 0, 10)], context=48)).context == 0


def test_gaps_of_a_simulated_gpu_are_those_of_the_limit() -> None:
    """The real scheduler over a model of an H100: benchmarks/step_budget.py, shorter."""
    free, bound = (Simulation(64, limit_s, H100, prompt=1024, answer=48) for limit_s in (None, 0.025))
    unbounded, bounded = free.run(), bound.run()
    assert max(unbounded.gaps) > 0.15
    tail = sorted(bounded.gaps)
    assert tail[int(0.99 * len(tail))] < 0.028
    assert tail[-1] < 0.05
    assert bounded.tokens == unbounded.tokens == 64 * 3 * 48
    assert bounded.seconds < 1.1 * unbounded.seconds


def beside_a_prompt(engine: TorchEngine, prompt: int) -> tuple[list[int], dict[str, Any]]:
    """Decode beside a long prompt; prompt tokens computed between two tokens of the stream, and answers."""
    engine.submit(request("stream", range(40, 70), max_tokens=40, ignore_eos=True, logprobs=2))
    parts: list[StepOutput] = []
    seen: list[int] = []
    parts += engine.step(0.01)
    engine.submit(request("long", (7 + i * 31 % 400 for i in range(prompt)), max_tokens=3, ignore_eos=True))
    while long := [one for one in (*engine._scheduler.waiting, *engine._scheduler.running) if one.prefilling]:
        before = long[0].computed
        parts += engine.step(0.01)
        seen.append(long[0].computed - before)
    parts += finish(engine, {"stream", "long"}).values()
    answers: dict[str, Any] = {"stream": ([], []), "long": ([], [])}
    for part in parts:
        tokens, logprobs = answers[part.request_id]
        tokens += part.token_ids
        logprobs += part.logprobs or []
    return seen, answers


def test_prompts_beside_decodes_are_cut_by_time_and_answers_are_the_same(
    checkpoint: Callable[[str], Path],
) -> None:
    """On a CPU chunks only end at other tiles: tokens and log-probabilities are the same, bit for bit."""
    found: dict[float | None, Any] = {}
    for limit in (None, 0.001, 1e6):
        engine = make_engine(checkpoint("llama"), max_step_ms=limit, max_batch_size=4)
        found[limit] = beside_a_prompt(engine, 900)
        engine.shutdown(1)
    assert max(found[None][0]) == 256
    assert max(found[0.001][0]) == 64, "a tile"
    assert max(found[1e6][0]) == 256, "time for more than a chunk, which is no longer than without"
    assert found[None][1] == found[0.001][1] == found[1e6][1]
    assert [len(part) for part in found[None][1]["stream"]] == [40, 40]


def test_an_engine_learns_from_its_steps(checkpoint: Callable[[str], Path]) -> None:
    engine = make_engine(checkpoint("llama"), max_step_ms=20_000)
    assert engine._step_budget is not None
    before = engine._step_budget.tokens(1, 100)
    beside_a_prompt(engine, 300)
    assert engine._step_budget.times._seen >= 40
    assert engine._step_budget.tokens(1, 100) > 2 * before
    assert not engine._step_budget._unread
    engine.shutdown(1)
