"""Linear layers with a fused epilogue (activation, multiplication or residual addition).

On a CPU the weights are packed once for oneDNN, with the operators of torch.compile's CPU backend. These are
1.5 to 5 times as fast as F.linear at few rows, and from `MIN_ROWS` rows up a row's result does not depend on
the number of rows (tests/unit/engines/torch/test_linear.py), which makes responses batch-invariant.

int8: weights are quantized per output channel, activations dynamically per row. Sums of integers are exact,
so the order of summation does not matter.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F

Quantization = Literal["none", "fp8", "int8"]

MIN_ROWS = 2
"""oneDNN sums a single row in a different order; one padding row costs nothing."""


def padded_rows(rows: int) -> int:
    """Round a row count up (by about 4 % on average) to one of 8 sizes per power of two.

    oneDNN compiles each new size for milliseconds and caches the code, 0.6 MB per product.
    """
    step = 1 << max(0, rows.bit_length() - 4)
    return max(MIN_ROWS, -(-rows // step) * step)


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
    """Linear layer for any device, with separate epilogue kernels."""

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
    """Linear layer for a CPU with oneDNN; product and fused epilogue are rounded once."""

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


class Int8Inputs:
    """Dynamic quantization of activations, with a cache of the last input.

    One object is shared by the layers of a model, so that gate and up quantize their common input once.
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def quantize(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `x` [rows, in] as uint8 with the zero point `ZERO`, and its scales [rows, 1]."""
        latest = self._latest
        if latest is None or latest[0] is not x:
            exact = x.float()
            scales = exact.abs().amax(-1, keepdim=True).div_(127).clamp_min_(SMALLEST_SCALE)
            if exact is x:
                exact = x.clone()
            signed = exact.mul_(scales.reciprocal()).round_().to(torch.int8)
            # Flipping the sign bit adds ZERO; a conversion to unsigned bytes would be three times as slow.
            self._latest = latest = x, signed.view(torch.uint8).bitwise_xor_(ZERO), scales
        return latest[1], latest[2]


class Int8Linear:
    """Int8 linear layer for a CPU with 8-bit dot products: oneDNN, unsigned inputs and signed weights.

    Layers that read the same input share its quantization through `inputs`.
    """

    __slots__ = ("_bias", "_inputs", "_offsets", "_scales", "_weight")

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, inputs: Int8Inputs | None = None
    ) -> None:
        self._inputs = inputs or Int8Inputs()
        exact = weight.float()
        self._scales = exact.abs().amax(1).div_(127).clamp_min_(SMALLEST_SCALE)
        self._offsets = torch.zeros(len(weight), dtype=torch.int64)
        rounded = exact.div_(self._scales.unsqueeze(1)).round_().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x).to(x.dtype)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        return _silu(self._product(x)).to(x.dtype)

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return self._product(x).mul_(factor).to(x.dtype)

    def plus(self, x: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
        return self._product(x).add_(addend).to(x.dtype)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """Return the float32 product [rows, out]."""
        rounded, scales = self._inputs.quantize(x)
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, ZERO, self._weight, self._scales, self._offsets,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y.mul_(scales)
        return y if self._bias is None else y.add_(self._bias)


ZERO = 128
"""Zero point of the quantized activations."""
SMALLEST_SCALE = 1e-12
VECTOR, SINGLE_THREAD = 32, 32768
"""PyTorch's pointwise kernels: elements per vector, and the most elements that one thread handles."""


def _silu(x: torch.Tensor) -> torch.Tensor:
    """Apply silu in place, split so that no row has a thread's scalar tail, which uses another exp."""
    width = x.shape[1]
    for part in x.split(1 if width % VECTOR else max(1, SINGLE_THREAD // width)):
        F.silu(part, inplace=True)
    return x


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights can be packed: a CPU, and a build of torch whose oneDNN supports `dtype`."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    quantization: Quantization = "none",
    inputs: Int8Inputs | None = None,
) -> Linear:
    """Create the fastest linear layer for the device and dtype of `weight` [out, in].

    `inputs`: shared by int8 layers, to quantize a common input once.
    """
    if quantization == "int8":
        return Int8Linear(weight, bias, inputs)
    kind = PackedLinear if can_pack(weight.device, weight.dtype) else PlainLinear
    return kind(weight, bias)
