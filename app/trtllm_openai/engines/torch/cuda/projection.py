"""Linear layers on a GPU, in the model's dtype, fp8 or 4 bits, with the preceding operation fused in.

fp8 (W8A8, float8_e4m3fn): weights are quantized once per output channel, activations dynamically per row. A
single row stays in the model's dtype, since only the bytes of the weights matter there. Weights and scales
of an fp8 checkpoint are taken as they are.

4 bits (W4A16): activations stay in the model's dtype. Above `MOST_INT4_ROWS` rows the weights are expanded
into scratch memory for cuBLAS, one layer at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from trtllm_openai.engines.torch.cuda.kernels.few_rows import MOST_ROWS, able, few_rows
from trtllm_openai.engines.torch.cuda.kernels.gemv import gemv
from trtllm_openai.engines.torch.cuda.kernels.int4_product import expand, int4_product
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm, add_rms_norm_fp8
from trtllm_openai.engines.torch.cuda.kernels.quantize import quantize
from trtllm_openai.engines.torch.cuda.kernels.splits import counters
from trtllm_openai.engines.torch.cuda.kernels.swiglu import swiglu, swiglu_fp8
from trtllm_openai.engines.torch.cuda.peers import Peers
from trtllm_openai.engines.torch.quantized.packed import Fp8Weight, Int4Weight, LinearWeight

MOST_INT4_ROWS = 256
"""Four tiles of rows read each 4-bit weight four times, at most as many bytes as bfloat16."""


class Projection:
    """x [rows, in] → x Wᵀ + b [rows, out], for `weight` [out, in]."""

    __slots__ = ("_arrived", "_bias", "_dtype", "_int4", "_scales", "_weight")

    def __init__(
        self, weight: LinearWeight, bias: torch.Tensor | None, dtype: torch.dtype, *, fp8: bool
    ) -> None:
        """`dtype`: of activations. `fp8`: quantize a `weight` that is not quantized yet."""
        self._dtype, self._bias = dtype, bias
        self._scales: torch.Tensor | None = None
        self._int4: Int4Weight | None = None
        if isinstance(weight, Int4Weight):
            self._int4 = weight
            self._weight = weight.packed
        elif isinstance(weight, Fp8Weight):
            self._weight, self._scales = weight.values, weight.scales
        elif fp8:
            self._weight, scales = quantize(weight)
            self._scales = scales.squeeze(1)
        else:
            self._weight = weight
        self._arrived = counters(self._weight)

    def own_kernel(self, rows: int) -> bool:
        """Whether `rows` rows are few enough for our own kernel, which can apply SwiGLU too."""
        if self._int4 is not None:
            return rows <= MOST_INT4_ROWS
        return rows <= MOST_ROWS and self._weight.itemsize <= 2 and able(self._weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._scales is None:
            return self._product(x)
        return self._product(*quantize(x))

    def after_norm(
        self,
        x: torch.Tensor,
        delta: torch.Tensor | None,
        gain: torch.Tensor,
        eps: float,
        peers: Peers | None = None,
        *,
        swiglu: bool = False,
    ) -> torch.Tensor:
        """Apply to rms_norm(x + delta) * gain; adds `delta` to `x` in place, all-reduced over `peers`.

        `swiglu`: the result's halves are gate and up; returns silu(gate) * up. Only if `own_kernel`.
        """
        if peers is None or delta is None:
            if self._scales is None:
                return self._product(add_rms_norm(x, delta, gain, eps), swiglu=swiglu)
            return self._product(*add_rms_norm_fp8(x, delta, gain, eps), swiglu=swiglu)
        if self._scales is None:
            return self._product(peers.add_rms_norm(x, delta, gain, eps), swiglu=swiglu)
        return self._product(*peers.add_rms_norm_fp8(x, delta, gain, eps), swiglu=swiglu)

    def after_swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Apply to silu(gate) * up, the halves of `gate_up` [rows, 2 in]."""
        if self._scales is None:
            return self._product(swiglu(gate_up))
        return self._product(*swiglu_fp8(gate_up))

    def one(
        self,
        x: torch.Tensor,
        *,
        norm: tuple[torch.Tensor, float] | None = None,
        swiglu: bool = False,
        addend: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Apply to a single row, with the fused operations of `kernels.gemv`."""
        if self._int4 is not None:
            if norm is not None:
                x = add_rms_norm(x, None, *norm)
            return int4_product(x, self._int4, self._arrived, bias=self._bias, swiglu=swiglu, addend=addend)
        return gemv(
            x, self._weight, scales=self._scales, bias=self._bias, norm=norm, swiglu=swiglu, addend=addend
        )

    def _product(
        self, x: torch.Tensor, row_scales: torch.Tensor | None = None, *, swiglu: bool = False
    ) -> torch.Tensor:
        """Multiply with the weights; `row_scales` [rows, 1] belong to fp8 rows."""
        if self._int4 is not None:
            if self.own_kernel(len(x)):
                return int4_product(x, self._int4, self._arrived, bias=self._bias, swiglu=swiglu)
            return F.linear(x, expand(self._int4, self._dtype), self._bias)
        if self.own_kernel(len(x)):
            return few_rows(
                x,
                self._weight,
                self._arrived,
                x_scales=row_scales,
                scales=self._scales,
                bias=self._bias,
                swiglu=swiglu,
                dtype=self._dtype,
            )
        if self._scales is None:
            return F.linear(x, self._weight, self._bias)
        assert row_scales is not None
        out: torch.Tensor = torch._scaled_mm(
            x, self._weight.t(), row_scales, self._scales.unsqueeze(0), out_dtype=self._dtype
        )
        return out if self._bias is None else out.add_(self._bias)
