"""Matrix products of the model, fused with what follows them.

On a CPU the weights are packed once for oneDNN, through the operators that torch.compile's CPU backend
uses. Against F.linear they are 1.5 to 5 times as fast at few rows, and a row's result does not depend on how
many other rows there are from `MIN_ROWS` up (tests/unit/engines/torch/test_linear.py): that is what makes
answers independent of the batch they are computed in.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

MIN_ROWS = 2
"""oneDNN computes a single row in another order; one padding row costs nothing."""


class Linear(Protocol):
    """x [rows, in] → x Wᵀ + b [rows, out]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        """silu(linear(x))"""

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """linear(x) * factor"""

    def plus(self, x: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
        """linear(x) + addend"""


class PlainLinear:
    """Any device."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(F.linear(x, self._weight, self._bias), inplace=True)

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias).mul_(factor)

    def plus(self, x: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias).add_(addend)


class PackedLinear:
    """CPU with oneDNN; products and what is fused with them are rounded once."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "swish", [], "")
        return y

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return self._with(x, factor, "mul")

    def plus(self, x: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
        return self._with(x, addend, "add")

    def _with(self, x: torch.Tensor, other: torch.Tensor, operation: str) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self._weight, self._bias, operation
        )
        return y


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights can be packed: a CPU, with oneDNN in this build of torch and for this dtype."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The best kind for the device and dtype of `weight` [out, in]."""
    kind = PackedLinear if can_pack(weight.device, weight.dtype) else PlainLinear
    return kind(weight, bias)
