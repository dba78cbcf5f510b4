"""Queues and blocks under random traffic: nothing leaks, nothing starves, bounds hold."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engines.torch.kv_cache import BlockAllocator, blocks_for
from app.engines.torch.scheduler import Limits, Plan, Scheduler
from app.engines.torch.sequence import Sequence
from app.generation import GenerationRequest, SamplingParams

BLOCK = 4


class Store:
    """Remembers what is in each block, so that a wrong copy shows."""

    def __init__(self, blocks: int) -> None:
        self.content = torch.zeros(blocks + 1, dtype=torch.int64)

    def copy_out(self, blocks: list[int]) -> torch.Tensor:
        return self.content[blocks].clone().unsqueeze(0)

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None:
        self.content[blocks] = content[0]


def make(
    blocks: int, batch: int = 4, tokens: int = 16, chunk: int = 8
) -> tuple[Scheduler, BlockAllocator, Store]:
    allocator, store = BlockAllocator(blocks), Store(blocks)
    return Scheduler(Limits(batch, tokens, chunk, BLOCK), allocator, store), allocator, store


def new(name: str, prompt: int, answer: int) -> Sequence:
    return Sequence(GenerationRequest(name, [1] * prompt, SamplingParams(max_tokens=answer)))


def execute(scheduler: Scheduler, plan: Plan) -> list[Sequence]:
    """Do what the engine does with a plan; returns the finished."""
    finished = []
    for chunk in plan.prefill:
        chunk.sequence.computed += chunk.length
    for sequence in plan.decode:
        sequence.computed += 1
    done = [*plan.decode, *(chunk.sequence for chunk in plan.prefill if chunk.last)]
    for sequence in done:
        sequence.tokens.append(1)
        if sequence.generated >= sequence.request.sampling.max_tokens:
            scheduler.remove(sequence)
            finished.append(sequence)
    return finished


def test_a_full_batch_makes_others_wait_in_order() -> None:
    scheduler, _, _ = make(100, batch=2, tokens=100, chunk=50)
    sequences = [new(str(i), 3, 2) for i in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    plan = scheduler.plan()
    assert [chunk.sequence for chunk in plan.prefill] == sequences[:2]
    assert list(scheduler.waiting) == sequences[2:]


def test_prompts_are_cut_at_multiples_of_the_chunk_and_never_to_fit() -> None:
    scheduler, _, _ = make(100, tokens=13, chunk=8)
    first, second = new("a", 20, 1), new("b", 8, 1)
    scheduler.add(first)
    scheduler.add(second)
    seen = []
    while scheduler.running or scheduler.waiting:
        plan = scheduler.plan()
        seen.append([(c.sequence.request.request_id, c.start, c.length) for c in plan.prefill])
        execute(scheduler, plan)
    assert seen == [[("a", 0, 8)], [("a", 8, 8)], [("a", 16, 4), ("b", 0, 8)]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 30))
def test_random_traffic(seed: int, blocks: int) -> None:
    chance = random.Random(seed)
    scheduler, allocator, store = make(blocks)
    unfinished: list[Sequence] = []
    marks: dict[str, int] = {}
    for step in range(400):
        if step < 60 and chance.random() < 0.5:
            prompt = chance.randrange(1, 20)
            sequence = new(str(step), prompt, chance.randrange(1, blocks * BLOCK - prompt + 1))
            scheduler.add(sequence)
            unfinished.append(sequence)
        if step < 60 and unfinished and chance.random() < 0.1:
            gone = unfinished.pop(chance.randrange(len(unfinished)))
            scheduler.remove(gone)
        plan = scheduler.plan()
        assert bool(plan) == bool(unfinished), "something to do and nothing done, or the reverse"
        tokens = len(plan.decode) + sum(chunk.length for chunk in plan.prefill)
        assert tokens <= 16
        assert len(scheduler.running) <= 4
        owned = [block for sequence in scheduler.running for block in sequence.blocks]
        assert len(owned) == len(set(owned)) == allocator.used
        for sequence in [*plan.decode, *(chunk.sequence for chunk in plan.prefill)]:
            assert len(sequence.blocks) >= blocks_for(min(sequence.computed + 1, len(sequence.tokens)), BLOCK)
        for sequence in scheduler.running:  # its own mark is still where it put it
            name = sequence.request.request_id
            if name in marks:
                assert store.content[sequence.blocks[0]] == marks[name]
            else:
                marks[name] = step + 1000
                store.content[sequence.blocks[0]] = step + 1000
        for sequence in execute(scheduler, plan):
            unfinished.remove(sequence)
    while unfinished:
        for sequence in execute(scheduler, scheduler.plan()):
            unfinished.remove(sequence)
    assert allocator.used == 0


def test_allocator_refuses_what_it_does_not_have() -> None:
    allocator = BlockAllocator(3)
    blocks = allocator.take(3)
    assert sorted(blocks) == [1, 2, 3]
    with pytest.raises(ValueError, match="1 blocks asked for, 0 free"):
        allocator.take(1)
    allocator.give_back(blocks)
    assert allocator.free == 3
