"""One-shot exchange between the GPUs of one host: each rank writes its part into its peers' memory.

A program handles one row (or one tile of it): it stores its rank's values into every rank's buffer, raises a
flag there with release semantics, waits for the peers' flags in its own memory, and reads the parts from its
own buffer. Flags hold a count that rises with every use, kept on the device, so that a CUDA graph replays
without the host. Two halves of a buffer take turns: a rank that begins use n + 2 has seen its peers begin use
n + 1, so that they have read use n. (The one-shot all-reduce of vLLM and TensorRT-LLM, writing where those
read, which saves one trip over the link.)

The wait is bounded by `TIMEOUT_NS`; a program that gives up stores its peer's rank + 1 in `fault`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, wait

TIMEOUT_NS: tl.constexpr = tl.constexpr(20_000_000_000)
"""Longer than a peer may take to compile a kernel; a peer that ended is noticed by the host, much sooner."""
TILE = 2048


@triton.jit
def _next_use(counts, program):
    """How often this program will have been used, this time included."""
    use = tl.load(counts + program) + 1
    tl.debug_barrier()  # every thread has read it
    tl.store(counts + program, use)
    return use


@triton.jit
def _raise_flags(flags, use, program, programs, RANK: tl.constexpr, SIZE: tl.constexpr):
    """Tell every peer that this rank's part of `program` is written."""
    tl.debug_barrier()  # every thread's stores come before the release
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        theirs = tl.load(flags + peer).to(tl.pointer_type(tl.int32))
        tl.atomic_xchg(theirs + RANK * programs + program, use, sem="release", scope="sys")


@triton.jit
def _await_flags(flags, fault, use, program, programs, RANK: tl.constexpr, SIZE: tl.constexpr):
    """Wait until every peer's part of `program` is here."""
    mine = tl.load(flags + RANK).to(tl.pointer_type(tl.int32))
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        flag = mine + peer * programs + program
        seen = tl.atomic_add(flag, 0, sem="acquire", scope="sys")
        if seen < use:
            began = tl.extra.cuda.globaltimer()
            late = tl.load(fault) > 0  # after one has given up, the others do at once
            while (seen < use) & (late == 0):
                seen = tl.atomic_add(flag, 0, sem="acquire", scope="sys")
                late = (tl.extra.cuda.globaltimer() - began) > TIMEOUT_NS
            if seen < use:
                tl.store(fault, peer + 1)
    tl.debug_barrier()


@triton.jit
def _add_sum(
    x,
    part,
    buffers,
    flags,
    counts,
    fault,
    width,
    programs,
    RANK: tl.constexpr,
    SIZE: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    wait(PDL)
    row = tl.program_id(0)
    use = _next_use(counts, row)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    kind = x.dtype.element_ty
    own = tl.load(part + row.to(tl.int64) * width + offsets, mask=inside, other=0.0)
    slot = (((use % 2) * SIZE + RANK) * programs + row).to(tl.int64) * width
    for step in tl.static_range(1, SIZE):
        peer = (RANK + step) % SIZE
        theirs = tl.multiple_of(tl.load(buffers + peer).to(tl.pointer_type(kind)), 16)
        tl.store(theirs + slot + offsets, own, mask=inside)
    _raise_flags(flags, use, row, programs, RANK, SIZE)
    if ADD:
        total = tl.load(x + row.to(tl.int64) * width + offsets, mask=inside, other=0.0).to(tl.float32)
    else:
        total = tl.zeros([BLOCK], tl.float32)
    _await_flags(flags, fault, use, row, programs, RANK, SIZE)
    mine = tl.multiple_of(tl.load(buffers + RANK).to(tl.pointer_type(kind)), 16)
    for rank in tl.static_range(SIZE):  # in one order, so that all ranks get the same number
        if rank == RANK:
            total += own.to(tl.float32)
        else:
            place = (((use % 2) * SIZE + rank) * programs + row).to(tl.int64) * width
            total += tl.load(mine + place + offsets, mask=inside, other=0.0, cache_modifier=".cv").to(
                tl.float32
            )
    tl.store(x + row.to(tl.int64) * width + offsets, total.to(kind), mask=inside)


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
    wait(PDL)
    row, tile = tl.program_id(0), tl.program_id(1)
    program = row * tl.num_programs(1) + tile
    use = _next_use(counts, program)
    offsets = tile * TILE + tl.arange(0, TILE)
    inside = offsets < columns
    own = tl.load(part + row.to(tl.int64) * columns + offsets, mask=inside, other=0.0)
    first = tl.multiple_of(tl.load(buffers).to(tl.pointer_type(part.dtype.element_ty)), 16)
    place = row.to(tl.int64) * width + RANK * each
    tl.store(first + place + offsets, own, mask=inside)
    _raise_flags(flags, use, program, programs, RANK, SIZE)
    if RANK == 0:
        _await_flags(flags, fault, use, program, programs, RANK, SIZE)


def add_sum(
    x: torch.Tensor,
    part: torch.Tensor,
    buffers: torch.Tensor,
    flags: torch.Tensor,
    counts: torch.Tensor,
    fault: torch.Tensor,
    rank: int,
    size: int,
    add: bool,
) -> None:
    """x (+)= the sum of every rank's `part`, in float32 and in the order of the ranks; both [rows, width].

    `buffers`, `flags`: int64 [size], addresses of every rank's buffer [2, size, programs, width] and int32
    flags [size, programs]. `counts`: int32 [programs], this rank's own; at most as many rows as programs.
    """
    rows, width = part.shape
    block = triton.next_power_of_2(width)
    _add_sum[(rows,)](
        x,
        part,
        buffers,
        flags,
        counts,
        fault,
        width,
        len(counts),
        RANK=rank,
        SIZE=size,
        ADD=add,
        BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
        **dependent(),
    )


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
    """Every rank's `part` [rows, at most `each`] into rank 0's buffer [rows, width], whose columns are the
    parts one after another. Between two uses there must be an `add_sum`, which orders them."""
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
