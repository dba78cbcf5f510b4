"""Attention of a batch over the KV cache, with PyTorch's fused kernels.

Grouped-query attention needs no copies of the keys: in decode the query heads of a KV head become the query
length, in prefill they are a broadcast dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trtllm_openai.engines.torch.batch import Batch, DecodeGroup, PrefillChunk
from trtllm_openai.engines.torch.kv_cache import read

MIN_QUERY_ROWS = 4
"""With fewer rows, rounding of products on a CPU depends on the memory alignment of the operands: often in
float32, and in 16 bits once in thousands of rows (PyTorch 2.13)."""


def attend(qkv: torch.Tensor, cache: torch.Tensor, batch: Batch, heads: int) -> torch.Tensor:
    """Compute the attention output [rows, heads * head_dim].

    `qkv` [rows, heads + 2 kv_heads, head_dim]; `cache` [blocks, block_size, 2, kv_heads, head_dim] already
    holds the keys and values of these rows.
    """
    rows, _, head_dim = qkv.shape
    if len(batch.groups) == 1 and not batch.chunks and not batch.padded:
        return _decode(qkv, cache, batch.groups[0], heads)
    # Padding rows must stay finite: later layers write their keys and values to the null block, which is
    # read with weight 0.
    make = torch.zeros if batch.padded else torch.empty
    out = make((rows, heads * head_dim), dtype=qkv.dtype, device=qkv.device)
    for group in batch.groups:
        out[group.start : group.stop] = _decode(qkv, cache, group, heads)
    for chunk in batch.chunks:
        out[chunk.start : chunk.stop] = _prefill(qkv, cache, chunk, heads)
    return out


def _decode(qkv: torch.Tensor, cache: torch.Tensor, group: DecodeGroup, heads: int) -> torch.Tensor:
    size = group.stop - group.start
    _, block_size, _, kv_heads, head_dim = cache.shape
    length = group.blocks.numel() // group.sequences * block_size
    kv = read(cache, group.blocks, qkv.dtype).view(group.sequences, length, 2, kv_heads, head_dim)
    kv = kv.expand(size, -1, -1, -1, -1)  # the rows of a single sequence read the same keys
    query = qkv[group.start : group.stop, :heads].view(size, kv_heads, heads // kv_heads, head_dim)
    out = _attention(query, kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2), group.mask)
    return out.reshape(size, heads * head_dim)


def _prefill(qkv: torch.Tensor, cache: torch.Tensor, chunk: PrefillChunk, heads: int) -> torch.Tensor:
    kv_heads, head_dim = cache.shape[3:]
    groups = heads // kv_heads
    own = qkv[chunk.start : chunk.stop]
    kv = own[:, heads:].view(-1, 2, kv_heads, head_dim)
    if chunk.blocks is not None:
        kv = read(cache, chunk.blocks, qkv.dtype).flatten(0, 1)
    # [rows, heads, dim] -> [kv_heads, groups, rows, dim]; keys are broadcast over the query heads of a group.
    query = own[:, :heads].unflatten(1, (kv_heads, groups)).permute(1, 2, 0, 3)
    keys, values = (part.transpose(0, 1).unsqueeze(1) for part in kv.unbind(1))
    outs = []
    for start in range(0, len(own), chunk.tile):
        rows = slice(start, min(start + chunk.tile, len(own)))
        length = chunk.length - len(own) + rows.stop
        shape = (kv_heads, groups, length, head_dim)
        mask = None if chunk.mask is None or length == rows.stop - start else chunk.mask[rows, :length]
        outs.append(
            _attention(
                query[:, :, rows],
                keys[:, :, :length].expand(shape),
                values[:, :, :length].expand(shape),
                mask,
            )
        )
    return torch.cat(outs, 2).permute(2, 0, 1, 3).reshape(len(own), heads * head_dim)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """softmax(query keyᵀ / √dim + mask) value, over [batch, heads, rows, dim]; causal if `mask` is None."""
    rows = query.shape[2]
    lacking = MIN_QUERY_ROWS - rows
    if lacking <= 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
    if mask is not None and mask.shape[-2] > 1:
        mask = F.pad(mask, (0, 0, 0, lacking))
    padded = F.pad(query, (0, 0, 0, lacking))
    return F.scaled_dot_product_attention(padded, key, value, mask, is_causal=mask is None)[:, :, :rows]
