"""Per-row fp8 quantization."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trtllm_openai.engines.torch.cuda.kernels.launch import dependent, trigger, wait
from trtllm_openai.engines.torch.cuda.kernels.norm import FP8_MAX, SMALLEST_SCALE


@triton.jit
def _quantize(x, out, scales, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    trigger(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < width
    values = tl.load(x + row * width + offsets, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values)) / FP8_MAX, SMALLEST_SCALE)
    tl.store(scales + row, scale)
    tl.store(out + row * width + offsets, (values / scale).to(out.dtype.element_ty), mask=inside)


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize `x` [rows, width] to float8_e4m3fn; returns it and its float32 scales [rows, 1]."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    warps = min(16, max(1, block // 512))
    _quantize[(rows,)](x, out, scales, width, BLOCK=block, num_warps=warps, **dependent())
    return out, scales
