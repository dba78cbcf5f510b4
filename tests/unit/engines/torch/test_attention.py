"""Attention over the KV cache against softmax(q kᵀ / √d) v in float64, token by token."""

import math

import pytest
import torch

from trtllm_openai.engines.torch.attention import attend
from trtllm_openai.engines.torch.batch import BatchBuilder
from trtllm_openai.engines.torch.kv_cache import NULL_BLOCK, blocks_for
from trtllm_openai.engines.torch.plan import Chunk, Plan
from trtllm_openai.engines.torch.sequence import Sequence
from trtllm_openai.generation import GenerationRequest, SamplingParams

BLOCK, TILE, DIM = 8, 16, 16
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Blocks:
    """A cache of random keys and values, and sequences whose blocks lie in it in no order."""

    def __init__(self, kv_heads: int, dtype: torch.dtype) -> None:
        torch.manual_seed(3)
        self.cache = torch.randn(64, BLOCK, 2, kv_heads, DIM).to(dtype)
        self.cache[NULL_BLOCK] = 0
        self._free = (torch.randperm(63) + 1).tolist()

    def sequence(self, tokens: int, computed: int) -> Sequence:
        one = Sequence(GenerationRequest("", [0] * tokens, SamplingParams(max_tokens=5)))
        one.blocks = [self._free.pop() for _ in range(blocks_for(tokens, BLOCK))]
        one.computed = computed
        return one

    def expected(self, query: torch.Tensor, one: Sequence, position: int) -> torch.Tensor:
        """Output [heads * dim] of the token at `position`, which sees all up to itself."""
        held = self.cache[one.blocks].flatten(0, 1)[: position + 1].double()
        group = query.shape[0] // held.shape[2]
        keys, values = (held[:, part].repeat_interleave(group, 1) for part in (0, 1))
        scores = torch.einsum("hd,thd->ht", query.double(), keys) / math.sqrt(DIM)
        return torch.einsum("ht,thd->hd", scores.softmax(-1), values).flatten()


def check(blocks: Blocks, plan: Plan, heads: int, tile: int = TILE) -> None:
    """Attend for the whole plan and compare each row."""
    kv_heads, dtype = blocks.cache.shape[3], blocks.cache.dtype
    batch = BatchBuilder(BLOCK, 128, dtype, torch.device("cpu"), tile).build(plan)
    qkv = torch.randn(len(batch.token_ids), heads + 2 * kv_heads, DIM).to(dtype)
    written = blocks.cache.flatten(0, 1)[batch.slots]  # these rows' keys and values are in the cache already
    qkv[:, heads:] = written.flatten(1, 2)
    out = attend(qkv, blocks.cache, batch, heads)
    assert out.shape == (len(qkv), heads * DIM)
    rows = [(one, one.computed) for one in batch.sampled if one in plan.decode]
    rows += [(c.sequence, position) for c in plan.prefill for position in range(c.start, c.start + c.length)]
    for row, (one, position) in enumerate(rows):
        expected = blocks.expected(qkv[row, :heads], one, position)
        torch.testing.assert_close(out[row].double(), expected, rtol=0, atol=TOLERANCE[dtype])
    assert out.isfinite().all()  # padding rows, too


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_decode_of_unequal_lengths(heads: int, kv_heads: int, dtype: torch.dtype, count: int) -> None:
    blocks = Blocks(kv_heads, dtype)
    lengths = [1, 100, 8, 9, 63, 65, 2][:count]
    check(blocks, Plan([blocks.sequence(length, length - 1) for length in lengths]), heads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2)])
def test_decode_does_not_depend_on_the_company(heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    """Bit for bit, many times: where rounding depended on alignment, one in some thousand rows showed it."""
    blocks = Blocks(kv_heads, dtype)
    builder = BatchBuilder(BLOCK, 128, dtype, torch.device("cpu"), TILE)
    sequences = [blocks.sequence(length, length - 1) for length in (61, 40, 50, 64)]
    together = builder.build(Plan(sequences))
    alone = [builder.build(Plan([one])) for one in sequences]
    for _ in range(400):
        blocks.cache.normal_(std=2)
        qkv = (2 * torch.randn(len(together.token_ids), heads + 2 * kv_heads, DIM)).to(dtype)
        out = attend(qkv, blocks.cache, together, heads)
        for row, (batch, one) in enumerate(zip(alone, sequences, strict=True)):
            padded = qkv[row : row + 1].expand(len(batch.token_ids), -1, -1).contiguous()
            assert torch.equal(attend(padded, blocks.cache, batch, heads)[0], out[row]), one.computed


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize(
    ("start", "length"), [(0, 1), (0, 3), (0, TILE), (0, 40), (16, 1), (16, 3), (16, 37), (48, 16)]
)
def test_prefill_after_what_is_cached(
    heads: int, kv_heads: int, dtype: torch.dtype, start: int, length: int
) -> None:
    blocks = Blocks(kv_heads, dtype)
    one = blocks.sequence(start + length, start)
    check(blocks, Plan([], [Chunk(one, start, length)]), heads)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_decode_and_prefill_in_one_batch(dtype: torch.dtype) -> None:
    blocks = Blocks(2, dtype)
    decode = [blocks.sequence(length, length - 1) for length in (90, 4)]
    prompts = [blocks.sequence(20, 0), blocks.sequence(60, 32), blocks.sequence(5, 0)]
    chunks = [Chunk(prompts[0], 0, 20), Chunk(prompts[1], 32, 17), Chunk(prompts[2], 0, 5)]
    check(blocks, Plan(decode, chunks), heads=6)


def test_an_outcome_is_the_same_bit_by_bit_whatever_else_is_computed() -> None:
    """What makes answers independent of the batch: the watched sequence's rows are equal, not just close."""
    blocks = Blocks(2, torch.float32)
    watched = blocks.sequence(50, 49)
    others = [blocks.sequence(length, length - 1) for length in (90, 50, 3, 55)]
    builder = BatchBuilder(BLOCK, 128, torch.float32, torch.device("cpu"), TILE)
    query = torch.randn(6, DIM)
    outs = []
    for decode in ([watched], [*others[:2], watched, *others[2:]]):
        batch = builder.build(Plan(decode))
        qkv = torch.randn(len(batch.token_ids), 10, DIM)
        row = batch.sampled.index(watched)
        qkv[row, :6] = query
        outs.append(attend(qkv, blocks.cache, batch, 6)[row])
    assert torch.equal(*outs)
