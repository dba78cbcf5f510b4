"""Rotary embedding of queries and keys, fused with the write of keys and values to the KV cache.

Also applies Qwen 3's RMSNorm of the q and k heads, which precedes the rotation. For a cache in fp8, keys and
values are rounded in the rows too, to which prompts attend (`kv_cache`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.kv_cache import FP8, FP8_MAX

HEADS_AT_ONCE = 8


@triton.jit
def _rope_and_store(
    qkv,
    cache,
    positions,
    slots,
    cos,
    sin,
    q_norm,
    k_norm,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    MOST: tl.constexpr,
    HEADS_AT_ONCE: tl.constexpr,
    PDL: tl.constexpr,
):
    trigger(PDL)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS_AT_ONCE + tl.arange(0, HEADS_AT_ONCE)
    place = tl.arange(0, HALF_BLOCK)
    inside = (head[:, None] < HEADS + 2 * KV_HEADS) & (place[None, :] < HALF)
    low = qkv + row * (HEADS + 2 * KV_HEADS) * 2 * HALF + head[:, None] * 2 * HALF + place[None, :]
    position = tl.load(positions + row).to(tl.int64)
    cosine = tl.load(cos + position * HALF + place, mask=place < HALF, other=1.0)[None, :]
    sine = tl.load(sin + position * HALF + place, mask=place < HALF, other=0.0)[None, :]
    slot = tl.load(slots + row).to(tl.int64)
    wait(PDL)
    first = tl.load(low, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(low + HALF, mask=inside, other=0.0).to(tl.float32)
    rotated = head < HEADS + KV_HEADS
    if NORM:
        inverse = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF) + eps)
        is_query = (head < HEADS)[:, None]
        part = place[None, :] + tl.zeros_like(head)[:, None]
        is_part = part < HALF
        q_low = tl.load(q_norm + part, mask=is_part & is_query, other=0.0)
        k_low = tl.load(k_norm + part, mask=is_part & (is_query == 0), other=0.0)
        q_high = tl.load(q_norm + HALF + part, mask=is_part & is_query, other=0.0)
        k_high = tl.load(k_norm + HALF + part, mask=is_part & (is_query == 0), other=0.0)
        scale = inverse[:, None]
        first = tl.where(rotated[:, None], first * scale * (q_low + k_low).to(tl.float32), first)
        second = tl.where(rotated[:, None], second * scale * (q_high + k_high).to(tl.float32), second)
    turned_first = tl.where(rotated[:, None], first * cosine - second * sine, first)
    turned_second = tl.where(rotated[:, None], second * cosine + first * sine, second)
    kind: tl.constexpr = qkv.dtype.element_ty
    stored: tl.constexpr = cache.dtype.element_ty
    is_kept = inside & (head >= HEADS)[:, None]
    changed = inside & rotated[:, None]
    if MOST > 0:
        # Stored values are rounded a second time: ptxas 12.8 loses a packed pair that is stored and unpacked.
        rounded_first = _bounded(turned_first, MOST).to(stored).to(tl.float32)
        rounded_second = _bounded(turned_second, MOST).to(stored).to(tl.float32)
        turned_first = tl.where(is_kept, rounded_first, turned_first)
        turned_second = tl.where(is_kept, rounded_second, turned_second)
        changed = inside
    tl.store(low, turned_first.to(kind), mask=changed)
    tl.store(low + HALF, turned_second.to(kind), mask=changed)
    kept = cache + slot * 2 * KV_HEADS * 2 * HALF + (head - HEADS)[:, None] * 2 * HALF + place[None, :]
    tl.store(kept, turned_first.to(stored), mask=is_kept)
    tl.store(kept + HALF, turned_second.to(stored), mask=is_kept)


@triton.jit
def _bounded(values, MOST: tl.constexpr):
    """The values within ±MOST; NaN stays."""
    low = tl.maximum(values, -MOST, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(low, MOST, propagate_nan=tl.PropagateNan.ALL)


def rope_and_store(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    norms: tuple[torch.Tensor, torch.Tensor, float] | None,
) -> None:
    """Rotate `qkv` [rows, heads + 2 kv_heads, dim] in place and store its keys and values.

    `cache` [blocks, block_size, 2, kv_heads, dim], of the type of `qkv` or fp8; `slots` [rows]: block *
    block_size + offset; `tables`: cos and sin [positions, dim / 2], float32; `norms`: weights [dim] for q and
    k, and epsilon.
    """
    rows, total, dim = qkv.shape
    kv_heads = cache.shape[3]
    q_norm, k_norm, eps = norms or (qkv, qkv, 0.0)
    _rope_and_store[(rows, triton.cdiv(total, HEADS_AT_ONCE))](
        qkv,
        cache,
        positions,
        slots,
        *tables,
        q_norm,
        k_norm,
        eps,
        HEADS=total - 2 * kv_heads,
        KV_HEADS=kv_heads,
        HALF=dim // 2,
        HALF_BLOCK=triton.next_power_of_2(dim // 2),
        NORM=norms is not None,
        MOST=FP8_MAX if cache.dtype == FP8 else 0.0,
        HEADS_AT_ONCE=HEADS_AT_ONCE,
        num_warps=2,
        **dependent(),
    )
