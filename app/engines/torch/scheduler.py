"""Which sequences advance in the next step. Pure bookkeeping: no tensor is touched here.

Sequences that have their prompt computed decode one token in every step; the rest of the step's token budget
goes to prompts, oldest first, in chunks. A prompt's chunks begin at multiples of the chunk size and are
never cut to fit, so that a prompt is always computed in the same pieces, whoever else is there.

When the KV cache is full, the youngest sequence gives up its blocks. Their content is kept in host memory:
computing it again could round differently.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import torch

from app.engines.torch.kv_cache import BlockAllocator, blocks_for
from app.engines.torch.sequence import Sequence


class BlockStore(Protocol):
    """Moves the content of blocks out of the cache and back."""

    def copy_out(self, blocks: list[int]) -> torch.Tensor: ...

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_num_tokens` bounds a step's tokens; `chunk` a prompt's share of it at once."""

    max_batch_size: int
    max_num_tokens: int
    chunk: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a prompt computed in a step: tokens[start : start + length]."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """Whether the prompt ends here."""
        return self.start + self.length == self.sequence.prompt_tokens


@dataclass(slots=True)
class Plan:
    """One step: sequences that decode a token and chunks of prompts."""

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[Chunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)


class Scheduler:
    """Owns the queues and the blocks. Every sequence fits the cache alone: the caller sees to that."""

    def __init__(self, limits: Limits, allocator: BlockAllocator, store: BlockStore) -> None:
        self._limits = limits
        self._allocator = allocator
        self._store = store
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence; its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._allocator.give_back(sequence.blocks)
            sequence.blocks = []
        else:
            self.waiting.remove(sequence)

    def expired(self, now: float) -> list[Sequence]:
        """Waiting sequences whose time in the queue is over, removed from it."""
        late = [sequence for sequence in self.waiting if sequence.late(now)]
        for sequence in late:
            self.waiting.remove(sequence)
        return late

    def plan(self) -> Plan:
        """Choose the next step and take the blocks it writes to."""
        plan = Plan(decode=self._decoding())
        budget = self._limits.max_num_tokens - len(plan.decode)
        for sequence in self.running:
            if sequence.prefilling:
                budget = self._prefill(sequence, plan, budget)
        while self.waiting and len(self.running) < self._limits.max_batch_size:
            sequence = self.waiting[0]
            if sequence.prefilling and self._chunk_length(sequence) > budget:
                break
            if not self._admit(sequence):
                break
            if sequence.prefilling:
                budget = self._prefill(sequence, plan, budget)
            else:  # it had its blocks taken away while it decoded
                plan.decode.append(sequence)
                budget -= 1
        return plan

    def _decoding(self) -> list[Sequence]:
        """Running sequences past their prompt, each with a block for its next token."""
        chosen = []
        for sequence in list(self.running):
            if sequence.prefilling or sequence.swapped is not None:
                continue
            if sequence.computed == len(sequence.blocks) * self._limits.block_size:
                if not self._make_room(sequence):
                    continue
                sequence.blocks += self._allocator.take(1)
            chosen.append(sequence)
        return chosen

    def _make_room(self, sequence: Sequence) -> bool:
        """Have a block free, at the cost of the youngest; False when that is `sequence` itself."""
        while not self._allocator.free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        victim.swapped = self._store.copy_out(victim.blocks)
        self._allocator.give_back(victim.blocks)
        victim.blocks = []
        self.waiting.appendleft(victim)

    def _admit(self, sequence: Sequence) -> bool:
        """Move the first waiting sequence to the running ones if its blocks, and one more for each running
        sequence, are free: else it would soon be preempted again."""
        needed = blocks_for(len(sequence.tokens), self._limits.block_size)
        if needed + len(self.running) > self._allocator.free and self.running:
            return False
        self.waiting.popleft()
        self.running.append(sequence)
        if not sequence.computed:
            sequence.queued_ms = (time.monotonic() - sequence.submitted) * 1000
        sequence.blocks = self._allocator.take(needed)
        if sequence.swapped is not None:
            self._store.copy_in(sequence.blocks[: sequence.swapped.shape[1]], sequence.swapped)
            sequence.swapped = None
        return True

    def _prefill(self, sequence: Sequence, plan: Plan, budget: int) -> int:
        """Add the next chunk to the plan if it fits; returns what is left of the budget."""
        length = self._chunk_length(sequence)
        if length > budget:
            return budget
        plan.prefill.append(Chunk(sequence, sequence.computed, length))
        return budget - length

    def _chunk_length(self, sequence: Sequence) -> int:
        return min(self._limits.chunk, sequence.prompt_tokens - sequence.computed)
