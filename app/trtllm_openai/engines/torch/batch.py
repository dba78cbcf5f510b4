"""Converts a scheduler's plan to tensors.

Rows are tokens: first one per decoding sequence, grouped by similar length, then those of sequences with a
draft, which have a row for each of its tokens too, then the prefill chunks, then padding. Every shape in the
computation of a sequence depends on that sequence alone (a group's padded length on that of its members,
a chunk on its position in its prompt), so results do not depend on the batch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from trtllm_openai.engines.torch.kv_cache import NULL_BLOCK, blocks_for
from trtllm_openai.engines.torch.linear import padded_rows
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.engines.torch.speculation.verification import Drafts

SMALLEST_PAD = 64
"""Smallest padded length in tokens; a multiple of every common block size."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows [start, stop) of sequences whose KV blocks are padded to the same length.

    One token each of `sequences` sequences, or the last tokens of a single one. `blocks` [sequences * blocks
    per sequence]: their block ids. `mask` [stop - start, 1, 1, padded length] is added to the attention
    scores. A row's attention is computed by itself in either case, over the length that its position gives.
    """

    start: int
    stop: int
    sequences: int
    blocks: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Rows [start, stop): a prefill chunk of one prompt. Attention is computed tile by tile.

    A single-tile chunk at the start of its prompt attends to its own rows, with no `blocks` and `mask`. For
    others, `blocks` [n] hold the prompt up to the end of the chunk (`length` tokens), and `mask`
    [chunk, length] is added to the scores.
    """

    start: int
    stop: int
    length: int
    tile: int
    blocks: torch.Tensor | None
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's input. `slots`: where each row's key and value are stored, block * block_size + offset."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    padded: bool
    groups: list[DecodeGroup]
    chunks: list[PrefillChunk]
    sample_rows: torch.Tensor
    """Rows to compute logits for: one per sequence in `sampled`, and one per token of its draft."""
    sampled: list[Sequence]
    drafts: Drafts
    scored: list[tuple[Chunk, int]]
    """Chunks that need prompt log-probabilities, each with its first row."""


def padded_length(tokens: int, limit: int) -> int:
    """Round `tokens` up by at most a third, to few distinct lengths; at most `limit`."""
    step = max(SMALLEST_PAD, 1 << max(0, tokens.bit_length() - 3))
    return min(-(-tokens // step) * step, limit)


class BatchBuilder:
    """Builds batches on `device` from plans.

    `max_length`: maximum tokens of one sequence. `tile`: prompt tokens per attention call.
    """

    def __init__(
        self,
        block_size: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        tile: int,
    ) -> None:
        self._block_size = block_size
        self._limit = blocks_for(max_length, block_size) * block_size
        self._dtype = dtype
        self._device = device
        self._tile = tile

    def build(self, plan: Plan) -> Batch:
        """Build the tensors of one step."""
        rows = _Rows()
        groups = self._groups(plan, rows)
        chunks = [self._chunk(chunk, rows) for chunk in plan.prefill]
        padding = padded_rows(len(rows.token_ids)) - len(rows.token_ids)
        rows.add_padding(padding)
        return Batch(
            token_ids=self._tensor(rows.token_ids),
            positions=self._tensor(rows.positions),
            slots=self._tensor(rows.slots),
            padded=padding > 0,
            groups=groups,
            chunks=chunks,
            sample_rows=self._tensor(rows.sample_rows),
            sampled=rows.sampled,
            drafts=plan.drafts,
            scored=rows.scored,
        )

    def _groups(self, plan: Plan, rows: _Rows) -> list[DecodeGroup]:
        by_length: dict[int, list[Sequence]] = {}
        for sequence in plan.decode:
            if sequence not in plan.drafts:
                by_length.setdefault(self._padded_length(sequence.computed + 1), []).append(sequence)
        groups = [self._group(length, by_length[length], rows) for length in sorted(by_length)]
        for sequence, draft in plan.drafts.items():
            groups += self._draft_groups(sequence, draft, rows)
        return groups

    def _padded_length(self, tokens: int) -> int:
        padded = padded_length(tokens, self._limit)
        return blocks_for(padded, self._block_size) * self._block_size

    def _group(self, length: int, sequences: list[Sequence], rows: _Rows) -> DecodeGroup:
        start = len(rows.token_ids)
        blocks: list[int] = []
        for sequence in sequences:
            rows.add(sequence, sequence.computed, 1, self._block_size)
            rows.sample(sequence)
            blocks += self._padded_blocks(sequence, length)
        mask = self._mask(length, [sequence.computed + 1 for sequence in sequences])
        return DecodeGroup(start, start + len(sequences), len(sequences), self._tensor(blocks), mask)

    def _draft_groups(self, sequence: Sequence, draft: list[int], rows: _Rows) -> list[DecodeGroup]:
        """The rows of a sequence and its draft, those of one padded length together."""
        first = len(rows.token_ids)
        rows.add_draft(sequence, draft, self._block_size)
        attended = range(sequence.computed + 1, sequence.computed + len(draft) + 2)
        groups, done = [], 0
        for length, same in itertools.groupby(attended, self._padded_length):
            lengths = list(same)
            start, done = first + done, done + len(lengths)
            blocks = self._tensor(self._padded_blocks(sequence, length))
            groups.append(DecodeGroup(start, first + done, 1, blocks, self._mask(length, lengths)))
        return groups

    def _padded_blocks(self, sequence: Sequence, length: int) -> list[int]:
        each = length // self._block_size
        return sequence.blocks[:each] + [NULL_BLOCK] * (each - len(sequence.blocks))

    def _mask(self, length: int, attended: list[int]) -> torch.Tensor:
        """Mask [rows, 1, 1, length] of rows that attend to so many tokens each."""
        beyond = torch.arange(length, device=self._device) >= self._tensor(attended).unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(beyond, -math.inf)[:, None, None]

    def _chunk(self, chunk: Chunk, rows: _Rows) -> PrefillChunk:
        start = len(rows.token_ids)
        sequence = chunk.sequence
        rows.add(sequence, chunk.start, chunk.length, self._block_size)
        if sequence.prompt_logprobs is not None:
            rows.scored.append((chunk, start))
        if chunk.last:
            rows.sample(sequence)
        stop, length = start + chunk.length, chunk.start + chunk.length
        if chunk.start == 0 and chunk.length <= self._tile:
            return PrefillChunk(start, stop, length, self._tile, None, None)
        blocks = self._tensor(sequence.blocks[: blocks_for(length, self._block_size)])
        mask = torch.full((chunk.length, length), -math.inf, dtype=self._dtype, device=self._device)
        return PrefillChunk(start, stop, length, self._tile, blocks, mask.triu_(chunk.start + 1))

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


class _Rows:
    """The rows of a batch under construction."""

    __slots__ = ("positions", "sample_rows", "sampled", "scored", "slots", "token_ids")

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.sample_rows: list[int] = []
        self.sampled: list[Sequence] = []
        self.scored: list[tuple[Chunk, int]] = []

    def add(self, sequence: Sequence, start: int, length: int, block_size: int) -> None:
        self.token_ids += sequence.tokens[start : start + length]
        self._place(sequence.blocks, range(start, start + length), block_size)

    def add_draft(self, sequence: Sequence, draft: list[int], block_size: int) -> None:
        """Add the last token and the draft, and request the logits of each row."""
        start, first = sequence.computed, len(self.token_ids)
        self.token_ids += [sequence.tokens[start], *draft]
        self._place(sequence.blocks, range(start, start + 1 + len(draft)), block_size)
        self.sample_rows += range(first, len(self.token_ids))
        self.sampled.append(sequence)

    def _place(self, blocks: list[int], positions: range, block_size: int) -> None:
        self.positions += positions
        self.slots += [
            blocks[position // block_size] * block_size + position % block_size for position in positions
        ]

    def sample(self, sequence: Sequence) -> None:
        """Request the logits of the last row added."""
        self.sample_rows.append(len(self.token_ids) - 1)
        self.sampled.append(sequence)

    def add_padding(self, count: int) -> None:
        self.token_ids += [0] * count
        self.positions += [0] * count
        self.slots += [NULL_BLOCK] * count
