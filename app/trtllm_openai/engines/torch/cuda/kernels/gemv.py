"""Matrix-vector product at memory bandwidth, fused with the small operations of a layer.

With cuBLAS each of these operations is a separate kernel, whose time at one row is launch latency. RMSNorm is
free here: its scale is a factor of the result, and the row is read anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait


@dataclass(frozen=True, slots=True)
class GemvTile:
    """Outputs of a program, inputs of an iteration of its loop, its warps, and stages of the loop."""

    outputs: int
    inputs: int
    warps: int
    stages: int = 1


@triton.jit
def _gemv(
    x,
    weight,
    scales,
    bias,
    gain,
    addend,
    out,
    inputs,
    outputs,
    eps,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < outputs
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    up_sums = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    line = weight + row.to(tl.int64)[:, None] * inputs
    up_line = line + outputs.to(tl.int64) * inputs
    wait(PDL)
    for first in tl.range(0, inputs, BLOCK, num_stages=STAGES):
        column = first + tl.arange(0, BLOCK)
        inside = column < inputs
        wanted = there[:, None] & inside[None, :]
        part = tl.load(line + column[None, :], mask=wanted, other=0.0, eviction_policy="evict_first")
        if SWIGLU:
            up_part = tl.load(
                up_line + column[None, :], mask=wanted, other=0.0, eviction_policy="evict_first"
            )
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += value * value
            value *= tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
        sums += part.to(tl.float32) * value[None, :]
        if SWIGLU:
            up_sums += up_part.to(tl.float32) * value[None, :]
    trigger(PDL)  # not earlier: waiting programs would occupy SMs that still read
    result = tl.sum(sums, 1)
    up = tl.sum(up_sums, 1)
    if NORM:
        inverse = tl.rsqrt(tl.sum(squares) / inputs + eps)
        result *= inverse
        up *= inverse
    if SCALED:
        result *= tl.load(scales + row, mask=there, other=0.0)
    if BIAS:
        result += tl.load(bias + row, mask=there, other=0.0).to(tl.float32)
    if SWIGLU:
        if SCALED:
            up *= tl.load(scales + outputs + row, mask=there, other=0.0)
        if BIAS:
            up += tl.load(bias + outputs + row, mask=there, other=0.0).to(tl.float32)
        result = result / (1 + tl.exp(-result)) * up
    if ADD:
        result += tl.load(addend + row, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=there)


def gemv(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    norm: tuple[torch.Tensor, float] | None = None,
    swiglu: bool = False,
    addend: torch.Tensor | None = None,
    tile: GemvTile | None = None,
) -> torch.Tensor:
    """Return x weightᵀ * scales + bias [1, out], for `x` [1, in] and `weight` [out, in] of any dtype.

    `scales`, `bias`: [out]. `norm`: (gain [in], epsilon) of an RMSNorm applied to `x` first. `swiglu`: the
    halves of the weight are gate and up; returns silu(gate) * up [1, out / 2]. `addend` [1, out] is added.
    """
    rows, inputs = weight.shape
    outputs = rows // 2 if swiglu else rows
    out = torch.empty(1, outputs, dtype=x.dtype, device=x.device)
    gain, eps = norm or (x, 0.0)
    chosen = tile or _tile(outputs, inputs, swiglu, weight.itemsize)
    _gemv[(triton.cdiv(outputs, chosen.outputs),)](
        x,
        weight,
        x if scales is None else scales,
        x if bias is None else bias,
        gain,
        x if addend is None else addend,
        out,
        inputs,
        outputs,
        eps,
        SCALED=scales is not None,
        BIAS=bias is not None,
        NORM=norm is not None,
        SWIGLU=swiglu,
        ADD=addend is not None,
        ROWS=chosen.outputs,
        BLOCK=min(chosen.inputs, triton.next_power_of_2(inputs)),
        STAGES=chosen.stages,
        num_warps=chosen.warps,
        **dependent(),
    )
    return out


def _tile(outputs: int, inputs: int, swiglu: bool, itemsize: int) -> GemvTile:
    """The fastest of the tiles in benchmarks/products.py (docs/performance.md)."""
    if itemsize == 1:
        if swiglu:
            return GemvTile(8, 512, 4, stages=3)
        return GemvTile(8, 512, 4) if outputs > inputs else GemvTile(8, 1024, 4)
    if swiglu or outputs >= 2**15:
        return GemvTile(8, 256, 4)
    if inputs > 2**13:
        return GemvTile(4, 512, 8)
    return GemvTile(4, 256, 4) if outputs > inputs else GemvTile(2, 1024, 4)
