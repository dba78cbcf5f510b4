"""Matrix products of up to 64 rows a tile with 4-bit weights, bound by the bytes of the weights.

As in `few_rows`, the weights are the first operand of the matrix unit. Code minus zero point is exact in 16
bits, so the weights are not rounded: a group's sum is scaled in float32. Where the outputs alone make too few
programs, the inputs are split too, and the program that finishes last adds the parts in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.cuda.kernels.splits import is_last, sum_of_parts
from trtllm_openai.engines.torch.quantized.packed import Int4Weight

ROWS = 64
"""Most rows of a program; more are other programs, which find the weights in L2."""
OUTPUTS = 64
MOST_SPLITS = 8


@dataclass(frozen=True, slots=True)
class Int4Tile:
    """Outputs of a program, its warps, stages of its loop's pipeline, and programs that share the inputs."""

    outputs: int
    warps: int
    stages: int
    splits: int


@triton.jit
def _run(codes, zero, scale, value):
    """Return (codes - zero) * scale @ value, for `codes` [outputs, run] of uint8 and `value` [run, rows].

    A 16-bit float whose lowest bit is worth 1 takes a code into its mantissa: 128 + code in bfloat16 and
    1024 + code in float16. The zero point is subtracted from it in the same form.
    """
    if value.dtype == tl.bfloat16:
        part = (codes.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
        part -= (zero.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)[:, None]
    elif value.dtype == tl.float16:
        part = (codes.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
        part -= (zero.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)[:, None]
    else:
        part = codes.to(tl.float32) - zero.to(tl.float32)[:, None]
    return tl.dot(part, value, input_precision="ieee") * scale[:, None]


@triton.jit
def _int4_product(
    x,
    packed,
    scales,
    zeros,
    bias,
    addend,
    out,
    partial,
    arrived,
    rows,
    inputs,
    outputs,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    SWIGLU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    RUN: tl.constexpr = SPAN // 2
    tile, split = tl.program_id(1), tl.program_id(2)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    there, given = output < outputs, (row < rows)[None, :]
    total = outputs * 2 if SWIGLU else outputs
    octet = tl.arange(0, RUN)
    line = packed + output.to(tl.int64)[:, None] * (inputs // 2) + octet[None, :]
    up_line = line + outputs.to(tl.int64) * (inputs // 2)
    spans = inputs // SPAN
    first, last = spans * split // SPLITS, spans * (split + 1) // SPLITS
    wait(PDL)
    sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    up_sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for span in tl.range(first, last, num_stages=STAGES):
        codes = tl.load(line + span * RUN, mask=there[:, None], other=0, eviction_policy="evict_first")
        if SWIGLU:
            up_codes = tl.load(
                up_line + span * RUN, mask=there[:, None], other=0, eviction_policy="evict_first"
            )
        for half in tl.static_range(2):
            column = span * SPAN + half * RUN + octet
            value = tl.load(x + row.to(tl.int64)[None, :] * inputs + column[:, None], mask=given, other=0.0)
            place = (span * SPAN + half * RUN) // GROUP * total + output
            scale = tl.load(scales + place, mask=there, other=0.0).to(tl.float32)
            zero = tl.load(zeros + place, mask=there, other=0)
            sums += _run((codes >> (4 * half)) & 15, zero, scale, value)
            if SWIGLU:
                up_scale = tl.load(scales + place + outputs, mask=there, other=0.0).to(tl.float32)
                up_zero = tl.load(zeros + place + outputs, mask=there, other=0)
                up_sums += _run((up_codes >> (4 * half)) & 15, up_zero, up_scale, value)
    trigger(PDL)
    finishes = True
    if SPLITS > 1:
        wanted = there[:, None] & given
        mine = partial + row.to(tl.int64)[None, :] * total + output[:, None]
        size = total.to(tl.int64) * rows
        tl.store(mine + split * size, sums, mask=wanted)
        if SWIGLU:
            tl.store(mine + split * size + outputs, up_sums, mask=wanted)
        finishes = is_last(arrived + tile, SPLITS)
        if finishes:
            sums = sum_of_parts(mine, size, wanted, SPLITS)
            if SWIGLU:
                up_sums = sum_of_parts(mine + outputs, size, wanted, SPLITS)
    if finishes:
        if BIAS:
            sums += tl.load(bias + output, mask=there, other=0.0).to(tl.float32)[:, None]
            if SWIGLU:
                up_sums += tl.load(bias + outputs + output, mask=there, other=0.0).to(tl.float32)[:, None]
        if SWIGLU:
            sums = sums / (1 + tl.exp(-sums)) * up_sums
        target = row.to(tl.int64)[None, :] * outputs + output[:, None]
        wanted = there[:, None] & given
        if ADD:
            sums += tl.load(addend + target, mask=wanted, other=0.0).to(tl.float32)
        tl.store(out + target, sums.to(out.dtype.element_ty), mask=wanted)


def int4_product(
    x: torch.Tensor,
    weight: Int4Weight,
    arrived: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    swiglu: bool = False,
    addend: torch.Tensor | None = None,
    tile: Int4Tile | None = None,
) -> torch.Tensor:
    """Return x weightᵀ + bias [rows, out], for `x` [rows, in] and `weight` [out, in].

    `swiglu`: the halves of the weight are gate and up; returns silu(gate) * up [rows, out / 2]. `addend`
    [rows, out] is added. `arrived`: `splits.counters(weight.packed)`.
    """
    total, inputs = weight.shape
    rows, outputs = len(x), total // 2 if swiglu else total
    block = _row_block(rows)
    chosen = tile or choose_tile(weight, swiglu, _processors(x.device))
    tiles, splits = triton.cdiv(outputs, chosen.outputs), chosen.splits if rows <= ROWS else 1
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    partial = out
    if splits > 1:
        partial = torch.empty(splits, rows, total, dtype=torch.float32, device=x.device)
    _int4_product[(triton.cdiv(rows, block), tiles, splits)](
        x,
        weight.packed,
        weight.scales,
        weight.zeros,
        x if bias is None else bias,
        x if addend is None else addend,
        out,
        partial,
        arrived,
        rows,
        inputs,
        outputs,
        GROUP=weight.group,
        SPAN=weight.span,
        SPLITS=splits,
        BIAS=bias is not None,
        SWIGLU=swiglu,
        ADD=addend is not None,
        ROWS=block,
        OUTPUTS=chosen.outputs,
        STAGES=chosen.stages,
        num_warps=chosen.warps,
        **dependent(),
    )
    return out


def choose_tile(weight: Int4Weight, swiglu: bool, processors: int) -> Int4Tile:
    """The fastest of the tiles in benchmarks/products.py, for 1 and 16 rows of an 8B model (H200)."""
    total, inputs = weight.shape
    tiles = triton.cdiv(total // 2 if swiglu else total, OUTPUTS)
    splits = 1 if tiles >= processors else max(1, min(MOST_SPLITS, inputs // weight.span))
    return Int4Tile(OUTPUTS, 4, 3, splits)


def _row_block(rows: int) -> int:
    """Rows of a program: a power of two, 16 at least for the matrix unit."""
    block: int = min(ROWS, max(16, triton.next_power_of_2(rows)))
    return block


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@triton.jit
def _expand(
    packed,
    scales,
    zeros,
    out,
    inputs,
    outputs,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PDL: tl.constexpr,
):
    RUN: tl.constexpr = SPAN // 2
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    there = output < outputs
    octet, span = tl.arange(0, RUN), tl.program_id(1)
    line = output.to(tl.int64)[:, None] * inputs
    codes = tl.load(packed + line // 2 + span * RUN + octet[None, :], mask=there[:, None], other=0)
    trigger(PDL)
    wait(PDL)  # the scratch memory may still be read
    for half in tl.static_range(2):
        place = (span * SPAN + half * RUN) // GROUP * outputs + output
        scale = tl.load(scales + place, mask=there, other=0.0).to(tl.float32)[:, None]
        zero = tl.load(zeros + place, mask=there, other=0).to(tl.float32)[:, None]
        values = (((codes >> (4 * half)) & 15).to(tl.float32) - zero) * scale
        target = out + line + span * SPAN + half * RUN + octet[None, :]
        tl.store(target, values.to(out.dtype.element_ty), mask=there[:, None])


def expand(weight: Int4Weight, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight [out, in] in `dtype`, for products that are bound by arithmetic."""
    outputs, inputs = weight.shape
    out = torch.empty(outputs, inputs, dtype=dtype, device=weight.packed.device)
    _expand[(triton.cdiv(outputs, 32), inputs // weight.span)](
        weight.packed,
        weight.scales,
        weight.zeros,
        out,
        inputs,
        outputs,
        GROUP=weight.group,
        SPAN=weight.span,
        OUTPUTS=32,
        num_warps=4,
        **dependent(),
    )
    return out
