"""Converts a scheduler's plan to tensors.

Rows are tokens: first one per decoding sequence, grouped by similar length, then the prefill chunks, then
padding. Every shape in the computation of a sequence depends on that sequence alone (a group's padded length
on the length of its members, a chunk on its position in its prompt), so results do not depend on the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from trtllm_openai.engines.torch.kv_cache import NULL_BLOCK, blocks_for
from trtllm_openai.engines.torch.linear import padded_rows
from trtllm_openai.engines.torch.scheduler import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence

SMALLEST_PAD = 64
"""Smallest padded length in tokens; a multiple of every common block size."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows [start, stop): one token each of sequences whose KV blocks are padded to the same length.

    `blocks` [(stop - start) * blocks per sequence]: their block ids. `mask` [stop - start, 1, 1, padded
    length] is added to the attention scores.
    """

    start: int
    stop: int
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
    """Rows to compute logits for, one per sequence in `sampled`."""
    sampled: list[Sequence]
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
        groups = self._groups(plan.decode, rows)
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
            scored=rows.scored,
        )

    def _groups(self, sequences: list[Sequence], rows: _Rows) -> list[DecodeGroup]:
        by_length: dict[int, list[Sequence]] = {}
        for sequence in sequences:
            by_length.setdefault(self._padded_length(sequence.computed + 1), []).append(sequence)
        return [self._group(length, by_length[length], rows) for length in sorted(by_length)]

    def _padded_length(self, tokens: int) -> int:
        padded = padded_length(tokens, self._limit)
        return blocks_for(padded, self._block_size) * self._block_size

    def _group(self, length: int, sequences: list[Sequence], rows: _Rows) -> DecodeGroup:
        start = len(rows.token_ids)
        each = length // self._block_size
        blocks: list[int] = []
        for sequence in sequences:
            rows.add(sequence, sequence.computed, 1, self._block_size)
            rows.sample(sequence)
            blocks += sequence.blocks[:each]
            blocks += [NULL_BLOCK] * (each - len(sequence.blocks))
        lengths = self._tensor([sequence.computed + 1 for sequence in sequences])
        beyond = torch.arange(length, device=self._device) >= lengths.unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(beyond, -math.inf)
        return DecodeGroup(start, start + len(sequences), self._tensor(blocks), mask[:, None, None])

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
        blocks = sequence.blocks
        self.token_ids += sequence.tokens[start : start + length]
        self.positions += range(start, start + length)
        self.slots += [
            blocks[position // block_size] * block_size + position % block_size
            for position in range(start, start + length)
        ]

    def sample(self, sequence: Sequence) -> None:
        """Request the logits of the last row added."""
        self.sample_rows.append(len(self.token_ids) - 1)
        self.sampled.append(sequence)

    def add_padding(self, count: int) -> None:
        self.token_ids += [0] * count
        self.positions += [0] * count
        self.slots += [NULL_BLOCK] * count
