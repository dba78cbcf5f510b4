"""The demo converted to a Hugging Face directory."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trtllm_openai.checkpoints.convert import unpermute
from trtllm_openai.text.tokenizer import Tokenizer


def test_demo_is_a_model_that_transformers_loads_and_that_knows_paris(
    demo_dir: Path, demo_tokenizer: Tokenizer
) -> None:
    model = AutoModelForCausalLM.from_pretrained(demo_dir, dtype=torch.float32)
    ids = demo_tokenizer.encode("The capital of France is", add_special_tokens=True)
    out = model.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False)[0, len(ids) :]
    assert demo_tokenizer.decode(out.tolist()).startswith(" Paris")
    config = json.loads((demo_dir / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert (config["num_hidden_layers"], config["rope_theta"]) == (30, 100000.0)


def test_weights_on_disk_are_those_of_the_config(demo_dir: Path) -> None:
    tensors = load_file(demo_dir / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == (49152, 576)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert len(tensors) == 2 + 9 * 30


def test_unpermute_undoes_llama_cpps_permutation() -> None:
    heads, dim = 3, 8
    weight = np.random.default_rng(1).normal(size=(heads * dim, 5)).astype(np.float32)
    permuted = weight.reshape(heads, 2, dim // 2, 5).swapaxes(1, 2).reshape(weight.shape)
    assert (unpermute(permuted, heads) == weight).all()
