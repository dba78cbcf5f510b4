"""The KV cache: its size, its copies in host memory, and pages that are taken only when written."""

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trtllm_openai.engines.torch.kv_cache import NULL_BLOCK, KVCache, blocks_for, bytes_per_token
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config

CPU = torch.device("cpu")


@pytest.fixture
def config(checkpoint: Callable[[str], Path]) -> ModelConfig:
    return read_config(checkpoint("llama"))  # 3 layers, 2 key-value heads of 16


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens, 16) == blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_is_as_calculated(config: ModelConfig, dtype: torch.dtype) -> None:
    cache = KVCache(config, 5, 8, dtype, CPU)
    assert [layer.shape for layer in cache.layers] == [(6, 8, 2, 2, 16)] * 3
    assert {layer.dtype for layer in cache.layers} == {dtype}
    assert all(not layer.any() for layer in cache.layers)  # padding reads the null block
    held = sum(layer.nbytes for layer in cache.layers)
    assert held == (5 + 1) * 8 * bytes_per_token(config, dtype)


def test_blocks_come_back_elsewhere_and_nothing_else_changes(config: ModelConfig) -> None:
    cache = KVCache(config, 6, 4, torch.bfloat16, CPU)
    for layer in cache.layers:
        layer.normal_()
    before = torch.stack(cache.layers)
    kept = cache.copy_out([5, 2])
    assert torch.equal(kept, before[:, [5, 2]])
    for layer in cache.layers:
        layer[[5, 2]] = -1.0  # somebody else uses them
    assert torch.equal(kept, before[:, [5, 2]])
    cache.copy_in([1, 6], kept)
    after = torch.stack(cache.layers)
    assert torch.equal(after[:, [1, 6]], before[:, [5, 2]])
    untouched = [NULL_BLOCK, 3, 4]
    assert torch.equal(after[:, untouched], before[:, untouched])


def test_memory_is_taken_as_blocks_are_written(config: ModelConfig) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    size = 1 << 30
    one_layer = dataclasses.replace(config, layers=1)
    blocks = size // (16 * bytes_per_token(one_layer, torch.float32))
    before = resident()
    cache = KVCache(one_layer, blocks, 16, torch.float32, CPU)
    assert cache.layers[0].nbytes >= size
    assert resident() - before < size // 8
