"""Attention of prefill chunks, batched over prompts with PyTorch's FlashAttention.

Dao, "FlashAttention-2" (https://arxiv.org/abs/2307.08691). The causal mask is aligned to the bottom right
corner: each row of a chunk attends to its prompt up to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trtllm_openai.engines.torch.kv_cache import read


@dataclass(frozen=True, slots=True)
class Chunks:
    """Packed prefill chunks. `rows`: tokens of each chunk. `lengths`: tokens that each chunk attends to.

    `row_ends`, `length_ends` [chunks + 1] (int32): their cumulative sums. `places`: the cache slots (block *
    block_size + offset) of the attended tokens; None if every chunk starts its prompt.
    """

    rows: list[int]
    lengths: list[int]
    row_ends: torch.Tensor
    length_ends: torch.Tensor
    places: torch.Tensor | None


def attend_chunks(qkv: torch.Tensor, cache: torch.Tensor, chunks: Chunks, heads: int) -> torch.Tensor:
    """Attention output [rows, heads, dim] for `qkv` [rows, heads + 2 kv_heads, dim].

    `cache` already holds the keys and values of these rows.
    """
    rows, total, dim = qkv.shape
    query = qkv[:, :heads]
    if chunks.places is None:
        kv = qkv[:, heads:].view(rows, 2, (total - heads) // 2, dim)
    else:
        kv = read(cache.flatten(0, 1), chunks.places, qkv.dtype)
    key, value = kv.unbind(1)
    if qkv.dtype == torch.float32 or dim > MAX_FLASH_DIM or dim % 8:
        return _one_by_one(query, key, value, chunks)
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        chunks.row_ends,
        chunks.length_ends,
        max(chunks.rows),
        max(chunks.lengths),
        0.0,
        True,
        False,
        scale=dim**-0.5,
    )[0]
    return out


MAX_FLASH_DIM = 256


def _one_by_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, chunks: Chunks) -> torch.Tensor:
    """Fallback for inputs that FlashAttention does not support: float32 and odd head sizes."""
    groups = query.shape[1] // key.shape[1]
    outs = []
    sizes = zip(query.split(chunks.rows), key.split(chunks.lengths), value.split(chunks.lengths), strict=True)
    for q, k, v in sizes:
        rows, length = len(q), len(k)
        mask = torch.ones(rows, length, dtype=torch.bool, device=q.device).tril(length - rows)
        k, v = (part.repeat_interleave(groups, 1).transpose(0, 1)[None] for part in (k, v))
        out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k, v, mask)
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)
