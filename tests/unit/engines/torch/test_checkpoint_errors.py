"""Checkpoints that cannot be served are refused in a sentence that says what is wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.engines.torch.conftest import make_engine
from trtllm_openai.engines.torch.model_config import read_config
from trtllm_openai.errors import CheckpointError


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    shutil.copytree(checkpoint("llama"), tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel; supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3",
        ),
        ({"architectures": []}, "unknown"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, r"\(gptq\) with bits: 8"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
    ],
)
def test_configuration(copy: Path, values: dict[str, Any], message: str) -> None:
    change(copy, **values)
    with pytest.raises(CheckpointError, match=message):
        make_engine(copy)


def test_a_lacking_key_is_named(copy: Path) -> None:
    path = copy / "config.json"
    config = json.loads(path.read_text())
    del config["num_hidden_layers"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        make_engine(copy)


def test_sliding_window_bounds_the_context(copy: Path) -> None:
    change(copy, sliding_window=96)
    assert read_config(copy).max_context == 96
    change(copy, use_sliding_window=False)
    assert read_config(copy).max_context == 1024


@pytest.mark.parametrize("what", ["missing", "shape", "surplus"])
def test_tensors(copy: Path, what: str) -> None:
    path = copy / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    if what == "missing":
        del tensors[name]
    elif what == "shape":
        tensors[name] = tensors[name][:, :5].contiguous()
    else:
        name = "model.layers.1.mlp.experts.0.weight"
        tensors[name] = torch.zeros(2)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=name):
        make_engine(copy)


def test_a_damaged_file(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        make_engine(copy)
