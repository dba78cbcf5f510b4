"""Attention of a step that mixes prompts with decoding, over the paged KV cache.

The step is a list of tiles: up to `tile_tokens` consecutive tokens of one sequence. A fixed number of
programs takes the tiles, one KV head each, in turn, so that a CUDA graph can capture the launch whatever the
step holds. The query heads of a KV head share its keys and values, as in `kernels.attention`; a context is
not split. Online softmax as in FlashAttention-2, Dao, https://arxiv.org/abs/2307.08691.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait

LINES = 64
"""Query vectors of a tile: tokens times the heads that share a KV head."""
CONTEXT = 64
"""Context tokens per iteration."""
PROGRAMS_PER_SM = 2
WORDS_PER_TILE = 4
"""int32 words of a tile: first row, rows, row of the block table, position of the first row."""


@triton.jit
def _mixed_attention(
    qkv,
    cache,
    tables,
    table_stride,
    tiles,
    tile_count,
    out,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    CONTEXT: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    GROUP: tl.constexpr = HEADS // KV_HEADS
    trigger(PDL)
    wait(PDL)
    items = tl.load(tile_count) * KV_HEADS
    stride = tl.load(table_stride).to(tl.int64)
    line = tl.arange(0, TOKENS * GROUP_BLOCK)
    offset, member = line // GROUP_BLOCK, line % GROUP_BLOCK
    place = tl.arange(0, DIM_BLOCK)
    for item in range(tl.program_id(0), items, PROGRAMS):
        tile, kv_head = tiles + item // KV_HEADS * 4, item % KV_HEADS
        first_row, rows = tl.load(tile).to(tl.int64), tl.load(tile + 1)
        table = tables + tl.load(tile + 2).to(tl.int64) * stride
        position = tl.load(tile + 3)
        inside = ((offset < rows) & (member < GROUP))[:, None] & (place < DIM)[None, :]
        row, head = first_row + offset, kv_head * GROUP + member
        query = tl.load(
            qkv + (row * (HEADS + 2 * KV_HEADS) + head)[:, None] * DIM + place[None, :],
            mask=inside,
            other=0.0,
        )
        top = tl.full([TOKENS * GROUP_BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([TOKENS * GROUP_BLOCK], tl.float32)
        mixed = tl.zeros([TOKENS * GROUP_BLOCK, DIM_BLOCK], tl.float32)
        stop = position + rows
        for first in range(0, stop, CONTEXT):
            token = first + tl.arange(0, CONTEXT)
            present = token < stop
            block = tl.load(table + token // BLOCK_SIZE, mask=present, other=0).to(tl.int64)
            at = (block * BLOCK_SIZE + token % BLOCK_SIZE) * (2 * KV_HEADS * DIM) + kv_head * DIM
            keys = cache + at[:, None] + place[None, :]
            wanted = present[:, None] & (place < DIM)[None, :]
            key = tl.load(keys, mask=wanted, other=0.0).to(query.dtype)
            value = tl.load(keys + KV_HEADS * DIM, mask=wanted, other=0.0).to(query.dtype)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            # Token 0 is attended by every line, so that `higher` is finite from the first iteration on.
            attended = present[None, :] & (token[None, :] <= (position + offset)[:, None])
            scores = tl.where(attended, scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            fade = tl.exp2(top - higher)
            weight = tl.exp2(scores - higher[:, None])
            total = total * fade + tl.sum(weight, 1)
            mixed = mixed * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
            top = higher
        target = out + (row * HEADS + head)[:, None] * DIM + place[None, :]
        tl.store(target, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


class MixedAttention:
    """The kernel for one model shape. `tile_tokens`: the most tokens of a tile."""

    def __init__(self, heads: int, kv_heads: int, dim: int, device: torch.device) -> None:
        self._heads, self._kv_heads, self._dim = heads, kv_heads, dim
        self._group = triton.next_power_of_2(heads // kv_heads)
        self.tile_tokens = max(1, LINES // self._group)
        units = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        self._programs = units * PROGRAMS_PER_SM

    def __call__(
        self,
        qkv: torch.Tensor,
        cache: torch.Tensor,
        tables: torch.Tensor,
        table_stride: torch.Tensor,
        tiles: torch.Tensor,
        tile_count: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """Write the rows of `out` [rows, heads * dim] that the tiles cover.

        `qkv` [rows, heads + 2 kv_heads, dim]; `cache` already holds the keys and values of the rows.
        `tiles` [≥ tile_count, WORDS_PER_TILE], `tile_count` [1]; `tables`: block ids, with `table_stride` [1]
        entries per row. All int32, read on the device.
        """
        narrow = qkv.dtype == torch.float32  # to fit in shared memory
        _mixed_attention[(self._programs,)](
            qkv,
            cache,
            tables,
            table_stride,
            tiles,
            tile_count,
            out,
            1.4426950408889634 / self._dim**0.5,  # exp2 instead of exp
            HEADS=self._heads,
            KV_HEADS=self._kv_heads,
            DIM=self._dim,
            GROUP_BLOCK=self._group,
            TOKENS=self.tile_tokens,
            DIM_BLOCK=max(16, triton.next_power_of_2(self._dim)),
            BLOCK_SIZE=cache.shape[1],
            CONTEXT=CONTEXT // 2 if narrow else CONTEXT,
            PROGRAMS=self._programs,
            PRECISION="ieee" if narrow else "tf32",
            num_warps=4,
            num_stages=2 if narrow else 3,
            **dependent(),
        )
