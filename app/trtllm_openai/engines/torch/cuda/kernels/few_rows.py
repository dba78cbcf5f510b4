"""Matrix products of 2 to 64 rows, bound by the bytes of the weights.

The weights are the first operand of the matrix unit, so that outputs fill its wide side and not rows. SwiGLU
is computed where gate and up are. Where the outputs alone make too few programs for many inputs, the inputs
are split too, and the program that finishes last adds the parts in order. Measured on Hopper, whose shared
memory the tiles need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.cuda.kernels.splits import is_last, sum_of_parts

MOST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """Outputs of a program, inputs of an iteration of its loop, its warps, stages of the loop's pipeline, and
    programs that share the inputs."""

    outputs: int
    inputs: int
    warps: int
    stages: int
    splits: int = 1


@cache
def able(device: torch.device) -> bool:
    """Whether the kernel runs on `device`."""
    return torch.cuda.get_device_capability(device)[0] == 9


@triton.jit
def _few_rows(
    x,
    weight,
    x_scales,
    scales,
    bias,
    out,
    partial,
    arrived,
    rows,
    inputs,
    outputs,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    SWIGLU: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    EVEN: tl.constexpr,
    PDL: tl.constexpr,
):
    tile, split = tl.program_id(0), tl.program_id(1)
    output = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    there = output < outputs
    row = tl.arange(0, ROWS)
    line = weight + output.to(tl.int64)[:, None] * inputs
    up_line = line + outputs.to(tl.int64) * inputs
    steps = tl.cdiv(inputs, INPUTS)
    begin, end = steps * split // SPLITS * INPUTS, steps * (split + 1) // SPLITS * INPUTS
    wait(PDL)
    sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    up_sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for first in tl.range(begin, end, INPUTS, num_stages=STAGES):
        column = first + tl.arange(0, INPUTS)
        if EVEN:
            wanted = there[:, None]
            given = (row < rows)[None, :]
        else:
            wanted = there[:, None] & (column < inputs)[None, :]
            given = (row < rows)[None, :] & (column < inputs)[:, None]
        value = tl.load(x + row[None, :] * inputs + column[:, None], mask=given, other=0.0)
        part = tl.load(line + column[None, :], mask=wanted, other=0.0, eviction_policy="evict_first")
        sums = tl.dot(part, value, sums)
        if SWIGLU:
            up_part = tl.load(
                up_line + column[None, :], mask=wanted, other=0.0, eviction_policy="evict_first"
            )
            up_sums = tl.dot(up_part, value, up_sums)
    trigger(PDL)
    inside = there[:, None] & (row < rows)[None, :]
    target = row.to(tl.int64)[None, :] * outputs + output[:, None]
    finishes = True
    if SPLITS > 1:  # never with SWIGLU
        size = outputs.to(tl.int64) * rows
        tl.store(partial + split * size + target, sums, mask=inside)
        finishes = is_last(arrived + tile, SPLITS)
        if finishes:
            sums = sum_of_parts(partial + target, size, inside, SPLITS)
    if finishes:
        if SCALED:
            row_scale = tl.load(x_scales + row, mask=row < rows, other=0.0)[None, :]
            sums *= tl.load(scales + output, mask=there, other=0.0)[:, None] * row_scale
            if SWIGLU:
                up_sums *= tl.load(scales + outputs + output, mask=there, other=0.0)[:, None] * row_scale
        if BIAS:
            sums += tl.load(bias + output, mask=there, other=0.0).to(tl.float32)[:, None]
            if SWIGLU:
                up_sums += tl.load(bias + outputs + output, mask=there, other=0.0).to(tl.float32)[:, None]
        if SWIGLU:
            sums = sums / (1 + tl.exp(-sums)) * up_sums
        tl.store(out + target, sums.to(out.dtype.element_ty), mask=inside)


def few_rows(
    x: torch.Tensor,
    weight: torch.Tensor,
    arrived: torch.Tensor,
    *,
    x_scales: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    swiglu: bool = False,
    dtype: torch.dtype | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """Return x weightᵀ + bias [rows, out], for `x` [rows, in] and `weight` [out, in] of one dtype.

    `rows` ≤ MOST_ROWS. `x_scales` [rows, 1] and `scales` [out] (float32) are factors of the result, for fp8.
    `swiglu`: the halves of the weight are gate and up; returns silu(gate) * up [rows, out / 2]. `dtype`: of
    the result, if not that of `x`. `arrived`: `splits.counters(weight)`.
    """
    total, inputs = weight.shape
    rows, outputs = len(x), total // 2 if swiglu else total
    out = torch.empty(rows, outputs, dtype=dtype or x.dtype, device=x.device)
    chosen = tile or _tile(rows, outputs, inputs, swiglu, weight.itemsize)
    splits = 1 if swiglu else chosen.splits
    partial = out
    if splits > 1:
        partial = torch.empty(splits, rows, outputs, dtype=torch.float32, device=x.device)
    _few_rows[(triton.cdiv(outputs, chosen.outputs), splits)](
        x,
        weight,
        x if x_scales is None else x_scales,
        x if scales is None else scales,
        x if bias is None else bias,
        out,
        partial,
        arrived,
        rows,
        inputs,
        outputs,
        SCALED=scales is not None,
        BIAS=bias is not None,
        SWIGLU=swiglu,
        ROWS=max(16, triton.next_power_of_2(rows)),
        OUTPUTS=chosen.outputs,
        INPUTS=chosen.inputs,
        STAGES=chosen.stages,
        SPLITS=splits,
        EVEN=inputs % chosen.inputs == 0,
        num_warps=chosen.warps,
        **dependent(),
    )
    return out


LONG = 7168
"""Inputs from which on two programs share those of few outputs."""


def _tile(rows: int, outputs: int, inputs: int, swiglu: bool, itemsize: int) -> Tile:
    """Within 3 % of the fastest of the tiles in benchmarks/products.py for every product of an 8B model."""
    size = 256 // itemsize
    if swiglu and itemsize == 1:
        return Tile(64, size if rows <= 16 else size // 2, warps=4, stages=3)
    if swiglu:
        return Tile(64, size, warps=4, stages=4)
    if outputs >= 2**15:
        return Tile(64, size, warps=4, stages=3)
    return Tile(64, size, warps=4, stages=6, splits=2 if inputs >= LONG and outputs < inputs else 1)
