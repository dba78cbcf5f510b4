"""Fused residual addition and RMSNorm, optionally with fp8 quantization of the result.

Zhang and Sennrich, "Root Mean Square Layer Normalization" (https://arxiv.org/abs/1910.07467).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait

FP8_MAX: tl.constexpr = tl.constexpr(448.0)
"""Largest finite value of float8_e4m3fn."""
SMALLEST_SCALE: tl.constexpr = tl.constexpr(1e-12)


@triton.jit
def store_normed(values, gain, out, scales, row, width, eps, offsets, inside, FP8: tl.constexpr):
    """Store rms_norm(values) * gain as row `row` of `out`; `FP8`: quantized, with its scale in `scales`."""
    inverse = tl.rsqrt(tl.sum(values * values) / width + eps)
    normed = values * inverse * gain
    if FP8:
        scale = tl.maximum(tl.max(tl.abs(normed)) / FP8_MAX, SMALLEST_SCALE)
        tl.store(scales + row, scale)
        normed = normed / scale
    tl.store(out + row * width + offsets, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_rms_norm(
    x,
    delta,
    weight,
    out,
    scales,
    width,
    eps,
    ADD: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    trigger(PDL)
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    gain = tl.load(weight + offsets, mask=inside, other=0.0).to(tl.float32)
    wait(PDL)
    values = tl.load(x + row * width + offsets, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(delta + row * width + offsets, mask=inside, other=0.0).to(tl.float32)
        stored = values.to(x.dtype.element_ty)
        tl.store(x + row * width + offsets, stored, mask=inside)
        values = stored.to(tl.float32)
    store_normed(values, gain, out, scales, row, width, eps, offsets, inside, FP8)


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Add `delta` to `x` in place; return rms_norm(x) * weight. All [rows, width] except `weight` [width]."""
    out = torch.empty_like(x)
    _launch(x, delta, weight, out, None, eps)
    return out


def add_rms_norm_fp8(
    x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `add_rms_norm`, but return fp8 values and their per-row scales [rows, 1]."""
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    _launch(x, delta, weight, out, scales, eps)
    return out, scales


def _launch(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    scales: torch.Tensor | None,
    eps: float,
) -> None:
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _add_rms_norm[(rows,)](
        x,
        x if delta is None else delta,
        weight,
        out,
        out if scales is None else scales,
        width,
        eps,
        ADD=delta is not None,
        FP8=scales is not None,
        BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
        **dependent(),
    )
