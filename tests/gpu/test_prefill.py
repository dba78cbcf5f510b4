"""Attention of prompts' chunks against float64: several in one call, with and without a beginning."""

import pytest
import torch

from tests.gpu.test_kernels import TOLERANCE, error, random
from trtllm_openai.engines.torch.cuda.prefill import Chunks, attend_chunks

BLOCK_SIZE = 16


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (32, 8, 128), (5, 1, 80)])
@pytest.mark.parametrize("begins", [(0, 0, 0), (0, 48, 7)])
def test_chunks(begins: tuple[int, ...], heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> None:
    rows = [1, 130, 33]
    lengths = [begin + count for begin, count in zip(begins, rows, strict=True)]
    cache = random(60, BLOCK_SIZE, 2, kv_heads, dim, dtype=dtype)
    flat = cache.flatten(0, 1)
    places = torch.randperm(len(flat), device=cache.device)[: sum(lengths)].split(lengths)
    qkv = random(sum(rows), heads + 2 * kv_heads, dim, dtype=dtype)
    for part, place, count in zip(qkv.split(rows), places, rows, strict=True):
        flat[place[-count:]] = part[:, heads:].view(count, 2, kv_heads, dim)
    ends = [torch.tensor([0, *sizes], device=cache.device).cumsum(0).int() for sizes in (rows, lengths)]
    chunks = Chunks(rows, lengths, ends[0], ends[1], torch.cat(places) if any(begins) else None)
    got = attend_chunks(qkv, cache, chunks, heads)
    parts = zip(got.split(rows), qkv.split(rows), places, rows, lengths, strict=True)
    for out, part, place, count, length in parts:
        query = part[:, :heads].double().view(count, kv_heads, -1, dim)
        kv = flat[place].double()
        scores = torch.einsum("qhgd,thd->qhgt", query, kv[:, 0]) / dim**0.5
        seen = torch.ones(count, length, dtype=torch.bool, device=out.device).tril(length - count)
        weights = scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1)
        expected = torch.einsum("qhgt,thd->qhgd", weights, kv[:, 1])
        assert error(out, expected.flatten(1, 2)) < TOLERANCE[dtype]
