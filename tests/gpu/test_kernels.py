"""Each Triton kernel against a float64 reference, on fresh random inputs every time."""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from trtllm_openai.engines.torch.cuda.kernels.attention import PagedDecode
from trtllm_openai.engines.torch.cuda.kernels.few_rows import Tile, few_rows
from trtllm_openai.engines.torch.cuda.kernels.gemv import GemvTile, gemv
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm, add_rms_norm_fp8
from trtllm_openai.engines.torch.cuda.kernels.quantize import quantize
from trtllm_openai.engines.torch.cuda.kernels.rope import rope_and_store
from trtllm_openai.engines.torch.cuda.kernels.sampling import Sampler
from trtllm_openai.engines.torch.cuda.kernels.splits import counters
from trtllm_openai.engines.torch.cuda.kernels.swiglu import swiglu, swiglu_fp8
from trtllm_openai.engines.torch.kv_cache import FP8

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
"""Whether kernels run in Triton's interpreter, on a CPU."""
EPS = 1e-5
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCE)
KV_DTYPES = [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)]
KV_DTYPES += [(dtype, FP8) for dtype in (torch.bfloat16, torch.float32)]
"""Types of rows and of the KV cache."""


@pytest.fixture(autouse=True)
def fresh_inputs() -> None:
    torch.seed()


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """‖got - expected‖ / ‖expected‖; NaN never passes a comparison."""
    return float((got.double() - expected).norm() / expected.norm())


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [72, 4096])
def test_add_rms_norm(width: int, dtype: torch.dtype) -> None:
    x, delta, weight = (
        random(5, width, dtype=dtype),
        random(5, width, dtype=dtype),
        random(width, dtype=dtype),
    )
    before = x.clone()
    assert error(add_rms_norm(x, None, weight, EPS), rms_norm(x.double(), weight)) < TOLERANCE[dtype]
    assert torch.equal(x, before)
    out = add_rms_norm(x, delta, weight, EPS)
    assert error(x, before.double() + delta.double()) < TOLERANCE[dtype]
    assert error(out, rms_norm(x.double(), weight)) < TOLERANCE[dtype]


def test_what_goes_to_fp8_comes_back_within_its_precision() -> None:
    x, weight = random(5, 4096, dtype=torch.bfloat16), random(4096, dtype=torch.bfloat16)
    values, scales = add_rms_norm_fp8(x, None, weight, EPS)
    assert error(values.double() * scales.double(), rms_norm(x.double(), weight)) < 0.04
    both = random(3, 2 * 1000, dtype=torch.bfloat16)
    values, scales = swiglu_fp8(both)
    gate, up = both.double().chunk(2, -1)
    assert error(values.double() * scales.double(), F.silu(gate) * up) < 0.04


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [96, 14336])
def test_swiglu(width: int, dtype: torch.dtype) -> None:
    both = random(3, 2 * width, dtype=dtype)
    gate, up = both.double().chunk(2, -1)
    assert error(swiglu(both), F.silu(gate) * up) < TOLERANCE[dtype]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (32, 8, 128), (5, 1, 80)])
def test_rope_and_store(heads: int, kv_heads: int, dim: int, normed: bool, dtype: torch.dtype) -> None:
    rows, blocks, block_size = 7, 9, 4
    qkv = random(rows, heads + 2 * kv_heads, dim, dtype=dtype)
    cache = random(blocks, block_size, 2, kv_heads, dim, dtype=dtype)
    angles = random(50, dim // 2) * 3
    tables = angles.cos().contiguous(), angles.sin().contiguous()
    positions = torch.randint(50, (rows,), device=DEVICE, dtype=torch.int32)
    slots = torch.randperm(blocks * block_size, device=DEVICE)[:rows].int()
    norms = (random(dim, dtype=dtype), random(dim, dtype=dtype), EPS) if normed else None
    q, k, v = qkv.double().split((heads, kv_heads, kv_heads), 1)
    if norms is not None:
        q, k = rms_norm(q, norms[0]), rms_norm(k, norms[1])
    cos, sin = (table.double()[positions.long()].unsqueeze(1) for table in tables)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    expected = cache.double().flatten(0, 1)
    expected[slots.long()] = torch.stack((k, v), 1)
    rope_and_store(qkv, cache, positions, slots, tables, norms)
    assert error(qkv, torch.cat((q, k, v), 1)) < TOLERANCE[dtype]
    assert error(cache.flatten(0, 1), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (32, 8, 128), (5, 1, 80)])
def test_rope_and_store_in_fp8(heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> None:
    """Stored values are rounded once, in the rows too; those that are too large become the largest."""
    rows, blocks, block_size = 7, 9, 4
    qkv = random(rows, heads + 2 * kv_heads, dim, dtype=dtype) * 4
    large = [1e4, -1e4, 449, -449]
    if INTERPRETED:  # Triton's interpreter rounds some values to half of them: take those that stay
        qkv = qkv.to(FP8).to(dtype)
    else:  # nor does it know NaN in fp8
        large[3] = math.nan
    qkv[2, heads, :4] = torch.tensor(large, device=DEVICE)
    before = qkv.clone()
    cache = torch.zeros(blocks, block_size, 2, kv_heads, dim, dtype=FP8, device=DEVICE)
    tables = torch.ones(1, dim // 2, device=DEVICE), torch.zeros(1, dim // 2, device=DEVICE)  # no rotation
    positions = torch.zeros(rows, device=DEVICE, dtype=torch.int32)
    slots = torch.randperm(blocks * block_size, device=DEVICE)[:rows].int()
    rope_and_store(qkv, cache, positions, slots, tables, None)
    rounded = before[:, heads:].clamp(-448, 448).to(FP8).to(dtype)
    if not INTERPRETED:
        rounded[2, 0, 3 + dim // 2] = math.nan  # the value that is rotated with NaN
    assert torch.equal(qkv[:, :heads], before[:, :heads])
    assert torch.equal(qkv[:, heads:].nan_to_num(7.0), rounded.nan_to_num(7.0))
    assert qkv[2, heads, :3].tolist() == [448, -448, 448]
    stored = cache.to(dtype).flatten(0, 1)
    assert torch.equal(stored[slots.long()].flatten(1, 2).nan_to_num(7.0), rounded.nan_to_num(7.0))
    stored[slots.long()] = 0
    assert not stored.any(), "nothing else is written"


@pytest.mark.parametrize(("dtype", "kv_dtype"), KV_DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (32, 8, 128), (5, 1, 80)])
def test_paged_decode(
    heads: int, kv_heads: int, dim: int, rows: int, dtype: torch.dtype, kv_dtype: torch.dtype
) -> None:
    most, block_size = (300, 16) if INTERPRETED else (3000, 16)
    lengths = torch.randint(1, most, (rows,))
    lengths[0] = most
    if rows > 1:
        lengths[1] = 0  # a row that pads the batch
    width = -(-most // block_size)
    cache = random(rows * width + 1, block_size, 2, kv_heads, dim, dtype=dtype).to(kv_dtype)
    wide = cache.to(dtype)
    tables = (torch.randperm(rows * width) + 1).view(rows, width).int().to(DEVICE)
    qkv = random(rows, heads + 2 * kv_heads, dim, dtype=dtype)
    decode = PagedDecode(heads, kv_heads, dim, rows, DEVICE)
    for _ in range(2):  # the second finds what the first left in the scratch memory
        out = torch.full((rows, heads * dim), math.nan, dtype=dtype, device=DEVICE)
        decode(
            qkv,
            cache,
            tables,
            torch.tensor([width], dtype=torch.int32, device=DEVICE),
            lengths.int().to(DEVICE),
            out,
        )
        for row, length in enumerate(lengths.tolist()):
            if length == 0:
                assert not out[row].any()
                continue
            kv = wide[tables[row].long()].flatten(0, 1)[:length].double()
            query = qkv[row, :heads].double().view(kv_heads, -1, dim)
            scores = torch.einsum("hgd,thd->hgt", query, kv[:, 0]) / dim**0.5
            expected = torch.einsum("hgt,thd->hgd", scores.softmax(-1), kv[:, 1])
            assert error(out[row], expected.flatten()) < TOLERANCE[dtype], length


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(72, 102), (4096, 1536)])
def test_gemv(inputs: int, outputs: int, dtype: torch.dtype) -> None:
    x, weight = random(1, inputs, dtype=dtype), random(outputs, inputs, dtype=dtype)
    gain, bias = random(inputs, dtype=dtype), random(outputs, dtype=dtype)
    addend = random(1, outputs, dtype=dtype)
    plain = x.double() @ weight.double().T
    assert error(gemv(x, weight), plain) < TOLERANCE[dtype]
    assert error(gemv(x, weight, addend=addend), plain + addend.double()) < TOLERANCE[dtype]
    normed = rms_norm(x.double(), gain) @ weight.double().T + bias.double()
    assert error(gemv(x, weight, norm=(gain, EPS), bias=bias), normed) < TOLERANCE[dtype]
    gate, up = normed.chunk(2, -1)
    got = gemv(x, weight, norm=(gain, EPS), bias=bias, swiglu=True)
    assert error(got, F.silu(gate) * up) < TOLERANCE[dtype]


TILES = [None, Tile(64, 64, 4, 3, splits=3)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [2, 16, 33, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(72, 102), (1536, 520), (4096, 1536)])
def test_few_rows(inputs: int, outputs: int, rows: int, dtype: torch.dtype, tile: Tile | None) -> None:
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies no bfloat16")
    x, weight, bias = (
        random(*shape, dtype=dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    arrived, limit = counters(weight), TOLERANCE[torch.bfloat16]
    plain = x.double() @ weight.double().T
    for _ in range(2):  # the second finds what the first left in the counters
        assert error(few_rows(x, weight, arrived, tile=tile), plain) < limit
        assert not arrived.any()
    assert error(few_rows(x, weight, arrived, bias=bias, tile=tile), plain + bias.double()) < limit
    gate, up = (plain + bias.double()).div(inputs**0.5).chunk(2, -1)
    scaled = weight / inputs**0.5, bias / inputs**0.5
    got = few_rows(x, scaled[0], arrived, bias=scaled[1], swiglu=True, tile=tile)
    assert error(got, F.silu(gate) * up) < 2 * limit


@pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter has no fp8 products")
@pytest.mark.parametrize("rows", [2, 16, 33, 64])
def test_few_rows_in_fp8(rows: int) -> None:
    """The result is the product of the quantized values, whose rounding is not the kernel's."""
    x, weight = random(rows, 1024, dtype=torch.bfloat16), random(768, 1024, dtype=torch.bfloat16)
    (x8, x_scales), (weight8, scales) = quantize(x), quantize(weight)
    left, right = x8.double() * x_scales.double(), weight8.double() * scales.double()
    arrived, scales = counters(weight), scales.squeeze(1)
    got = few_rows(x8, weight8, arrived, x_scales=x_scales, scales=scales, dtype=torch.bfloat16)
    assert error(got, left @ right.T) < TOLERANCE[torch.bfloat16]
    gate, up = (left @ right.T / 32).chunk(2, -1)
    got = few_rows(
        x8, weight8, arrived, x_scales=x_scales, scales=scales / 32, swiglu=True, dtype=torch.bfloat16
    )
    assert error(got, F.silu(gate) * up) < 2 * TOLERANCE[torch.bfloat16]


def test_gemv_of_scaled_weights() -> None:
    x, weight = random(1, 512, dtype=torch.bfloat16), random(96, 512).to(torch.float8_e4m3fn)
    scales = random(96).abs()
    expected = x.double() @ (weight.double() * scales.double().unsqueeze(1)).T
    assert error(gemv(x, weight, scales=scales), expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_gemv_in_stages(dtype: torch.dtype, swiglu: bool, stages: int) -> None:
    x, weight = random(1, 1032, dtype=torch.bfloat16), random(100, 1032).div(32).to(dtype)
    expected = x.double() @ weight.double().T
    if swiglu:
        gate, up = expected.chunk(2, -1)
        expected = F.silu(gate) * up
    got = gemv(x, weight, swiglu=swiglu, tile=GemvTile(8, 512, 4, stages))
    assert error(got, expected) < TOLERANCE[torch.bfloat16]


CUTS = [
    (0.0, 1.0, 0, 0.0),
    (1.0, 1.0, 0, 0.0),
    (0.3, 1.0, 0, 0.0),
    (1.0, 0.9, 0, 0.0),
    (2.0, 0.999, 0, 0.0),
    (1.5, 1.0, 40, 0.0),
    (1.5, 0.5, 700, 0.0),
    (1.0, 1.0, 0, 0.2),
    (1.2, 0.8, 100, 0.05),
    (1.0, 1.0, 1, 0.0),
    (1.0, 1e-9, 0, 0.0),
    (1e-5, 0.5, 3, 0.1),
]
"""temperature, top_p, top_k, min_p"""


def shares(
    logits: npt.NDArray[np.float32], temperature: float, top_p: float, top_k: int, min_p: float
) -> npt.NDArray[np.float64]:
    """The distribution left by the cuts, in the vocabulary's order; equal logits are cut from the end."""
    scaled = logits.astype(np.float64) / np.float64(np.float32(temperature))
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    kept = np.ones(len(weights), bool)
    if top_k:
        kept[order[top_k:]] = False
    remaining = order[kept[order]]
    before = np.concatenate(([0.0], np.cumsum(weights[remaining])[:-1]))
    kept[remaining[before >= top_p * weights[remaining].sum()]] = False
    kept &= weights >= min_p
    kept_weights: npt.NDArray[np.float64] = np.where(kept, weights, 0.0) / weights[kept].sum()
    return kept_weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [500, 3000, 128256])
def test_sampling(vocab: int, dtype: torch.dtype) -> None:
    """The token is one the cuts leave, and lies where the uniform number points; bfloat16 has many equals."""
    chunk = 1024 if INTERPRETED else 4096
    if INTERPRETED and vocab > 3000:
        pytest.skip("too slow interpreted")
    rows = len(CUTS)
    sampler = Sampler(vocab, rows, DEVICE, chunk)
    for _ in range(2 if INTERPRETED else 20):
        logits = (random(rows, vocab) * 3).to(dtype)
        uniform = torch.rand(rows, dtype=torch.float64, device=DEVICE)
        cuts = torch.tensor([[t, p, m, 0] for t, p, _, m in CUTS], device=DEVICE)
        top_k = torch.tensor([k or vocab for _, _, k, _ in CUTS], dtype=torch.int32, device=DEVICE)
        tokens = torch.full((rows,), -1, dtype=torch.int32, device=DEVICE)
        last = torch.full((rows + 1,), -1, dtype=torch.int32, device=DEVICE)
        slots = (torch.randperm(rows) + 1).int().to(DEVICE)
        sampler(logits, cuts, top_k, uniform, slots, last, tokens)
        assert last[0] == -1
        assert torch.equal(last[slots.long()], tokens)
        for row, cut in enumerate(CUTS):
            values, token, u = logits[row].float().cpu().numpy(), int(tokens[row]), float(uniform[row])
            if cut[0] == 0:
                assert token == int(values.argmax())
                continue
            left = shares(values, *cut)
            reached = np.cumsum(left)
            assert left[token] > 0 or near_the_cut(values, token, *cut), cut
            assert reached[token] - left[token] - 1e-5 <= u <= reached[token] + 1e-5, cut


def near_the_cut(logits: npt.NDArray[np.float32], token: int, *cut: float) -> bool:
    """Whether float32 sums may leave a token that float64 sums do not: top_p's limit is within rounding."""
    temperature, top_p, top_k, min_p = cut
    return bool(shares(logits, temperature, min(1.0, top_p + 1e-5), int(top_k), min_p - 1e-6)[token] > 0)
