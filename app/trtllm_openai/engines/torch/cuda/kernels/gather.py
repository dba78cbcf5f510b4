"""Gather of the ranks' logits: each rank writes its columns to rank 0's memory and sets flags there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.arrival import await_flags, next_use, raise_flags
from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait

TILE = 2048


@triton.jit
def _gather(
    part,
    buffers,
    flags,
    counts,
    fault,
    columns,
    each,
    width,
    programs,
    RANK: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    trigger(PDL)
    wait(PDL)
    row, tile = tl.program_id(0), tl.program_id(1)
    program = row * tl.num_programs(1) + tile
    use = next_use(counts, program)
    offsets = tile * TILE + tl.arange(0, TILE)
    inside = offsets < columns
    own = tl.load(part + row.to(tl.int64) * columns + offsets, mask=inside, other=0.0)
    first = tl.multiple_of(tl.load(buffers).to(tl.pointer_type(part.dtype.element_ty)), 16)
    place = row.to(tl.int64) * width + RANK * each
    tl.store(first + place + offsets, own, mask=inside)
    raise_flags(flags, use, program, programs, RANK, SIZE)
    if RANK == 0:
        mine = tl.load(flags).to(tl.pointer_type(tl.int32))
        await_flags(mine, fault, use, program, programs, RANK, SIZE)


def gather(
    part: torch.Tensor,
    buffers: torch.Tensor,
    flags: torch.Tensor,
    counts: torch.Tensor,
    fault: torch.Tensor,
    rank: int,
    size: int,
    each: int,
    width: int,
) -> None:
    """Gather every rank's columns `part` [rows, at most `each`] into rank 0's buffer [rows, width].

    An `add_sum` must lie between two uses, to order them.
    """
    rows, columns = part.shape
    _gather[(rows, triton.cdiv(each, TILE))](
        part,
        buffers,
        flags,
        counts,
        fault,
        columns,
        each,
        width,
        len(counts),
        RANK=rank,
        SIZE=size,
        TILE=TILE,
        num_warps=8,
        **dependent(),
    )
