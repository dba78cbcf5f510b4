"""Attention of prompts' chunks against float64: several in one call, with and without a beginning.

FlashAttention's packed call, and the kernel of steps that replay CUDA graphs.
"""

import math

import pytest
import torch

from tests.gpu.test_kernels import DEVICE, KV_DTYPES, TOLERANCE, error, random
from trtllm_openai.engines.torch.cuda.kernels.mixed_attention import MixedAttention
from trtllm_openai.engines.torch.cuda.prefill import Chunks, attend_chunks

BLOCK_SIZE = 16


@pytest.mark.parametrize(("dtype", "kv_dtype"), KV_DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (32, 8, 128), (5, 1, 80)])
@pytest.mark.parametrize("begins", [(0, 0, 0), (0, 48, 7)])
def test_chunks(
    begins: tuple[int, ...], heads: int, kv_heads: int, dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
) -> None:
    rows = [1, 130, 33]
    lengths = [begin + count for begin, count in zip(begins, rows, strict=True)]
    flat = random(60 * BLOCK_SIZE, 2, kv_heads, dim, dtype=dtype).to(kv_dtype).to(dtype)
    places = torch.randperm(len(flat), device=DEVICE)[: sum(lengths)].split(lengths)
    qkv = random(sum(rows), heads + 2 * kv_heads, dim, dtype=dtype)
    qkv[:, heads:] = qkv[:, heads:].to(kv_dtype).to(dtype)  # as rope_and_store leaves them
    for part, place, count in zip(qkv.split(rows), places, rows, strict=True):
        flat[place[-count:]] = part[:, heads:].view(count, 2, kv_heads, dim)
    ends = [torch.tensor([0, *sizes], device=DEVICE).cumsum(0).int() for sizes in (rows, lengths)]
    chunks = Chunks(rows, lengths, ends[0], ends[1], torch.cat(places) if any(begins) else None)
    cache = flat.to(kv_dtype).unflatten(0, (60, BLOCK_SIZE))
    got = attend_chunks(qkv, cache, chunks, heads)
    parts = zip(got.split(rows), qkv.split(rows), places, rows, lengths, strict=True)
    for out, part, place, count, length in parts:
        expected = attended(part[:, :heads], flat[place], length - count)
        assert error(out, expected) < TOLERANCE[dtype]


def attended(query: torch.Tensor, kv: torch.Tensor, begin: int) -> torch.Tensor:
    """The attention output [rows, heads, dim] of rows that begin at position `begin`, in float64."""
    count, _, dim = query.shape
    kv_heads, length = kv.shape[2], len(kv)
    scores = torch.einsum("qhgd,thd->qhgt", query.double().view(count, kv_heads, -1, dim), kv[:, 0].double())
    seen = torch.ones(count, length, dtype=torch.bool, device=query.device).tril(begin)
    weights = (scores / dim**0.5).masked_fill(~seen[:, None, None], float("-inf")).softmax(-1)
    return torch.einsum("qhgt,thd->qhgd", weights, kv[:, 1].double()).flatten(1, 2)


@pytest.mark.parametrize(("dtype", "kv_dtype"), KV_DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (32, 8, 128), (5, 1, 80)])
def test_mixed_attention(
    heads: int, kv_heads: int, dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
) -> None:
    """Decode rows, prompts and continued prompts in one launch; rows of no tile stay as they are."""
    rows, begins = [1, 1, 130, 33, 7], [0, 77, 0, 48, 150]
    width = 12
    cache = random(len(rows) * width + 1, BLOCK_SIZE, 2, kv_heads, dim, dtype=dtype).to(kv_dtype)
    wide = cache.to(dtype)
    tables = (torch.randperm(len(rows) * width) + 1).view(len(rows), width).int().to(DEVICE)
    qkv = random(sum(rows) + 3, heads + 2 * kv_heads, dim, dtype=dtype)
    kernel = MixedAttention(heads, kv_heads, dim, DEVICE)
    tiles = [
        [sum(rows[:index]) + offset, min(kernel.tile_tokens, count - offset), index, begin + offset]
        for index, (count, begin) in enumerate(zip(rows, begins, strict=True))
        for offset in range(0, count, kernel.tile_tokens)
    ]
    unused = [[0, 5, 0, 0]]
    out = torch.full((len(qkv), heads * dim), math.nan, dtype=dtype, device=DEVICE)
    kernel(
        qkv,
        cache,
        tables,
        torch.tensor([width], dtype=torch.int32, device=DEVICE),
        torch.tensor(tiles + unused, dtype=torch.int32, device=DEVICE),
        torch.tensor([len(tiles)], dtype=torch.int32, device=DEVICE),
        out,
    )
    at = 0
    for index, (count, begin) in enumerate(zip(rows, begins, strict=True)):
        kv = wide[tables[index].long()].flatten(0, 1)[: begin + count]
        expected = attended(qkv[at : at + count, :heads], kv, begin)
        got = out[at : at + count].view(count, heads, dim)
        assert error(got, expected) < TOLERANCE[dtype], (count, begin)
        at += count
    assert out[at:].isnan().all()
