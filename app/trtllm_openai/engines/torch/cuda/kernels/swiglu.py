"""SwiGLU: silu(gate) * up, optionally quantized to fp8 for the down projection."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.cuda.kernels.norm import FP8_MAX, SMALLEST_SCALE

BLOCK = 1024


@triton.jit
def _silu_times(gate, up, offsets, inside):
    left = tl.load(gate + offsets, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(up + offsets, mask=inside, other=0.0).to(tl.float32)
    return left / (1 + tl.exp(-left)) * right


@triton.jit
def _swiglu(gate_up, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    trigger(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    gate = gate_up + row * 2 * width
    product = _silu_times(gate, gate + width, offsets, inside)
    tl.store(out + row * width + offsets, product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_fp8(gate_up, out, scales, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    trigger(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    gate = gate_up + row * 2 * width
    product = _silu_times(gate, gate + width, offsets, inside)
    scale = tl.maximum(tl.max(tl.abs(product)) / FP8_MAX, SMALLEST_SCALE)
    tl.store(scales + row, scale)
    tl.store(out + row * width + offsets, (product / scale).to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Compute silu(gate) * up: [rows, 2 width] → [rows, width]."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    _swiglu[(rows, triton.cdiv(width, BLOCK))](gate_up, out, width, BLOCK=BLOCK, num_warps=4, **dependent())
    return out


def swiglu_fp8(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `swiglu`, but return fp8 values and their per-row scales [rows, 1]."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=gate_up.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=gate_up.device)
    block = triton.next_power_of_2(width)
    warps = min(16, max(1, block // 512))
    _swiglu_fp8[(rows,)](gate_up, out, scales, width, BLOCK=block, num_warps=warps, **dependent())
    return out, scales
