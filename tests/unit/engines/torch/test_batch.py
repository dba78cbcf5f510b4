"""Batches: rows, slots, masks and padding of a plan, and shapes that depend on one sequence alone."""

import math
from typing import Any

import pytest
import torch

from trtllm_openai.engines.torch.batch import SMALLEST_PAD, Batch, BatchBuilder, padded_length
from trtllm_openai.engines.torch.kv_cache import NULL_BLOCK, blocks_for
from trtllm_openai.engines.torch.linear import padded_rows
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams

BLOCK, TILE, MAX_LENGTH = 16, 8, 300


def sequence(first_block: int, tokens: int, **sampling: Any) -> Sequence:
    """A sequence of `tokens` tokens whose blocks are numbered from `first_block` on, downwards in tens."""
    ids = [first_block * 1000 + position for position in range(tokens)]
    one = Sequence(GenerationRequest(f"{first_block}", ids, SamplingParams(max_tokens=5, **sampling)))
    one.blocks = [first_block + 10 * index for index in range(blocks_for(tokens, BLOCK))]
    return one


def decoding(first_block: int, tokens: int) -> Sequence:
    one = sequence(first_block, tokens)
    one.computed = tokens - 1
    return one


def build(plan: Plan) -> Batch:
    return BatchBuilder(BLOCK, MAX_LENGTH, torch.float32, torch.device("cpu"), TILE).build(plan)


def slot(one: Sequence, position: int) -> int:
    return one.blocks[position // BLOCK] * BLOCK + position % BLOCK


def test_lengths_are_padded_little_and_few_occur() -> None:
    limit = 4096
    lengths = [padded_length(tokens, limit) for tokens in range(1, limit + 1)]
    for tokens, padded in enumerate(lengths, 1):
        assert tokens <= padded <= limit
        assert padded - tokens < max(SMALLEST_PAD, tokens / 3)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) <= 24
    assert padded_length(300, 304) == 304


def test_decoding_sequences_are_grouped_by_padded_length() -> None:
    long, short, other = decoding(1, 200), decoding(2, 5), decoding(3, 64)
    batch = build(Plan(decode=[long, short, other]))
    assert [(group.start, group.stop) for group in batch.groups] == [(0, 2), (2, 3)]
    assert batch.sampled == [short, other, long]
    rows = [(short, 4), (other, 63), (long, 199)]
    assert batch.sample_rows.tolist() == [0, 1, 2]
    assert batch.token_ids[:3].tolist() == [one.tokens[position] for one, position in rows]
    assert batch.positions[:3].tolist() == [position for _, position in rows]
    assert batch.slots[:3].tolist() == [slot(one, position) for one, position in rows]
    few = batch.groups[0]
    assert few.mask.shape == (2, 1, 1, 64)
    # 5 tokens are 1 block, the rest of its row is the null block and masked
    assert few.blocks.view(2, 4).tolist() == [[2, NULL_BLOCK, NULL_BLOCK, NULL_BLOCK], other.blocks]
    assert few.mask[0, 0, 0].tolist() == [0.0] * 5 + [-math.inf] * 59
    assert few.mask[1, 0, 0].tolist() == [0.0] * 64


def test_padding_does_not_depend_on_the_batch() -> None:
    watched = decoding(1, 70)
    alone = build(Plan(decode=[watched])).groups[0]
    batch = build(Plan(decode=[decoding(2, 290), watched, decoding(3, 3), decoding(4, 100)]))
    (group,) = [
        group for group in batch.groups if batch.sampled.index(watched) in range(group.start, group.stop)
    ]
    row = batch.sampled.index(watched) - group.start
    assert torch.equal(group.mask[row], alone.mask[0])
    assert group.blocks.view(len(group.mask), -1)[row].tolist() == alone.blocks.tolist()


def test_chunks_follow_the_decoding_rows() -> None:
    decode, whole, part = decoding(1, 40), sequence(2, 7), sequence(3, 60)
    plan = Plan([decode], [Chunk(whole, 0, 7), Chunk(part, 24, 16)])
    batch = build(plan)
    assert batch.token_ids[:24].tolist() == [decode.tokens[39], *whole.tokens, *part.tokens[24:40]]
    assert batch.positions[:24].tolist() == [39, *range(7), *range(24, 40)]
    assert batch.slots[8:24].tolist() == [slot(part, position) for position in range(24, 40)]
    assert batch.sampled == [decode, whole]  # the other prompt goes on after this chunk
    assert batch.sample_rows.tolist() == [0, 7]
    first, second = batch.chunks
    assert (first.start, first.stop, first.blocks, first.mask) == (1, 8, None, None)
    assert (second.start, second.stop, second.length) == (8, 24, 40)
    assert second.blocks is not None
    assert second.mask is not None
    assert second.blocks.tolist() == [3, 13, 23]
    assert second.mask.shape == (16, 40)
    for row in range(16):
        assert second.mask[row].tolist() == [0.0] * (25 + row) + [-math.inf] * (15 - row)


def test_a_prompt_of_several_tiles_reads_what_it_wrote() -> None:
    one = sequence(2, TILE + 1)
    (chunk,) = build(Plan([], [Chunk(one, 0, TILE + 1)])).chunks
    assert chunk.blocks is not None
    assert chunk.blocks.tolist() == [2]


@pytest.mark.parametrize("length", [1, 2, 33, 40])
def test_padding_rows_are_written_to_the_null_block(length: int) -> None:
    batch = build(Plan([], [Chunk(sequence(2, length), 0, length)]))
    rows = padded_rows(length)
    assert len(batch.token_ids) == len(batch.positions) == len(batch.slots) == rows
    assert batch.padded == (rows > length)
    assert all(number // BLOCK == NULL_BLOCK for number in batch.slots[length:].tolist())
    assert all(number // BLOCK != NULL_BLOCK for number in batch.slots[:length].tolist())


def test_prompts_to_be_scored_are_named_with_their_rows() -> None:
    scored, other = sequence(2, 20, prompt_logprobs=0), sequence(3, 6)
    chunk = Chunk(scored, 0, 20)
    batch = build(Plan([decoding(1, 9)], [Chunk(other, 0, 6), chunk]))
    assert batch.scored == [(chunk, 7)]
