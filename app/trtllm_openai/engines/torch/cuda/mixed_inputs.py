"""The inputs of a step with prefill chunks, as int32 arrays in one region of the input buffer.

A step that is launched kernel by kernel has the arrays of FlashAttention. One that replays a CUDA graph is
padded to the graph's number of rows and has the tiles of `kernels.mixed_attention` instead; the places of its
arrays follow from that number alone, since the graph holds their addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trtllm_openai.engines.torch.cuda.kernels.mixed_attention import WORDS_PER_TILE
from trtllm_openai.engines.torch.cuda.model import Rows
from trtllm_openai.engines.torch.cuda.prefill import Chunks
from trtllm_openai.engines.torch.plan import Plan

ALIGNED = 4
"""The arrays start at multiples of this many words (16 bytes). Triton compiles a kernel once more, while
requests wait, for each combination of aligned and unaligned pointers."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The attention tiles of a padded step: `list` [rows, WORDS_PER_TILE], of which `count` [1] are in
    use."""

    list: torch.Tensor
    count: torch.Tensor


@dataclass(frozen=True, slots=True)
class Mixed:
    """Inputs of a step with prefill chunks: all rows (decoding ones first), its attention, the rows to
    sample."""

    rows: Rows
    attention: Chunks | Tiles
    sample_rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class Shape:
    """What the places of the arrays depend on.

    `padded`: rows of the CUDA graph that computes the step; 0 if it is launched kernel by kernel. `samples`:
    rows to sample. `rows`, `lengths`: of the chunks, as in `Chunks`.
    """

    decoding: int
    padded: int
    samples: int
    rows: list[int]
    lengths: list[int]

    @property
    def total(self) -> int:
        return self.padded or self.decoding + sum(self.rows)

    def sizes(self) -> list[int]:
        attention = [1, self.padded * WORDS_PER_TILE] if self.padded else [len(self.rows) + 1] * 2
        return [*[self.total] * 4, *attention, self.samples]


def most_words(max_tokens: int, max_batch_size: int, most_padded: int) -> int:
    """The words that the largest step needs."""
    rows = max_tokens + max_batch_size
    return 4 * rows + WORDS_PER_TILE * most_padded + 3 * max_batch_size + 8 * ALIGNED


def write(
    words: np.ndarray, plan: Plan, shape: Shape, decode: list[np.ndarray], block_size: int, tile_tokens: int
) -> int:
    """Write the arrays of a step to `words`; returns the words used.

    `decode`: tokens, positions, slots and slot numbers of the decode rows.
    """
    columns = [[part] for part in decode]
    sample_rows = list(range(shape.decoding))
    end = shape.decoding
    for chunk in plan.prefill:
        stop = chunk.start + chunk.length
        at = np.arange(chunk.start, stop)
        first = chunk.start // block_size
        blocks = np.array(chunk.sequence.blocks[first : -(-stop // block_size)])
        columns[0].append(np.array(chunk.sequence.tokens[chunk.start : stop]))
        columns[1].append(at)
        columns[2].append(blocks[at // block_size - first] * block_size + at % block_size)
        end += chunk.length
        if chunk.last:
            sample_rows.append(end - 1)
    rest = np.zeros(shape.total - end, np.int32)
    zeros = np.zeros(end - shape.decoding, np.int32)
    arrays = [np.concatenate([*column, rest]) for column in columns[:3]]
    arrays.append(np.concatenate([*columns[3], zeros, rest]))
    if shape.padded:
        tiles = _tiles(shape, decode[1], tile_tokens)
        arrays += [np.array([len(tiles)]), tiles.ravel()]
    else:
        arrays += [np.cumsum([0, *shape.rows]), np.cumsum([0, *shape.lengths])]
    arrays.append(np.array(sample_rows))
    at_word = 0
    for array, size in zip(arrays, shape.sizes(), strict=True):
        words[at_word : at_word + len(array)] = array
        at_word += _aligned(size)
    return at_word


def _tiles(shape: Shape, positions: np.ndarray, tile_tokens: int) -> np.ndarray:
    """The tiles of a step [tiles, WORDS_PER_TILE]: those of prompts, which take longest, from their ends."""
    parts = []
    first_row = shape.decoding
    for index, (rows, length) in enumerate(zip(shape.rows, shape.lengths, strict=True)):
        offset = np.arange(0, rows, tile_tokens)[::-1]
        table = np.full(len(offset), shape.decoding + index)
        tokens = np.minimum(tile_tokens, rows - offset)
        parts.append(np.stack([first_row + offset, tokens, table, length - rows + offset], 1))
        first_row += rows
    row = np.arange(shape.decoding)
    parts.append(np.stack([row, np.ones_like(row), row, positions], 1))
    return np.concatenate(parts)


def attended_places(plan: Plan, block_size: int) -> np.ndarray:
    """The cache slots of all tokens that the chunks attend to; empty if every chunk starts its prompt."""
    if not any(chunk.start for chunk in plan.prefill):
        return np.zeros(0, np.int32)
    places = []
    for chunk in plan.prefill:
        at = np.arange(chunk.start + chunk.length)
        places.append(np.array(chunk.sequence.blocks)[at // block_size] * block_size + at % block_size)
    return np.concatenate(places).astype(np.int32)


def views(region: torch.Tensor, shape: Shape, places: torch.Tensor | None) -> Mixed:
    """Device views of the arrays that `write` wrote to `region`. `places`: `attended_places`, if any."""
    parts, at = [], 0
    for size in shape.sizes():
        parts.append(region[at : at + size])
        at += _aligned(size)
    rows = Rows(parts[0], parts[1], parts[2], parts[3])
    if shape.padded:
        return Mixed(rows, Tiles(parts[5].view(-1, WORDS_PER_TILE), parts[4]), parts[6])
    return Mixed(rows, Chunks(shape.rows, shape.lengths, parts[4], parts[5], places), parts[6])


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
