"""Linear layers on a GPU, in the model's dtype or in fp8, with the preceding operation fused in.

fp8 (W8A8, float8_e4m3fn): weights are quantized once per output channel, activations dynamically per row. A
single row stays in the model's dtype, since only the bytes of the weights matter there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trtllm_openai.engines.torch.cuda.kernels.gemv import gemv
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm, add_rms_norm_fp8
from trtllm_openai.engines.torch.cuda.kernels.quantize import quantize
from trtllm_openai.engines.torch.cuda.kernels.swiglu import swiglu, swiglu_fp8
from trtllm_openai.engines.torch.cuda.peers import Peers


class Projection:
    """x [rows, in] → x Wᵀ + b [rows, out], for `weight` [out, in]."""

    __slots__ = ("_bias", "_dtype", "_scales", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, fp8: bool) -> None:
        self._dtype, self._bias = weight.dtype, bias
        self._scales: torch.Tensor | None = None
        if fp8:
            weight, scales = quantize(weight)
            self._scales = scales.squeeze(1)
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._scales is None:
            return F.linear(x, self._weight, self._bias)
        return self._scaled(*quantize(x))

    def after_norm(
        self,
        x: torch.Tensor,
        delta: torch.Tensor | None,
        gain: torch.Tensor,
        eps: float,
        peers: Peers | None = None,
    ) -> torch.Tensor:
        """Apply to rms_norm(x + delta) * gain; adds `delta` to `x` in place, all-reduced over `peers`."""
        if peers is None or delta is None:
            if self._scales is None:
                return F.linear(add_rms_norm(x, delta, gain, eps), self._weight, self._bias)
            return self._scaled(*add_rms_norm_fp8(x, delta, gain, eps))
        if self._scales is None:
            return F.linear(peers.add_rms_norm(x, delta, gain, eps), self._weight, self._bias)
        return self._scaled(*peers.add_rms_norm_fp8(x, delta, gain, eps))

    def after_swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Apply to silu(gate) * up, the halves of `gate_up` [rows, 2 in]."""
        if self._scales is None:
            return F.linear(swiglu(gate_up), self._weight, self._bias)
        return self._scaled(*swiglu_fp8(gate_up))

    def one(
        self,
        x: torch.Tensor,
        *,
        norm: tuple[torch.Tensor, float] | None = None,
        swiglu: bool = False,
        addend: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Apply to a single row, with the fused operations of `kernels.gemv`."""
        return gemv(
            x, self._weight, scales=self._scales, bias=self._bias, norm=norm, swiglu=swiglu, addend=addend
        )

    def _scaled(self, x: torch.Tensor, row_scales: torch.Tensor) -> torch.Tensor:
        assert self._scales is not None
        out: torch.Tensor = torch._scaled_mm(
            x, self._weight.t(), row_scales, self._scales.unsqueeze(0), out_dtype=self._dtype
        )
        return out if self._bias is None else out.add_(self._bias)
