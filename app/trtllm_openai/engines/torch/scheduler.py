"""The scheduler plans which sequences advance in the next step. Pure bookkeeping, no tensor computation.

Every running sequence past its prefill decodes one token per step. The rest of the step's token budget goes
to prefill chunks; the budget is smaller while sequences decode, to bound their inter-token latency. Order is
by priority, then by arrival, but a prompt takes at most half of the remaining budget while others wait, so
that short prompts overtake long ones. Chunks end at multiples of a tile, so that a prompt is always computed
in the same tiles, independent of the batch. With a time budget (`StepBudget`) the chunks beside decodes have
as many tokens as fit a step of that duration. With speculative decoding a sequence also has rows for its
draft, in blocks that nobody else needs.

A prompt of a key that is below its share of the engine goes first: it is computed in steps of its own while
sequences of other keys rest, in the midst of their step where the executor can be interrupted. It may have as
many tokens as the others had since (a decoded one counts as `DECODED`), or one largest step at once, so that
nobody rests for longer than that and the others have half of the engine at least. With a time budget the
largest step is one of that duration, if sequences decode.

Prefill starts after the longest cached prefix. If the KV cache is full, the sequence of lowest rank is
preempted: in exact mode its blocks are swapped to host memory, since recomputation could round differently;
otherwise they are recomputed, which is cheaper than two copies.
"""

from __future__ import annotations

import time
from bisect import insort
from itertools import chain
from typing import Protocol

import torch

from trtllm_openai.engines.torch.block_pool import BlockPool
from trtllm_openai.engines.torch.kv_cache import blocks_for
from trtllm_openai.engines.torch.plan import Chunk, Limits, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.step_budget import StepBudget


class BlockStore(Protocol):
    """Swaps the content of KV blocks out to host memory and back in."""

    def copy_out(self, blocks: list[int]) -> torch.Tensor: ...

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None: ...


class BlockEvents(Protocol):
    """Is told which blocks can be found in the prefix cache (`engines.kv_events.KVEvents`)."""

    def stored(
        self, names: list[bytes], tokens: list[int], first: int, published: list[bool], salt: str | None
    ) -> None: ...


class DraftSource(Protocol):
    """Guesses the next tokens of sequences."""

    def propose(self, sequences: list[Sequence], most: int) -> dict[Sequence, list[int]]:
        """Drafts for some of the `sequences` of a step's decode rows, at most `most` tokens together."""


DECODED = 2
"""Prompt tokens that may go first for a decoded one of others: as in the fair queue."""


class Scheduler:
    """Owns the queues and the KV blocks. The caller guarantees that each sequence alone fits the cache.

    `waiting` and `running` are sorted by `Sequence.rank`; `reused` counts blocks found in the prefix cache,
    `preemptions` the sequences that lost their blocks to another.
    """

    def __init__(
        self,
        limits: Limits,
        pool: BlockPool,
        store: BlockStore,
        events: BlockEvents | None = None,
        drafter: DraftSource | None = None,
        step_budget: StepBudget | None = None,
    ) -> None:
        self._limits = limits
        self._step_budget = step_budget
        self._drafter = drafter
        self._pool = pool
        self._store = store
        self._events = events
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.reused = 0
        self.preemptions = 0
        self._first: dict[Sequence, None] = {}  # prompts that go first, in the order of arrival
        self._with_others: set[Sequence] = set()  # those of them that are in the latest other plan
        self._first_tokens = limits.max_num_tokens  # how many may go first now
        self._decodes = False  # whether the latest other plan decodes

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        insort(self.waiting, sequence, key=Sequence.rank)
        if sequence.request.below_share and not sequence.generated:
            self._first[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """Remove a finished or aborted sequence and release its blocks."""
        self._first.pop(sequence, None)
        if sequence in self.running:
            self.running.remove(sequence)
            self._pool.give_back(sequence.blocks)
            sequence.blocks = []
        else:
            self.waiting.remove(sequence)

    @property
    def last(self) -> Sequence:
        """The sequence of lowest rank that runs, or the next to run if none does."""
        return self.running[-1] if self.running else self.waiting[0]

    def plan(self) -> Plan:
        """Plan the next step and allocate the blocks it writes to.

        An error of a copy that finds no memory passes through; queues and blocks are then consistent.
        """
        plan = Plan(decode=self._decoding())
        if self._drafter is not None and plan.decode:
            self._add_drafts(plan, self._drafter)
        budget = self._limits.max_num_tokens - plan.decode_rows
        prefilling = [sequence for sequence in self.running if sequence.prefilling]
        if plan.decode:
            budget = min(budget, self._limits.chunk)
            if self._step_budget is not None:
                budget = min(budget, self._fitting(plan, prefilling, self._step_budget))
        self._decodes = bool(plan.decode)
        for sequence in prefilling:
            budget -= self._prefill(sequence, plan, budget)
        for sequence in self.waiting[:]:
            if len(self.running) >= self._limits.max_batch_size:
                break
            found = self._find(sequence)
            if self._soon_cached(sequence, len(found)):
                continue  # wait for the prefix cache instead of computing it twice
            if budget < self._least(sequence, len(found)) or not self._admit(sequence, found):
                break
            if sequence.prefilling:
                budget -= self._prefill(sequence, plan, budget)
            else:  # it was preempted while decoding
                plan.decode.append(sequence)
                budget -= 1
        self._lengthen(plan, budget)
        if self._first:
            self._with_others.update(chunk.sequence for chunk in plan.prefill)
        return plan

    def plan_first(self) -> Plan:
        """Plan a step of prompts that go first; empty if there are none, or none may now.

        It may be launched in the midst of a step of `plan`: it has none of its sequences and preempts nobody.
        Prompts that find no place or block, or may have no more tokens, are planned with the others.
        """
        plan = Plan(first=True)
        if not self._first or all(one.request.below_share for one in chain(self.running, self.waiting)):
            return plan
        if self._step_budget is not None and self._decodes:
            self._first_tokens = min(self._first_tokens, self._step_budget.tokens())
        budget = min(self._first_tokens, self._limits.max_num_tokens)
        for sequence in list(self._first):
            if sequence in self._with_others:
                continue
            if not sequence.blocks:
                if len(self.running) >= self._limits.max_batch_size:
                    break
                found = self._find(sequence)
                if self._soon_cached(sequence, len(found)) or budget < self._least(sequence, len(found)):
                    continue
                if not self._admit(sequence, found):
                    continue
            budget -= self._prefill(sequence, plan, budget)
        self._lengthen(plan, budget)
        return plan

    def none_first(self) -> None:
        """Plan all prompts with the others."""
        self._first.clear()

    def advance(self, plan: Plan) -> None:
        """Account for a launched step: count its tokens and publish full blocks in the prefix cache.

        Draft tokens do not count before `accept`.
        """
        for sequence in plan.decode:
            sequence.computed += 1
            self._name_blocks(sequence)
        for chunk in plan.prefill:
            if chunk.last and self._first:
                self._first.pop(chunk.sequence, None)
            chunk.sequence.computed += chunk.length
            self._name_blocks(chunk.sequence)
        tokens = sum(chunk.length for chunk in plan.prefill)
        if plan.first:
            self._first_tokens -= tokens
        else:
            self._with_others.clear()
            more = self._first_tokens + tokens + DECODED * plan.decode_rows
            self._first_tokens = min(more, self._limits.max_num_tokens)

    def accept(self, sequence: Sequence) -> None:
        """Count the next token of a verified draft, which is in `sequence.tokens`."""
        sequence.computed += 1
        self._name_blocks(sequence)

    def _fitting(self, plan: Plan, prefilling: list[Sequence], step_budget: StepBudget) -> int:
        """How many prompt tokens fit the plan beside its decodes; sets its `context`."""
        others = sum(len(sequence.blocks) for sequence in prefilling)
        plan.context = max(0, self._pool.used - others) * self._limits.block_size
        depth = prefilling[0].computed if prefilling else 0
        return step_budget.tokens(plan.decode_rows, plan.context, depth)

    def _add_drafts(self, plan: Plan, drafter: DraftSource) -> None:
        """Add drafts to the plan, as far as free blocks last that no running sequence will need next."""
        limits, size = self._limits, self._limits.block_size
        # Prompts may end in this step too, each with a row that samples.
        sequences = min(limits.max_batch_size, len(self.running) + len(self.waiting))
        for sequence, draft in drafter.propose(plan.decode, limits.draft_rows - sequences).items():
            spare = max(0, self._pool.free - len(self.running))
            room = (len(sequence.blocks) + spare) * size - sequence.computed - 1
            if draft := draft[:room]:
                end = sequence.computed + 1 + len(draft)
                sequence.blocks += self._pool.take(max(0, blocks_for(end, size) - len(sequence.blocks)))
                plan.drafts[sequence] = draft

    def _decoding(self) -> list[Sequence]:
        """Return the sequences to decode, each with a block allocated for its next token."""
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
        """Free a block by preempting the lowest-ranked sequences; False if that was `sequence` itself."""
        while not self._pool.free:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        if self._limits.exact:  # first: without memory for the copy nothing has changed
            filled = max(1, blocks_for(victim.computed, self._limits.block_size))  # others: for a draft
            victim.swapped = self._store.copy_out(victim.blocks[:filled])
        else:
            victim.begin_again()
        self.running.pop()
        self.preemptions += 1
        self._pool.give_back(victim.blocks)
        victim.blocks, victim.named, victim.preempted = [], 0, True
        self.add(victim)

    def _admit(self, sequence: Sequence, found: list[int]) -> bool:
        """Admit a waiting sequence if enough blocks are free; returns whether it was admitted.

        One more block per running sequence must stay free, or it would soon be preempted again. `found`: its
        blocks in the prefix cache.
        """
        pool = self._pool
        needed = blocks_for(len(sequence.tokens), self._limits.block_size) - len(found)
        if needed + len(self.running) > pool.free - pool.idle(found) and self.running:
            return False
        pool.share(found)
        blocks = found + pool.take(needed)
        if sequence.swapped is not None:
            try:
                self._store.copy_in(blocks[: sequence.swapped.shape[1]], sequence.swapped)
            except BaseException:
                pool.give_back(blocks)
                raise
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=Sequence.rank)
        sequence.blocks = blocks
        if sequence.swapped is None:
            sequence.computed = len(found) * self._limits.block_size
            sequence.named = len(found)
            self.reused += len(found)
        sequence.swapped = None
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            queued_ms = (time.monotonic() - sequence.submitted) * 1000
            sequence.queued_ms = queued_ms + sequence.request.waited_ms
        sequence.preempted = False
        return True

    def _prefill(self, sequence: Sequence, plan: Plan, budget: int) -> int:
        """Add the next prefill chunk to the plan if the budget allows; returns its number of tokens."""
        if budget < self._least(sequence, 0):
            return 0
        length = self._cut(sequence, max(budget // 2, self._limits.tile))
        plan.prefill.append(Chunk(sequence, sequence.computed, length))
        return length

    def _lengthen(self, plan: Plan, budget: int) -> None:
        """Extend the planned chunks, in order, with the remaining budget."""
        for index, chunk in enumerate(plan.prefill):
            length = self._cut(chunk.sequence, chunk.length + budget)
            budget -= length - chunk.length
            plan.prefill[index] = Chunk(chunk.sequence, chunk.start, length)

    def _cut(self, sequence: Sequence, most: int) -> int:
        """Length of the sequence's next chunk, at most `most` tokens."""
        most = min(most, self._limits.chunk)
        length = sequence.prefill_end - sequence.computed
        return length if length <= most else most // self._limits.tile * self._limits.tile

    def _least(self, sequence: Sequence, found: int) -> int:
        """Minimum tokens of the sequence's next chunk, given `found` cached blocks."""
        computed = max(sequence.computed, found * self._limits.block_size)
        return min(max(1, sequence.prefill_end - computed), self._limits.tile)

    def _find(self, sequence: Sequence) -> list[int]:
        """Look up the longest cached prefix of the sequence, in blocks.

        Excludes the last token, which must be computed to get logits. Requests for prompt log-probabilities
        use no cached prefix, since every prompt token must be computed for them.
        """
        size, grain = self._limits.block_size, self._limits.grain
        if not self._limits.prefix_caching or sequence.swapped is not None or sequence.prompt_logprobs:
            return []
        most = (len(sequence.tokens) - 1) // grain * grain
        found = self._pool.find(sequence.names(most // size, size))
        return found[: len(found) * size // grain * grain // size]

    def _soon_cached(self, sequence: Sequence, found: int) -> bool:
        """Whether a running prefill will soon compute the block after this sequence's `found` blocks."""
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
        """Number of blocks that other sequences may share once they are computed."""
        if self._limits.exact:  # decode steps and partial tiles may round differently
            return (
                sequence.prompt_tokens // self._limits.grain * self._limits.grain // self._limits.block_size
            )
        return len(sequence.tokens) // self._limits.block_size

    def _name_blocks(self, sequence: Sequence) -> None:
        size = self._limits.block_size
        full = min(sequence.computed // size, self._shareable(sequence))
        if full > sequence.named and self._limits.prefix_caching:
            names = sequence.names(full, size)
            first, sequence.named = sequence.named, full
            published = [
                self._pool.name(sequence.blocks[index], names[index]) for index in range(first, full)
            ]
            if self._events is not None:
                self._events.stored(names, sequence.tokens, first, published, sequence.salt_digest)
