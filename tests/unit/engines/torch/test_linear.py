"""Packed products: equal to the plain ones, and row by row independent of how many rows there are."""

import pytest
import torch

from trtllm_openai.engines.torch.linear import (
    MIN_ROWS,
    Int8Linear,
    PackedLinear,
    PlainLinear,
    make_linear,
    padded_rows,
)

SHAPES = [(576, 960), (576, 1536), (1536, 576), (576, 5000), (72, 160), (96, 72), (2048, 1024)]


def test_few_numbers_of_rows_occur() -> None:
    asked = range(1, 2049)
    given = [padded_rows(rows) for rows in asked]
    for rows, more in zip(asked, given, strict=True):
        assert rows <= more <= max(MIN_ROWS, rows * 1.125)
    assert given == [padded_rows(rows) for rows in given]
    assert len(set(given)) == 71
    assert sum(given) < 1.05 * sum(asked)


vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="no 8-bit dot products")


bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products"
)


@pytest.mark.parametrize("kind", [PackedLinear, pytest.param(Int8Linear, marks=vnni)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=bf16)])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_do_not_depend_on_their_number(
    shape: tuple[int, int], dtype: torch.dtype, kind: type[PackedLinear] | type[Int8Linear]
) -> None:
    inputs, outputs = shape
    torch.manual_seed(1)
    linear = kind((torch.randn(outputs, inputs) * 0.05).to(dtype), None)
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


@vnni
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_the_product_of_rounded_numbers(bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    weight, addend = torch.randn(96, 200) * 0.1, torch.randn(96) if bias else None
    x = torch.randn(9, 200).to(dtype)
    x[4] *= 100  # one row's size is no other's business
    x[5] = 0
    other = torch.randn(9, 96).to(dtype)

    def rounded(matrix: torch.Tensor) -> torch.Tensor:
        scales = matrix.double().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        return (matrix.double() / scales).round() * scales

    before = x.clone()
    product = rounded(x) @ rounded(weight).T + (0 if addend is None else addend.double())
    linear = Int8Linear(weight, addend)
    rtol, atol = (1e-2, 2e-2) if dtype == torch.bfloat16 else (1e-3, 5e-3)
    for one, expected in (
        (linear(x), product),
        (linear.silu(x), torch.nn.functional.silu(product)),
        (linear.times(x, other), product * other.double()),
        (linear.plus(x, other), product + other.double()),
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), expected, rtol=rtol, atol=atol)
    assert torch.equal(x, before)
