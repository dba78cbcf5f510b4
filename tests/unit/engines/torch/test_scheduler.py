"""Queues and blocks under random traffic: nothing leaks, nothing starves, bounds hold, content is right."""

import random
import zlib
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_openai.engines.torch.block_pool import BlockPool
from trtllm_openai.engines.torch.kv_cache import blocks_for
from trtllm_openai.engines.torch.plan import Limits, Plan
from trtllm_openai.engines.torch.scheduler import Scheduler
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.step_budget import StepBudget
from trtllm_openai.generation import GenerationRequest, SamplingParams

BLOCK = 4


class Store:
    """Remembers what was computed at every place, so that a wrong block or copy shows."""

    def __init__(self, blocks: int) -> None:
        self.content = torch.zeros((blocks + 1, BLOCK), dtype=torch.int64)

    def copy_out(self, blocks: list[int]) -> torch.Tensor:
        return self.content[blocks].clone().unsqueeze(0)

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None:
        self.content[blocks] = content[0]

    def write(self, sequence: Sequence, start: int, length: int) -> None:
        for position in range(start, start + length):
            place = sequence.blocks[position // BLOCK], position % BLOCK
            self.content[place] = mark(sequence, position)

    def check(self, sequence: Sequence) -> None:
        """All that counts as computed is there."""
        found = self.content[sequence.blocks].flatten()[: sequence.computed].tolist()
        assert found == [mark(sequence, position) for position in range(sequence.computed)]


def mark(sequence: Sequence, position: int) -> int:
    """What stands for a token's keys and values: they follow from all tokens up to it."""
    return hash((sequence.request.cache_salt, *sequence.tokens[: position + 1]))


def make(
    blocks: int, batch: int = 4, tokens: int = 16, chunk: int = 8, **limits: Any
) -> tuple[Scheduler, BlockPool, Store]:
    pool, store = BlockPool(blocks), Store(blocks)
    limits = {"tile": 8, "exact": True, **limits}
    return Scheduler(Limits(batch, tokens, chunk, BLOCK, **limits), pool, store), pool, store


def new(name: str, prompt: int | list[int], answer: int, **fields: Any) -> Sequence:
    # hash() of a text differs by process: sometimes two prompts were equal, and the second cached
    ids = [zlib.crc32(name.encode()) >> 1] * prompt if isinstance(prompt, int) else prompt
    return Sequence(
        msgspec.structs.replace(GenerationRequest(name, ids, SamplingParams(max_tokens=answer)), **fields)
    )


def execute(scheduler: Scheduler, plan: Plan, store: Store, token: int = 1) -> list[Sequence]:
    """Do what the engine does with a plan; returns the finished."""
    parts = [(sequence, sequence.computed, 1) for sequence in plan.decode]
    parts += [(chunk.sequence, chunk.start, chunk.length) for chunk in plan.prefill]
    for sequence, start, length in parts:
        assert start == sequence.computed
        store.check(sequence)
        store.write(sequence, start, length)
    done = [*plan.decode, *(chunk.sequence for chunk in plan.prefill if chunk.last)]
    scheduler.advance(plan)
    finished = []
    for sequence in done:
        assert sequence.computed == len(sequence.tokens)
        sequence.tokens.append(token)
        if sequence.generated >= sequence.request.sampling.max_tokens:
            scheduler.remove(sequence)
            finished.append(sequence)
    return finished


def finish(scheduler: Scheduler, store: Store) -> list[str]:
    """Run all to their ends; names in the order in which they ended."""
    names = []
    while scheduler.running or scheduler.waiting:
        names += [one.request.request_id for one in execute(scheduler, scheduler.plan(), store)]
    return names


def test_a_full_batch_makes_others_wait_in_order() -> None:
    scheduler, _, _ = make(100, batch=2, tokens=100, chunk=50)
    sequences = [new(str(i), 3, 2) for i in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    plan = scheduler.plan()
    assert [chunk.sequence for chunk in plan.prefill] == sequences[:2]
    assert scheduler.waiting == sequences[2:]


def test_order_by_priority_then_arrival() -> None:
    scheduler, _, store = make(100, batch=1)
    wanted = {"a": None, "b": 0.1, "c": 0.9, "d": 0.5, "e": 0.9}
    for name, priority in wanted.items():
        scheduler.add(new(name, 3, 2, priority=priority))
    assert finish(scheduler, store) == ["c", "e", "a", "d", "b"]


@pytest.mark.parametrize("exact", [False, True])
def test_the_lowest_priority_loses_its_blocks_then_the_youngest(exact: bool) -> None:
    scheduler, _, store = make(12, exact=exact)
    for name, priority in {"low": 0.1, "old": 0.5, "young": 0.5}.items():
        scheduler.add(new(name, 8, 24, priority=priority))
    lost = []
    while scheduler.running or scheduler.waiting:
        plan = scheduler.plan()
        lost += [one.request.request_id for one in scheduler.waiting if one.request.request_id not in lost]
        execute(scheduler, plan, store)
    assert lost == ["low", "young"]


def test_prompts_are_cut_at_multiples_of_the_tile() -> None:
    scheduler, _, store = make(100, tokens=21, chunk=16)
    for sequence in (new("a", 43, 1), new("b", 8, 1)):
        scheduler.add(sequence)
    seen = []
    while scheduler.running or scheduler.waiting:
        plan = scheduler.plan()
        seen.append([(c.sequence.request.request_id, c.start, c.length) for c in plan.prefill])
        execute(scheduler, plan, store)
    assert seen == [[("a", 0, 8), ("b", 0, 8)], [("a", 8, 16)], [("a", 24, 16)], [("a", 40, 3)]]


def test_short_prompts_get_past_long_ones_and_nobody_decodes_slowly() -> None:
    scheduler, _, store = make(1000, batch=8, tokens=128, chunk=64)
    for number in range(3):
        scheduler.add(new(f"long {number}", 400, 2))
    assert [chunk.length for chunk in scheduler.plan().prefill] == [64, 48, 16]
    execute(scheduler, scheduler.plan(), store)
    scheduler.add(new("short", 20, 9))
    plan = scheduler.plan()
    assert [(chunk.sequence.request.request_id, chunk.length) for chunk in plan.prefill] == [
        ("long 0", 64),
        ("long 1", 40),
        ("long 2", 16),
        ("short", 8),
    ]
    for _ in range(3):
        execute(scheduler, plan, store)
        plan = scheduler.plan()
    assert [sequence.request.request_id for sequence in plan.decode] == ["short"]
    assert sum(chunk.length for chunk in plan.prefill) == 64


def test_equal_beginnings_are_computed_once() -> None:
    scheduler, pool, store = make(100, tokens=64, chunk=32)
    prompt = list(range(32))
    for name, rest in {"a": [1, 2], "b": [3], "c": [1, 2], "d": []}.items():
        scheduler.add(new(name, prompt + rest, 3))
    other = new("other", prompt, 3, cache_salt="pepper")
    scheduler.add(other)
    first = scheduler.plan()
    assert [(c.sequence.request.request_id, c.length) for c in first.prefill] == [("a", 32), ("other", 32)]
    execute(scheduler, first, store)
    second = scheduler.plan()
    assert [(c.sequence.request.request_id, c.start, c.length) for c in second.prefill] == [
        ("a", 32, 2),
        ("b", 32, 1),
        ("c", 32, 2),
    ]  # d waits for a place
    assert pool.used == 8 + 3 + 8 + 1
    execute(scheduler, second, store)
    finish(scheduler, store)
    assert scheduler.reused == 8 + 8 + 6  # d computes its last tile: a prompt is never all cached
    assert pool.used == 0


def with_flood(sequences: int = 3, **limits: Any) -> tuple[Scheduler, Store]:
    """A scheduler at whose steps one key's sequences decode."""
    scheduler, _, store = make(1000, batch=8, tokens=64, chunk=32, **limits)
    for number in range(sequences):
        scheduler.add(new(f"flood {number}", 8, 1000))
    while not all(sequence.generated for sequence in scheduler.running) or scheduler.waiting:
        execute(scheduler, scheduler.plan(), store)
    return scheduler, store


def chunks(plan: Plan) -> list[tuple[str, int]]:
    return [(chunk.sequence.request.request_id, chunk.length) for chunk in plan.prefill]


def test_a_prompt_below_its_share_is_computed_while_the_others_rest() -> None:
    scheduler, store = with_flood()
    scheduler.add(new("other", 20, 5))
    scheduler.add(new("polite", 20, 5, below_share=True))
    plan = scheduler.plan_first()
    assert (plan.decode, chunks(plan)) == ([], [("polite", 20)])
    execute(scheduler, plan, store)
    assert not scheduler.plan_first(), "the prompt is computed"
    plan = scheduler.plan()
    assert len(plan.decode) == 4
    assert chunks(plan) == [("other", 20)]


def test_prompts_go_first_no_more_than_the_others_advance() -> None:
    """64 tokens, a largest step, may go first at once, and 2 more for each token that the others decode."""
    scheduler, store = with_flood()
    for number in range(2):
        scheduler.add(new(f"polite {number}", 40, 1, below_share=True))
    plan = scheduler.plan_first()
    assert chunks(plan) == [("polite 0", 32), ("polite 1", 32)]
    execute(scheduler, plan, store)
    assert not scheduler.plan_first()
    plan = scheduler.plan()
    assert len(plan.decode) == 3
    assert chunks(plan) == [("polite 0", 8), ("polite 1", 8)], "with the others"
    execute(scheduler, plan, store)
    scheduler.add(new("late", 30, 1, below_share=True))
    assert chunks(scheduler.plan_first()) == [("late", 16)], "whole tiles of 8 of 2 * 3 + 16 tokens"


class Budget(StepBudget):
    """So many prompt tokens fit, less the rows beside them."""

    def __init__(self, fitting: int, limits: Limits) -> None:
        super().__init__(1.0, limits)
        self.fitting = fitting
        self.asked: list[tuple[int, int, int]] = []

    def tokens(self, rows: int = 0, context: int = 0, depth: int = 0) -> int:
        self.asked.append((rows, context, depth))
        return self.fitting - rows


def budgeted(fitting: int) -> tuple[Scheduler, Store, Budget]:
    limits, store = Limits(8, 128, 64, BLOCK, tile=8, exact=True), Store(1000)
    budget = Budget(fitting, limits)
    return Scheduler(limits, BlockPool(1000), store, step_budget=budget), store, budget


def test_prompts_beside_decodes_have_what_fits_the_time_budget() -> None:
    scheduler, store, budget = budgeted(27)
    scheduler.add(new("decoding", 64, 100))
    scheduler.add(new("also", 20, 100))
    plan = scheduler.plan()
    assert chunks(plan) == [("decoding", 64), ("also", 20)], "nothing decodes yet"
    assert not budget.asked
    execute(scheduler, plan, store)
    scheduler.add(new("long", 100, 1))
    seen = []
    while not (plan := scheduler.plan()).prefill or plan.prefill[0].start < 72:
        seen.append(chunks(plan))
        execute(scheduler, plan, store)
    assert seen == [[("long", 24)]] * 3, "whole tiles of 8 of 27 - 2 tokens"
    # 64 and 20 tokens fill 21 blocks; one more each from the first decode on; the prompt's do not count.
    assert budget.asked == [(2, 92, 0), (2, 92, 24), (2, 92, 48), (2, 92, 72)]
    assert plan.context == 92
    execute(scheduler, plan, store)
    finish(scheduler, store)


def test_a_time_budget_bounds_what_goes_first_beside_decodes() -> None:
    scheduler, store, _ = budgeted(24)
    for number in range(2):
        scheduler.add(new(f"flood {number}", 8, 1000))
    scheduler.add(new("polite", 60, 5, below_share=True))
    assert chunks(scheduler.plan_first()) == [("polite", 60)], "nobody decodes, so nobody waits for a token"
    scheduler, store, _ = budgeted(24)
    for number in range(2):
        scheduler.add(new(f"flood {number}", 8, 1000))
    execute(scheduler, scheduler.plan(), store)
    execute(scheduler, scheduler.plan(), store)
    scheduler.add(new("polite", 60, 5, below_share=True))
    plan = scheduler.plan_first()
    assert chunks(plan) == [("polite", 24)]
    execute(scheduler, plan, store)
    assert not scheduler.plan_first(), "the others' turn"
    execute(scheduler, scheduler.plan(), store)


def test_no_prompt_goes_first_twice() -> None:
    """A plan that is launched in the midst of another has none of its prompts."""
    scheduler, store = with_flood()
    polite = new("polite", 20, 5, below_share=True)
    scheduler.add(polite)
    others = scheduler.plan()
    assert polite in [chunk.sequence for chunk in others.prefill]
    second = new("second", 8, 5, below_share=True)
    scheduler.add(second)
    between = scheduler.plan_first()
    assert chunks(between) == [("second", 8)]
    execute(scheduler, between, store)
    execute(scheduler, others, store)
    assert (polite.generated, second.generated) == (1, 1)


def test_nobody_is_first_among_equals_or_takes_blocks_or_places() -> None:
    scheduler, _, _ = make(1000, batch=2)
    for name in "ab":
        scheduler.add(new(name, 8, 5, below_share=True))
    assert not scheduler.plan_first(), "there are no others"
    full, _ = with_flood(8)
    full.add(new("polite", 8, 5, below_share=True))
    assert not full.plan_first(), "there is no place"
    tight, _, store = make(10, tokens=64, chunk=32)
    tight.add(new("flood", 24, 10))
    execute(tight, tight.plan(), store)
    tight.add(new("polite", 16, 5, below_share=True))
    assert not tight.plan_first(), "there are no blocks"
    assert tight.preemptions == 0


@pytest.mark.parametrize(("exact", "reused"), [(True, 16), (False, 28)])
def test_decoded_blocks_are_reused_where_rounding_may_differ(exact: bool, reused: int) -> None:
    scheduler, _, store = make(100, exact=exact, tile=8 if exact else 1)
    turn = new("turn", list(range(20)), 9)
    scheduler.add(turn)
    finish(scheduler, store)
    following = new("next", [*turn.tokens, 5, 5, 5], 1)
    scheduler.add(following)
    finish(scheduler, store)
    assert following.cached_tokens == reused


def test_scored_prompts_are_computed() -> None:
    scheduler, _, store = make(100)
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0)
    for name in "ab":
        sequence = Sequence(GenerationRequest(name, list(range(20)), sampling))
        scheduler.add(sequence)
        finish(scheduler, store)
        assert sequence.cached_tokens == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 30), st.booleans(), st.sampled_from([1, 4, 8]), st.booleans())
def test_random_traffic(seed: int, blocks: int, exact: bool, tile: int, caching: bool) -> None:
    chance = random.Random(seed)
    scheduler, pool, store = make(blocks, exact=exact, tile=tile, prefix_caching=caching)
    prompts = [[chance.randrange(3) for _ in range(24)] for _ in range(3)]
    unfinished: list[Sequence] = []

    def step() -> None:
        plan = scheduler.plan_first() or scheduler.plan()
        assert bool(plan) == bool(unfinished), "something to do and nothing done, or the reverse"
        tokens = len(plan.decode) + sum(chunk.length for chunk in plan.prefill)
        assert tokens <= 16
        assert len(scheduler.running) <= 4
        check_blocks()
        for sequence in [*plan.decode, *(chunk.sequence for chunk in plan.prefill)]:
            assert len(sequence.blocks) >= blocks_for(min(sequence.computed + 1, len(sequence.tokens)), BLOCK)
        if not plan.first and chance.random() < 0.5 and (between := scheduler.plan_first()):
            check_blocks()
            under_way = [*plan.decode, *(chunk.sequence for chunk in plan.prefill)]
            assert not between.decode
            assert all(chunk.sequence not in under_way for chunk in between.prefill)
            for sequence in execute(scheduler, between, store, chance.randrange(3)):
                unfinished.remove(sequence)
        for sequence in execute(scheduler, plan, store, chance.randrange(3)):
            unfinished.remove(sequence)
        check_blocks()

    def check_blocks() -> None:
        """Every block is held by those who list it, and else free: empty or idle, not both."""
        holders = [0] * (blocks + 1)
        for sequence in scheduler.running:
            assert len(sequence.blocks) == len(set(sequence.blocks))
            for block in sequence.blocks:
                holders[block] += 1
        assert pool._holders == holders
        unused = [*pool._empty, *pool._idle]
        assert sorted(unused) == [block for block in range(1, blocks + 1) if not holders[block]]
        assert pool._blocks == {name: block for block, name in pool._names.items()}
        assert not set(pool._empty) & set(pool._names)
        assert set(pool._idle) <= set(pool._names)
        assert all(not sequence.blocks for sequence in scheduler.waiting)

    for number in range(150):
        if number < 60 and chance.random() < 0.5:
            length = chance.randrange(1, 24)
            prompt = chance.choice(prompts)[:length] + [chance.randrange(3)] * chance.randrange(4)
            sequence = new(
                str(number),
                prompt,
                chance.randrange(1, max(2, blocks * BLOCK - len(prompt) + 1)),
                priority=chance.choice([None, 0.1, 0.9]),
                cache_salt=chance.choice([None, None, "a", ""]),
                below_share=chance.random() < 0.3,
            )
            scheduler.add(sequence)
            unfinished.append(sequence)
        if number < 60 and unfinished and chance.random() < 0.1:
            gone = unfinished.pop(chance.randrange(len(unfinished)))
            scheduler.remove(gone)
            check_blocks()
        step()
    while unfinished:
        step()
    assert pool.used == 0
    assert caching or not scheduler.reused
