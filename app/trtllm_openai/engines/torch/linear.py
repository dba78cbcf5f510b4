"""Matrix products of the model, fused with what follows them.

On a CPU the weights are packed once for oneDNN, through the operators that torch.compile's CPU backend
uses. Against F.linear they are 1.5 to 5 times as fast at few rows, and a row's result does not depend on how
many other rows there are from `MIN_ROWS` up (tests/unit/engines/torch/test_linear.py): that is what makes
answers independent of the batch they are computed in.

With int8, weights have a scale for each output and inputs one for each row, found as they come; products are
sums of integers, which are exact in any order.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from trtllm_openai.errors import ConfigError

Quantization = Literal["none", "fp8", "int8"]

MIN_ROWS = 2
"""oneDNN computes a single row in another order; one padding row costs nothing."""


def padded_rows(rows: int) -> int:
    """With how many rows to compute `rows`, some 4 % more: 8 numbers from one power of two to the next.

    For every new number oneDNN compiles for milliseconds, and keeps the code: 0.6 MB a product.
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


class Int8Linear:
    """CPU with 8-bit dot products, through oneDNN's products of unsigned inputs and signed weights."""

    __slots__ = ("_bias", "_offsets", "_scales", "_weight")
    _latest: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
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
        """float32 [rows, out]."""
        rounded, scales = self._rounded(x)
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, ZERO, self._weight, self._scales, self._offsets,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y.mul_(scales)
        return y if self._bias is None else y.add_(self._bias)

    @classmethod
    def _rounded(cls, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`x` as bytes around `ZERO`, and their scales [rows, 1]. Two products of one input share them."""
        latest = cls._latest
        if latest is None or latest[0] is not x:
            exact = x.float()
            scales = exact.abs().amax(-1, keepdim=True).div_(127).clamp_min_(SMALLEST_SCALE)
            if exact is x:
                exact = x.clone()
            signed = exact.mul_(scales.reciprocal()).round_().to(torch.int8)
            # Flipping the sign bit adds ZERO; a conversion to unsigned bytes would be three times as slow.
            cls._latest = latest = x, signed.view(torch.uint8).bitwise_xor_(ZERO), scales
        return latest[1], latest[2]


ZERO = 128
SMALLEST_SCALE = 1e-12
VECTOR, SINGLE_THREAD = 32, 32768
"""Of PyTorch's pointwise kernels: elements computed at once, and those up to which one thread does it."""


def _silu(x: torch.Tensor) -> torch.Tensor:
    """In place; in parts for which no thread's last elements, computed by another exp, lie in some row."""
    width = x.shape[1]
    for part in x.split(1 if width % VECTOR else max(1, SINGLE_THREAD // width)):
        F.silu(part, inplace=True)
    return x


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights can be packed: a CPU, with oneDNN in this build of torch and for this dtype."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_quantization(wanted: Quantization, device: torch.device) -> None:
    """Raises `ConfigError` when it is not to be had on `device`."""
    if wanted == "int8" and device.type != "cpu":
        raise ConfigError("torch.quantization: int8 is for CPUs")
    if wanted == "int8" and not torch.cpu._is_vnni_supported():
        raise ConfigError("torch.quantization: int8 needs a CPU with 8-bit dot products (AVX-512 VNNI)")


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, quantization: Quantization = "none"
) -> Linear:
    """The best kind for the device and dtype of `weight` [out, in]."""
    if quantization == "int8":
        return Int8Linear(weight, bias)
    kind = PackedLinear if can_pack(weight.device, weight.dtype) else PlainLinear
    return kind(weight, bias)
