"""Packed products: equal to the plain ones, and row by row independent of how many rows there are."""

import pytest
import torch

from app.engines.torch.linear import MIN_ROWS, PackedLinear, PlainLinear, make_linear

SHAPES = [(576, 960), (576, 1536), (1536, 576), (576, 5000), (72, 160), (96, 72), (2048, 1024)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_do_not_depend_on_their_number(shape: tuple[int, int], dtype: torch.dtype) -> None:
    inputs, outputs = shape
    torch.manual_seed(1)
    linear = PackedLinear((torch.randn(outputs, inputs) * 0.05).to(dtype), None)
    x, other = torch.randn(600, inputs).to(dtype), torch.randn(600, outputs).to(dtype)
    whole = linear(x), linear.silu(x), linear.times(x, other), linear.plus(x, other)
    for rows in (MIN_ROWS, 3, 5, 8, 17, 32, 33, 100, 311):
        part = x[:rows], other[:rows]
        parts = linear(part[0]), linear.silu(part[0]), linear.times(*part), linear.plus(*part)
        for one, expected in zip(parts, whole, strict=True):
            assert torch.equal(one, expected[:rows]), rows


@pytest.mark.parametrize("bias", [False, True])
def test_packed_equals_plain(bias: bool) -> None:
    torch.manual_seed(2)
    weight, addend = torch.randn(96, 72), torch.randn(96) if bias else None
    x, other = torch.randn(9, 72), torch.randn(9, 96)
    packed, plain = make_linear(weight, addend), PlainLinear(weight, addend)
    torch.testing.assert_close(packed(x), plain(x))
    torch.testing.assert_close(packed.silu(x), plain.silu(x))
    torch.testing.assert_close(packed.times(x, other), plain.times(x, other))
    torch.testing.assert_close(packed.plus(x, other), plain.plus(x, other))
