"""Embedding lookup; a negative token id stands for the last sampled token, which the host has not read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _embed(tokens, slots, last_tokens, table, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(tokens + row)
    if token < 0:
        token = tl.load(last_tokens + tl.load(slots + row))
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    values = tl.load(table + token.to(tl.int64) * width + offsets, mask=inside)
    tl.store(out + row * width + offsets, values, mask=inside)


def embed(
    tokens: torch.Tensor, slots: torch.Tensor, last_tokens: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """Return the rows of `table` [vocab, width] for `tokens` [rows], as [rows, width].

    Negative tokens are replaced by `last_tokens`[slots]. Indices are int32.
    """
    rows, width = len(tokens), table.shape[1]
    out = torch.empty(rows, width, dtype=table.dtype, device=table.device)
    _embed[(rows, triton.cdiv(width, BLOCK))](
        tokens, slots, last_tokens, table, out, width, BLOCK=BLOCK, num_warps=4
    )
    return out
