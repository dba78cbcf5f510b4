"""4-bit and FP8 weights on a GPU: kernels against float64 references, engines against expanded twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from tests.gpu.test_kernels import EPS, INTERPRETED, TOLERANCE, error, random, rms_norm
from tests.unit.engines.torch.conftest import SIZES, make_checkpoint, make_engine, request, run
from tests.unit.engines.torch.quantized.formats import KINDS, quantize_checkpoint
from trtllm_openai.engines.torch.cuda.kernels.int4_product import Int4Tile, expand, int4_product
from trtllm_openai.engines.torch.cuda.kernels.splits import counters
from trtllm_openai.engines.torch.cuda.projection import MOST_INT4_ROWS, Projection
from trtllm_openai.engines.torch.engine import TorchEngine
from trtllm_openai.engines.torch.quantized.packed import Int4Weight, pack_int4

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float16, torch.float32 if INTERPRETED else torch.bfloat16]
"""Triton's interpreter multiplies no bfloat16."""
SHAPES = [(104, 3, 32), (96, 4, 32), (40, 5, 64), (136, 1, 128), (72, 6, 128)]
"""Outputs, groups, inputs of a group."""


def weight(outputs: int, groups: int, group: int) -> Int4Weight:
    codes = torch.randint(16, (outputs, groups * group), dtype=torch.uint8, device=DEVICE)
    zeros = torch.randint(16, (groups, outputs), dtype=torch.uint8, device=DEVICE)
    return pack_int4(codes, (torch.rand(groups, outputs, device=DEVICE) / 40 + 0.01).half(), zeros)


def tolerance(dtype: torch.dtype) -> float:
    return TOLERANCE[torch.float32 if dtype == torch.float32 else torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 17, 64, 70])
@pytest.mark.parametrize(("outputs", "groups", "group"), SHAPES)
def test_int4_product(outputs: int, groups: int, group: int, rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(outputs + rows)
    given = weight(outputs, groups, group)
    inputs = groups * group
    x, bias = random(rows, inputs, dtype=dtype), random(outputs, dtype=dtype)
    addend, limit = random(rows, outputs, dtype=dtype), tolerance(dtype)
    exact = given.dense(torch.float64)
    plain = x.double() @ exact.T
    gate, up = (plain / 8 + bias.double()).chunk(2, -1)
    arrived = counters(given.packed)
    for splits in (1, 3):
        tile = Int4Tile(32, 4, 2, min(splits, inputs // given.span))
        for _ in range(2):  # the second finds what the first left in the counters
            assert error(int4_product(x, given, arrived, tile=tile), plain) < limit
            assert not arrived.any()
        got = int4_product(x, given, arrived, addend=addend, tile=tile)
        assert error(got, plain + addend.double()) < limit
        assert error(int4_product(x, given, arrived, bias=bias, tile=tile), plain + bias.double()) < limit
        got = int4_product(x / 8, given, arrived, bias=bias, swiglu=True, tile=tile)
        assert error(got, F.silu(gate) * up) < 2 * limit
    assert error(int4_product(x, given, arrived), plain) < limit


@pytest.mark.parametrize(("outputs", "groups", "group"), SHAPES)
def test_expand(outputs: int, groups: int, group: int) -> None:
    given = weight(outputs, groups, group)
    assert torch.equal(expand(given, torch.float16), given.dense(torch.float16))
    assert torch.equal(expand(given, torch.float32), given.dense(torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [2, 65, MOST_INT4_ROWS + 1])
def test_projection(rows: int, dtype: torch.dtype) -> None:
    """The same numbers from tiles and from expanded weights."""
    given, bias = weight(96, 2, 64), random(96, dtype=dtype)
    projection, limit = Projection(given, bias, dtype, fp8=False), tolerance(dtype)
    assert projection.own_kernel(rows) == (rows <= MOST_INT4_ROWS)
    x, gain, exact = random(rows, 128, dtype=dtype), random(128, dtype=dtype), given.dense(torch.float64).T
    assert error(projection(x), x.double() @ exact + bias.double()) < limit
    normed = rms_norm(x.double(), gain) @ exact + bias.double()
    assert error(projection.after_norm(x, None, gain, EPS), normed) < 2 * limit
    one = projection.one(x[:1], norm=(gain, EPS))
    assert error(one, normed[:1]) < 2 * limit
    halves = random(rows, 256, dtype=dtype)
    gate, up = halves.double().chunk(2, -1)
    assert error(projection.after_swiglu(halves), F.silu(gate) * up @ exact + bias.double()) < 2 * limit


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="loads an engine on a GPU")
PROMPT = [(i * 17) % 300 + 3 for i in range(90)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    return make_checkpoint(transformers.LlamaConfig(**sizes), tmp_path_factory.mktemp("source"))


def scores(engine: TorchEngine, prompt: list[int]) -> torch.Tensor:
    """Log-probabilities of a prompt's tokens."""
    output = run(engine, request("a", prompt, max_tokens=1, prompt_logprobs=0))["a"]
    assert output.prompt_logprobs is not None
    return torch.tensor([one.logprob for one in output.prompt_logprobs if one is not None])


def check(directory: Path, twin: Path, limit: float, **settings: Any) -> None:
    """Prompts score as with the twin; decoding, by kernels for one row, scores its tokens as a prompt."""
    engines = [
        make_engine(
            one, device="cuda", dtype="bfloat16", max_seq_len=256, enable_prefix_caching=False, **more
        )
        for one, more in ((directory, settings), (twin, {}))
    ]
    try:
        ours, expected = (scores(engine, PROMPT) for engine in engines)
        assert (ours - expected).abs().mean() < limit
        output = run(engines[0], request("b", PROMPT, max_tokens=12, ignore_eos=True, logprobs=0))["b"]
        assert output.logprobs is not None
        decoded = torch.tensor([one.logprob for one in output.logprobs])
        again = scores(engines[0], PROMPT + output.token_ids)[-12:]
        assert (decoded - again).abs().mean() < limit
    finally:
        for engine in engines:
            engine.shutdown(10)


@needs_gpu
@pytest.mark.parametrize("name", KINDS)
def test_an_engine_is_close_to_the_twin(name: str, source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "quantized", tmp_path / "twin", KINDS[name])
    check(tmp_path / "quantized", tmp_path / "twin", 0.1 if "fp8" in name or name == "modelopt" else 0.05)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", ["awq", "compressed-tensors fp8 dynamic"])
def test_two_ranks(name: str, source: Path, tmp_path: Path) -> None:
    quantize_checkpoint(source, tmp_path / "quantized", tmp_path / "twin", KINDS[name])
    check(tmp_path / "quantized", tmp_path / "twin", 0.1, tensor_parallel_size=2)
