"""Which sequences advance in the next step. Pure bookkeeping: no tensor is touched here.

Sequences that have their prompt computed decode one token in every step; the rest of the step's token budget
goes to prompts in chunks, less of it where somebody decodes and waits for the step's end. Those of higher
priority go first, then those that came first, but no prompt takes more than half of what is left while
others want some: short ones get past long ones. Prompts are cut at multiples of a tile, so that a prompt is
always computed in the same tiles, whoever else is there.

A prompt begins where the prefix cache leaves off. When the cache is full, the sequence that ranks last gives
up its blocks: where answers are exact their content is kept in host memory, since computing it again could
round differently; elsewhere computing again is cheaper than two copies.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from dataclasses import dataclass, field
from typing import Protocol

import torch

from trtllm_openai.engines.torch.block_pool import BlockPool
from trtllm_openai.engines.torch.kv_cache import blocks_for
from trtllm_openai.engines.torch.sequence import Sequence


class BlockStore(Protocol):
    """Moves the content of blocks out of the cache and back."""

    def copy_out(self, blocks: list[int]) -> torch.Tensor: ...

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_num_tokens` bounds a step's tokens; `chunk` a prompt's share, and that of all prompts together
    where somebody decodes.

    `tile`: prompts are cut at its multiples. `exact`: answers must not depend on what was computed before, to
    the bit; then only whole tiles of prompts are reused, and what was computed is never computed again.
    """

    max_batch_size: int
    max_num_tokens: int
    chunk: int
    block_size: int
    tile: int = 1
    exact: bool = False
    prefix_caching: bool = True

    @property
    def grain(self) -> int:
        """Cached prefixes are multiples of so many tokens."""
        return math.lcm(self.tile, self.block_size)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a sequence computed in a step: tokens[start : start + length]."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """Whether decoding follows: the next token is chosen after it."""
        return self.start + self.length == self.sequence.prefill_end


@dataclass(slots=True)
class Plan:
    """One step: sequences that decode a token and chunks of prompts."""

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[Chunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)


class Scheduler:
    """Owns the queues and the blocks. Every sequence fits the cache alone: the caller sees to that.

    `waiting` and `running` are sorted by `Sequence.rank`; `reused` counts blocks found in the prefix cache.
    """

    def __init__(self, limits: Limits, pool: BlockPool, store: BlockStore) -> None:
        self._limits = limits
        self._pool = pool
        self._store = store
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.reused = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        insort(self.waiting, sequence, key=Sequence.rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence; it holds its blocks no longer."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._pool.give_back(sequence.blocks)
            sequence.blocks = []
        else:
            self.waiting.remove(sequence)

    def plan(self) -> Plan:
        """Choose the next step and take the blocks it writes to."""
        plan = Plan(decode=self._decoding())
        budget = self._limits.max_num_tokens - len(plan.decode)
        if plan.decode:
            budget = min(budget, self._limits.chunk)
        for sequence in self.running:
            if sequence.prefilling:
                budget -= self._prefill(sequence, plan, budget)
        for sequence in self.waiting[:]:
            if len(self.running) >= self._limits.max_batch_size:
                break
            found = self._find(sequence)
            if self._soon_cached(sequence, len(found)):
                continue  # computing it too would be a waste
            if budget < self._least(sequence, len(found)) or not self._admit(sequence, found):
                break
            if sequence.prefilling:
                budget -= self._prefill(sequence, plan, budget)
            else:  # it had its blocks taken away while it decoded
                plan.decode.append(sequence)
                budget -= 1
        self._lengthen(plan, budget)
        return plan

    def advance(self, plan: Plan) -> None:
        """The step was computed: count its tokens, and let others find the blocks that it filled."""
        for sequence in plan.decode:
            sequence.computed += 1
            self._name_blocks(sequence)
        for chunk in plan.prefill:
            chunk.sequence.computed += chunk.length
            self._name_blocks(chunk.sequence)

    def _decoding(self) -> list[Sequence]:
        """Running sequences past their prompt, each with a block for its next token."""
        chosen = []
        for sequence in self.running[:]:
            if sequence.prefilling or sequence.preempted or sequence.complete:
                continue
            if sequence.computed == len(sequence.blocks) * self._limits.block_size:
                if not self._make_room(sequence):
                    continue
                sequence.blocks += self._pool.take(1)
            chosen.append(sequence)
        return chosen

    def _make_room(self, sequence: Sequence) -> bool:
        """Have a block free, at the cost of those that rank last; False when that is `sequence` itself."""
        while not self._pool.free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.running.pop()
        if self._limits.exact:
            victim.swapped = self._store.copy_out(victim.blocks)
        else:
            victim.begin_again()
        self._pool.give_back(victim.blocks)
        victim.blocks, victim.named, victim.preempted = [], 0, True
        self.add(victim)

    def _admit(self, sequence: Sequence, found: list[int]) -> bool:
        """Let a waiting sequence run if its blocks, and one more for each running sequence, are free: else
        it would soon be preempted again. `found`: blocks that need not be computed."""
        pool = self._pool
        needed = blocks_for(len(sequence.tokens), self._limits.block_size) - len(found)
        if needed + len(self.running) > pool.free - pool.idle(found) and self.running:
            return False
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=Sequence.rank)
        pool.share(found)
        sequence.blocks = found + pool.take(needed)
        if sequence.swapped is not None:
            self._store.copy_in(sequence.blocks[: sequence.swapped.shape[1]], sequence.swapped)
            sequence.swapped = None
        else:
            sequence.computed = len(found) * self._limits.block_size
            sequence.named = len(found)
            self.reused += len(found)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            sequence.queued_ms = (time.monotonic() - sequence.submitted) * 1000
        sequence.preempted = False
        return True

    def _prefill(self, sequence: Sequence, plan: Plan, budget: int) -> int:
        """Add the next chunk to the plan if there is room; returns the tokens it takes."""
        if budget < self._least(sequence, 0):
            return 0
        length = self._cut(sequence, max(budget // 2, self._limits.tile))
        plan.prefill.append(Chunk(sequence, sequence.computed, length))
        return length

    def _lengthen(self, plan: Plan, budget: int) -> None:
        """Give what is left of the budget to the first who can use it."""
        for index, chunk in enumerate(plan.prefill):
            length = self._cut(chunk.sequence, chunk.length + budget)
            budget -= length - chunk.length
            plan.prefill[index] = Chunk(chunk.sequence, chunk.start, length)

    def _cut(self, sequence: Sequence, most: int) -> int:
        """Tokens of its next chunk, when it may have `most`."""
        most = min(most, self._limits.chunk)
        length = sequence.prefill_end - sequence.computed
        return length if length <= most else most // self._limits.tile * self._limits.tile

    def _least(self, sequence: Sequence, found: int) -> int:
        """Tokens that a waiting sequence would take of its first step at least."""
        computed = max(sequence.computed, found * self._limits.block_size)
        return min(max(1, sequence.prefill_end - computed), self._limits.tile)

    def _find(self, sequence: Sequence) -> list[int]:
        """Blocks in the cache that begin the sequence, never all of it: its last token must be computed.

        Log-probabilities of a prompt come from computing it.
        """
        size, grain = self._limits.block_size, self._limits.grain
        if not self._limits.prefix_caching or sequence.swapped is not None or sequence.prompt_logprobs:
            return []
        most = (len(sequence.tokens) - 1) // grain * grain
        found = self._pool.find(sequence.names(most // size, size))
        return found[: len(found) * size // grain * grain // size]

    def _soon_cached(self, sequence: Sequence, found: int) -> bool:
        """Whether a running prompt is about to compute what follows the `found` blocks of this one."""
        size, grain = self._limits.block_size, self._limits.grain
        after = found + grain // size
        if len(sequence.block_names) < after or sequence.computed or sequence.prompt_logprobs:
            return False
        name = sequence.block_names[after - 1]
        return any(
            other.prefilling and self._shareable(other) >= after and other.names(after, size)[-1] == name
            for other in self.running
        )

    def _shareable(self, sequence: Sequence) -> int:
        """Blocks of it that others may use once they are computed."""
        if self._limits.exact:  # decoding, and tiles that are not full, may round differently
            return (
                sequence.prompt_tokens // self._limits.grain * self._limits.grain // self._limits.block_size
            )
        return len(sequence.tokens) // self._limits.block_size

    def _name_blocks(self, sequence: Sequence) -> None:
        size = self._limits.block_size
        full = min(sequence.computed // size, self._shareable(sequence))
        if full > sequence.named and self._limits.prefix_caching:
            names = sequence.names(full, size)
            for index in range(sequence.named, full):
                self._pool.name(sequence.blocks[index], names[index])
            sequence.named = full
