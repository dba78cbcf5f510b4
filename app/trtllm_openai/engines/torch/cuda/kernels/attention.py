"""Decode attention over the paged KV cache: one new token per sequence.

The query heads of a KV head form the rows of one tile. Long contexts are split over several programs (Dao et
al., "Flash-Decoding", https://pytorch.org/blog/flash-decoding/); the last program to finish combines the
partial results. The grid does not depend on the lengths, so a CUDA graph can capture it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.cuda.kernels.splits import is_last

TILE = 128
"""Context tokens per iteration; halved for a single sequence, which needs more programs."""
SMALLEST_DOT = 16
PROGRAMS = 256
"""Target number of programs, enough to fill the largest GPUs."""
MAX_SPLITS = 64
AT_ONCE: tl.constexpr = tl.constexpr(8)
"""Splits combined per iteration."""


@triton.jit
def _paged_decode(
    qkv,
    cache,
    tables,
    table_stride,
    lengths,
    out,
    partial,
    tops,
    totals,
    arrived,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    GROUP: tl.constexpr = HEADS // KV_HEADS
    trigger(PDL)
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    stride = tl.load(table_stride)
    wait(PDL)
    share = tl.cdiv(tl.cdiv(length, TILE), SPLITS) * TILE
    start = split * share
    stop = tl.minimum(start + share, length)
    member = tl.arange(0, GROUP_BLOCK)
    place = tl.arange(0, DIM_BLOCK)
    inside = (member < GROUP)[:, None] & (place < DIM)[None, :]
    head = kv_head * GROUP + member
    target = out + (row.to(tl.int64) * HEADS + head)[:, None] * DIM + place[None, :]
    if (length == 0) & (split == 0):  # padding row
        tl.store(target, tl.zeros([GROUP_BLOCK, DIM_BLOCK], out.dtype.element_ty), mask=inside)
    if start < length:
        query_row = qkv + row.to(tl.int64) * (HEADS + 2 * KV_HEADS) * DIM
        query = tl.load(query_row + head[:, None] * DIM + place[None, :], mask=inside, other=0.0)
        top = tl.full([GROUP_BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([GROUP_BLOCK], tl.float32)
        mixed = tl.zeros([GROUP_BLOCK, DIM_BLOCK], tl.float32)
        table = tables + row.to(tl.int64) * stride
        for first in range(start, stop, TILE):
            token = first + tl.arange(0, TILE)
            present = token < stop
            block = tl.load(table + token // BLOCK_SIZE, mask=present, other=0).to(tl.int64)
            at = (block * BLOCK_SIZE + token % BLOCK_SIZE) * (2 * KV_HEADS * DIM) + kv_head * DIM
            keys = cache + at[:, None] + place[None, :]
            wanted = present[:, None] & (place < DIM)[None, :]
            key = tl.load(keys, mask=wanted, other=0.0).to(query.dtype)
            value = tl.load(keys + KV_HEADS * DIM, mask=wanted, other=0.0).to(query.dtype)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            scores = tl.where(present[None, :], scores, float("-inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            fade = tl.exp2(top - higher)
            weight = tl.exp2(scores - higher[:, None])
            total = total * fade + tl.sum(weight, 1)
            mixed = mixed * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
            top = higher
        used = tl.cdiv(length, share)
        if used == 1:
            tl.store(target, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)
        else:
            pair = row.to(tl.int64) * KV_HEADS + kv_head
            mine = (pair * SPLITS + split) * GROUP + member
            tl.store(partial + mine[:, None] * DIM + place[None, :], mixed, mask=inside)
            tl.store(tops + mine, top, mask=member < GROUP)
            tl.store(totals + mine, total, mask=member < GROUP)
            if is_last(arrived + pair, used):
                _combine(
                    partial, tops, totals, pair * SPLITS, used, out + pair * GROUP * DIM, GROUP, DIM, WIDTH
                )


@triton.jit
def _combine(
    partial, tops, totals, first, used, target, GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr
):
    """Combine the splits [first, first + used). Loads bypass L1, since other programs wrote them."""
    element = tl.arange(0, WIDTH)
    inside = element < GROUP * DIM
    top = tl.full([WIDTH], float("-inf"), tl.float32)
    total = tl.zeros([WIDTH], tl.float32)
    mixed = tl.zeros([WIDTH], tl.float32)
    for base in range(0, used, AT_ONCE):
        split = base + tl.arange(0, AT_ONCE)
        there = (split < used)[:, None] & inside[None, :]
        line = (first + split)[:, None] * GROUP
        head = line + element[None, :] // DIM
        its_top = tl.load(tops + head, mask=there, other=float("-inf"), cache_modifier=".cg")
        its_total = tl.load(totals + head, mask=there, other=0.0, cache_modifier=".cg")
        its_mixed = tl.load(
            partial + line * DIM + element[None, :], mask=there, other=0.0, cache_modifier=".cg"
        )
        higher = tl.maximum(top, tl.max(its_top, 0))
        fade = tl.where(inside, tl.exp2(top - higher), 0.0)
        weight = tl.where(there, tl.exp2(its_top - higher[None, :]), 0.0)
        total = total * fade + tl.sum(its_total * weight, 0)
        mixed = mixed * fade + tl.sum(its_mixed * weight, 0)
        top = higher
    tl.store(target + element, (mixed / total).to(target.dtype.element_ty), mask=inside)


class PagedDecode:
    """The decode attention kernel for one model shape, with scratch memory for `max_rows` sequences."""

    def __init__(self, heads: int, kv_heads: int, dim: int, max_rows: int, device: torch.device) -> None:
        self._heads, self._kv_heads, self._dim = heads, kv_heads, dim
        rows = max(rows * self._splits(rows) for rows in range(1, max_rows + 1))
        self._partial = torch.empty(rows * heads * dim, dtype=torch.float32, device=device)
        self._tops = torch.empty(rows * heads, dtype=torch.float32, device=device)
        self._totals = torch.empty(rows * heads, dtype=torch.float32, device=device)
        self._arrived = torch.zeros(max_rows * kv_heads, dtype=torch.int32, device=device)

    def __call__(
        self,
        qkv: torch.Tensor,
        cache: torch.Tensor,
        tables: torch.Tensor,
        table_stride: torch.Tensor,
        lengths: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """Write `out` [rows, heads * dim] for the queries in `qkv` [rows, heads + 2 kv_heads, dim].

        `tables`: block ids, with `table_stride` [1] entries per row. `lengths` [rows]: tokens in the cache,
        including the new one; 0 for padding rows. All int32.
        """
        rows = len(out)
        splits = self._splits(rows)
        tile = TILE if rows > 1 else TILE // 2
        if qkv.dtype == torch.float32:
            tile //= 4  # to fit in shared memory
        _paged_decode[(rows, self._kv_heads, splits)](
            qkv,
            cache,
            tables,
            table_stride,
            lengths,
            out,
            self._partial,
            self._tops,
            self._totals,
            self._arrived,
            1.4426950408889634 / self._dim**0.5,  # exp2 instead of exp
            HEADS=self._heads,
            KV_HEADS=self._kv_heads,
            DIM=self._dim,
            GROUP_BLOCK=max(SMALLEST_DOT, triton.next_power_of_2(self._heads // self._kv_heads)),
            DIM_BLOCK=max(SMALLEST_DOT, triton.next_power_of_2(self._dim)),
            BLOCK_SIZE=cache.shape[1],
            TILE=tile,
            SPLITS=splits,
            WIDTH=triton.next_power_of_2(self._heads // self._kv_heads * self._dim),
            PRECISION="ieee" if qkv.dtype == torch.float32 else "tf32",
            num_warps=4,
            num_stages=3,
            **dependent(),
        )

    def _splits(self, rows: int) -> int:
        """Number of splits of each context, so that even a few sequences fill the GPU."""
        wanted = max(1, PROGRAMS // (rows * self._kv_heads))
        return min(MAX_SPLITS, 1 << (wanted.bit_length() - 1))  # powers of two: few variants to compile
