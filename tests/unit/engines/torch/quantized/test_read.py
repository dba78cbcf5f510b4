"""Quantized checkpoints of every format: the engine on a CPU gives the tokens of their expanded twins."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.unit.engines.torch.conftest import SIZES, make_checkpoint, make_engine, request, run
from tests.unit.engines.torch.quantized.formats import KINDS, quantize_checkpoint
from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.engines.torch.quantized.packed import Int4Weight
from trtllm_openai.engines.torch.weight_source import ParallelWeights, RandomWeights
from trtllm_openai.engines.torch.weights import Weights
from trtllm_openai.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")
LAYER = "model.layers.1.mlp.down_proj"
PROMPT = [(i * 17) % 300 + 3 for i in range(70)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes with an odd and an even number of groups, and one that two ranks can share."""
    sizes = {**SIZES, "hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, attention_bias=True)
    return make_checkpoint(config, tmp_path_factory.mktemp("source"))


Made = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def made(source: Path, tmp_path: Path) -> Made:
    def make(name: str) -> tuple[Path, Path]:
        quantized, twin = tmp_path / "quantized", tmp_path / "twin"
        quantize_checkpoint(source, quantized, twin, KINDS[name])
        return quantized, twin

    return make


def answer(directory: Path, **settings: Any) -> Any:
    engine = make_engine(directory, max_seq_len=256, max_batch_size=4, **settings)
    try:
        return run(engine, request("a", PROMPT, max_tokens=12, ignore_eos=True, logprobs=3))["a"]
    finally:
        engine.shutdown(10)


QUICK = ("awq", "gptq asymmetric", "modelopt")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in KINDS]
)
def test_the_tokens_of_the_twin(made: Made, name: str, caplog: pytest.LogCaptureFixture) -> None:
    quantized, twin = made(name)
    with caplog.at_level(logging.INFO):
        assert answer(quantized) == answer(twin)
    assert [one.message for one in caplog.records if "expanded" in one.message] == [
        f"the weights are expanded to torch.float32 on a CPU: {read_config(quantized).weight_format}"
    ]


@pytest.mark.parametrize("name", KINDS)
def test_every_source_reads_every_part(made: Made, name: str) -> None:
    """A part of a layer is that part of the whole, read at once or by threads."""
    quantized, twin = made(name)
    expected = load_file(twin / "model.safetensors")[f"{LAYER}.weight"]
    given = read_config(quantized).weight_format
    parts = [(slice(None), 0), (slice(40, 88), 0)]
    if "one group" not in name and "channel" not in name:
        parts.append((slice(64, 128), 1))
    for kind in (Weights, ParallelWeights):
        for part, axis in parts:
            subject = kind(quantized, torch.bfloat16, CPU, weight_format=given)
            got = subject.linear(LAYER, 128, 192, part=part, axis=axis)
            assert not isinstance(got, torch.Tensor)
            wanted = expected[part] if axis == 0 else expected[:, part]
            assert torch.equal(got.dense(torch.float32), wanted)
            if isinstance(got, Int4Weight):
                assert got.packed.nbytes * 2 == wanted.numel()


def test_layers_that_are_left_out_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    quantized, twin = tmp_path / "quantized", tmp_path / "twin"
    quantize_checkpoint(source, quantized, twin, KINDS["awq"], keep=("layers.0.mlp", "1.self_attn.q_proj"))
    assert answer(quantized) == answer(twin)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compressed-tensors int4", "compressed-tensors fp8 static"])
def test_two_ranks(made: Made, name: str) -> None:
    quantized, twin = made(name)
    assert answer(quantized, tensor_parallel_size=2).token_ids == answer(twin).token_ids


def test_two_ranks_cannot_share_a_group(made: Made) -> None:
    """The inner size of 192 in groups of 64: each rank would have one and a half."""
    quantized, _ = made("gptq")
    given = read_config(quantized).weight_format
    subject = Weights(quantized, torch.float32, CPU, weight_format=given)
    with pytest.raises(
        CheckpointError, match=r"tensor_parallel_size would cut a group of 64 inputs of .*down"
    ):
        subject.linear(LAYER, 128, 192, part=slice(0, 96), axis=1)


def test_a_setting_cannot_quantize_again(made: Made) -> None:
    quantized, _ = made("awq")
    with pytest.raises(ConfigError, match=r"torch\.quantization: fp8 cannot quantize .* \(awq\); use none"):
        make_engine(quantized, quantization="fp8")


DAMAGES: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], object], str]] = {
    "inputs out of order": (
        "gptq",
        lambda tensors: tensors[f"{LAYER}.g_idx"].copy_(tensors[f"{LAYER}.g_idx"].flip(0)),
        r"down_proj\.g_idx assigns inputs to groups out of order \(desc_act\)",
    ),
    "no zero points": ("awq", lambda tensors: tensors.pop(f"{LAYER}.qzeros"), r"lacks .*down_proj\.qzeros"),
    "another tool's tensor": (
        "awq",
        lambda tensors: tensors.update({f"{LAYER}.pre_quant_scale": torch.ones(192)}),
        r"does not use: .*down_proj\.pre_quant_scale",
    ),
    "no scale": (
        "modelopt",
        lambda tensors: tensors.pop(f"{LAYER}.weight_scale"),
        r"down_proj\.weight is torch\.float8_e4m3fn, and has no scales",
    ),
    "scales of blocks": (
        "compressed-tensors fp8 dynamic",
        lambda tensors: tensors.update({f"{LAYER}.weight_scale": torch.ones(2, 2)}),
        r"down_proj\.weight_scale has the shape \[2, 2\]; supported: one scale, or one for each of 128",
    ),
    "another type": (
        "modelopt",
        lambda tensors: tensors.update({f"{LAYER}.weight": torch.ones(128, 192).to(torch.float8_e5m2)}),
        r"down_proj\.weight is torch\.float8_e5m2, but FP8 is float8_e4m3fn",
    ),
    "another shape": (
        "compressed-tensors int4",
        lambda tensors: tensors.update({f"{LAYER}.weight_shape": torch.tensor([128, 190])}),
        r"down_proj\.weight_shape says \[128, 190\], but config\.json \[128, 192\]",
    ),
    "other words": (
        "awq",
        lambda tensors: tensors.update({f"{LAYER}.qweight": tensors[f"{LAYER}.qweight"].short()}),
        r"Packed 4-bit weights are torch\.int16; supported: int32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tensors_are_named(made: Made, damage: str) -> None:
    name, change, message = DAMAGES[damage]
    quantized, _ = made(name)
    tensors = load_file(quantized / "model.safetensors")
    change(tensors)
    save_file(tensors, quantized / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        make_engine(quantized)


def test_a_size_without_whole_groups_is_named(made: Made) -> None:
    quantized, _ = made("awq")
    path = quantized / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["group_size"] = 128
    path.write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"down_proj of 192 inputs and 128 outputs has no 4-bit weights in gr"
    ):
        Weights(quantized, torch.float32, CPU, weight_format=read_config(quantized).weight_format).linear(
            LAYER, 128, 192
        )


@pytest.mark.parametrize("name", ["awq", "modelopt"])
def test_made_up_weights_have_the_format(made: Made, name: str) -> None:
    quantized, _ = made(name)
    given = read_config(quantized).weight_format
    one = RandomWeights(torch.float32, CPU, given).linear(LAYER, 128, 192, part=slice(0, 64), axis=1)
    assert not isinstance(one, torch.Tensor)
    assert one.dense(torch.float32).shape == (128, 64)
    (quantized / "model.safetensors").unlink()
    settings = TorchSettings(load_format="dummy")
    assert len(answer(quantized, load_format=settings.load_format).token_ids) == 12
