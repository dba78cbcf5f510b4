"""One-shot all-reduce between the GPUs of one host: each rank writes to its peers' memory.

A program handles one row. The buffers are double-buffered: a rank that starts use n + 2 has seen its peers
start use n + 1, so they have read use n. (Like the one-shot all-reduce of vLLM and TensorRT-LLM, but with
remote writes instead of remote reads, which saves one trip over the link.) Two protocols:

* Flags: a program stores its rank's values into every rank's buffer, sets a flag there with release
  semantics, waits for the peers' flags in its own memory, and reads the parts from its own buffer.
* Tags (few bfloat16 rows): each value is a 32-bit word with the use count in its upper half, so that a value
  says itself that it has arrived. Twice the bytes, but no flag that has to wait until they are all written
  (NCCL's LL protocol).

RMSNorm of the sum is part of the kernel, where a step needs it: a launch less for every all-reduce.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.arrival import await_flags, await_tags, next_use, raise_flags
from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.cuda.kernels.norm import store_normed

Norm = tuple[torch.Tensor, float, torch.Tensor, torch.Tensor | None]
"""Gain [width], epsilon, output [rows, width], and the scales [rows, 1] of an fp8 output."""


@triton.jit
def _residual(x, row, offsets, inside, width, ADD: tl.constexpr):
    """The addend of the sum: row `row` of `x`, or zeros."""
    if ADD:
        return tl.load(x + row.to(tl.int64) * width + offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.zeros(offsets.shape, tl.float32)


@triton.jit
def _store_sum(
    total,
    x,
    gains,
    normed,
    scales,
    row,
    width,
    eps,
    offsets,
    inside,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
):
    stored = total.to(x.dtype.element_ty)
    tl.store(x + row.to(tl.int64) * width + offsets, stored, mask=inside)
    if NORM:
        values, gains = stored.to(tl.float32), gains.to(tl.float32)
        store_normed(values, gains, normed, scales, row.to(tl.int64), width, eps, offsets, inside, FP8)


@triton.jit
def _add_sum(
    x,
    part,
    gain,
    normed,
    scales,
    buffers,
    flags,
    counts,
    fault,
    width,
    programs,
    eps,
    RANK: tl.constexpr,
    SIZE: tl.constexpr,
    ADD: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Protocol of flags."""
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    kind = x.dtype.element_ty
    gains = tl.load(gain + offsets, mask=inside, other=0.0) if NORM else 0.0
    mine = tl.multiple_of(tl.load(buffers + RANK).to(tl.pointer_type(kind)), 16)
    own_flags = tl.load(flags + RANK).to(tl.pointer_type(tl.int32))
    trigger(PDL)
    wait(PDL)
    use = next_use(counts, row)
    own = tl.load(part + row.to(tl.int64) * width + offsets, mask=inside, other=0.0)
    slot = (((use & 1) * SIZE + RANK) * programs + row).to(tl.int64) * width
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        theirs = tl.multiple_of(tl.load(buffers + peer).to(tl.pointer_type(kind)), 16)
        tl.store(theirs + slot + offsets, own, mask=inside)
    raise_flags(flags, use, row, programs, RANK, SIZE)
    total = _residual(x, row, offsets, inside, width, ADD)
    await_flags(own_flags, fault, use, row, programs, RANK, SIZE)
    for rank in tl.static_range(SIZE):  # in rank order, so that all ranks get identical sums
        if rank == RANK:
            total += own.to(tl.float32)
        else:
            place = (((use & 1) * SIZE + rank) * programs + row).to(tl.int64) * width
            total += tl.load(mine + place + offsets, mask=inside, other=0.0, cache_modifier=".cv").to(
                tl.float32
            )
    _store_sum(total, x, gains, normed, scales, row, width, eps, offsets, inside, NORM, FP8)


@triton.jit
def _add_sum_tagged(
    x,
    part,
    gain,
    normed,
    scales,
    buffers,
    counts,
    fault,
    width,
    programs,
    eps,
    RANK: tl.constexpr,
    SIZE: tl.constexpr,
    ADD: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Protocol of tags. `x` and `part`: bfloat16. `buffers`: of int32 words."""
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    gains = tl.load(gain + offsets, mask=inside, other=0.0) if NORM else 0.0
    mine = tl.multiple_of(tl.load(buffers + RANK).to(tl.pointer_type(tl.int32)), 16)
    trigger(PDL)
    wait(PDL)
    use = next_use(counts, row)
    own = tl.load(part + row.to(tl.int64) * width + offsets, mask=inside, other=0.0)
    tag = use << 16
    words = (own.to(tl.int16, bitcast=True).to(tl.int32) & 65535) | tag
    slot = (((use & 1) * SIZE + RANK) * programs + row).to(tl.int64) * width
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        theirs = tl.multiple_of(tl.load(buffers + peer).to(tl.pointer_type(tl.int32)), 16)
        tl.store(theirs + slot + offsets, words, mask=inside)
    total = _residual(x, row, offsets, inside, width, ADD)
    for rank in tl.static_range(SIZE):  # in rank order, so that all ranks get identical sums
        if rank == RANK:
            total += own.to(tl.float32)
        else:
            place = (((use & 1) * SIZE + rank) * programs + row).to(tl.int64) * width
            seen = await_tags(mine + place + offsets, inside, tag, fault, rank)
            total += (seen << 16).to(tl.float32, bitcast=True)
    _store_sum(total, x, gains, normed, scales, row, width, eps, offsets, inside, NORM, FP8)


def add_sum(
    x: torch.Tensor,
    part: torch.Tensor,
    buffers: torch.Tensor,
    flags: torch.Tensor | None,
    counts: torch.Tensor,
    fault: torch.Tensor,
    rank: int,
    size: int,
    add: bool,
    norm: Norm | None = None,
) -> None:
    """All-reduce `part` [rows, width] into `x` [rows, width]; `add`: accumulate instead of overwrite.

    Sums in float32 and in rank order. `buffers`, `flags`: int64 [size], addresses of every rank's buffer
    [2, size, programs, width] and int32 flags [size, programs]. Without `flags`, values are tagged: they must
    be bfloat16, and the buffers hold int32 words. `counts`: int32 [programs], local use counts. `rows` must
    not exceed `programs`. `norm`: the RMSNorm of the sum that is stored as well.
    """
    rows, width = part.shape
    block = triton.next_power_of_2(width)
    gain, eps, out, scales = norm or (x, 0.0, x, None)
    kernel = _add_sum_tagged if flags is None else _add_sum
    kernel[(rows,)](
        x,
        part,
        gain,
        out,
        out if scales is None else scales,
        buffers,
        *(() if flags is None else (flags,)),
        counts,
        fault,
        width,
        len(counts),
        eps,
        RANK=rank,
        SIZE=size,
        ADD=add,
        NORM=norm is not None,
        FP8=scales is not None,
        BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
        **dependent(),
    )
