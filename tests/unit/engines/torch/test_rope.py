"""Rotary position embedding against transformers, and its defining property."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.engines.torch.rope import apply_rope, rope_tables

CPU = torch.device("cpu")
POSITIONS = 700


def rotated(config: ModelConfig, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    cos, sin = rope_tables(config, POSITIONS, torch.float32, CPU)
    out = x.clone()
    apply_rope(out, cos[positions], sin[positions])
    return out


@pytest.mark.parametrize("name", ["llama", "llama-3.1", "llama-linear-biased"])
def test_it_rotates_as_transformers_does(checkpoint: Callable[[str], Path], name: str) -> None:
    """No scaling, Llama 3.1's and linear; positions beyond the original context of the second (64)."""
    directory = checkpoint(name)
    config = read_config(directory)
    positions = torch.tensor([0, 1, 2, 63, 64, 65, 300, POSITIONS - 1])
    torch.manual_seed(1)
    x = torch.randn(len(positions), 3, config.head_dim)
    reference = LlamaRotaryEmbedding(transformers.AutoConfig.from_pretrained(directory))
    cos, sin = reference(x, positions[None])
    expected, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(rotated(config, x, positions), expected[0].transpose(0, 1), rtol=0, atol=1e-5)


def test_products_depend_on_the_distance_alone(checkpoint: Callable[[str], Path]) -> None:
    config = read_config(checkpoint("llama-3.1"))
    torch.manual_seed(2)
    query, key = torch.randn(2, 1, 1, config.head_dim)

    def product(at: int, other: int) -> torch.Tensor:
        return (
            rotated(config, query, torch.tensor([at])) * rotated(config, key, torch.tensor([other]))
        ).sum()

    for distance in (0, 1, 40):
        expected = product(distance, 0)
        for other in (1, 100, 600):
            torch.testing.assert_close(product(other + distance, other), expected, rtol=0, atol=1e-3)
    assert abs(product(40, 0) - product(0, 0)) > 1e-2  # it does depend on it


def test_the_first_position_is_left_as_it_is(checkpoint: Callable[[str], Path]) -> None:
    config = read_config(checkpoint("llama"))
    x = torch.randn(1, 2, config.head_dim)
    assert torch.equal(rotated(config, x, torch.tensor([0])), x)
