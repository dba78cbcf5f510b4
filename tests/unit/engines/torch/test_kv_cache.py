"""The KV cache: its size, its copies in host memory, and pages that are taken only when written."""

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trtllm_openai.config import TorchSettings
from trtllm_openai.engines.torch import loader
from trtllm_openai.engines.torch.kv_cache import (
    FP8,
    NULL_BLOCK,
    KVCache,
    blocks_for,
    bytes_per_token,
    choose_kv_dtype,
    read,
    store,
)
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def config(checkpoint: Callable[[str], Path]) -> ModelConfig:
    return read_config(checkpoint("llama"))  # 3 layers, 2 key-value heads of 16


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens, 16) == blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FP8])
def test_size_is_as_calculated(config: ModelConfig, dtype: torch.dtype) -> None:
    cache = KVCache(config, 5, 8, dtype, CPU)
    assert [layer.shape for layer in cache.layers] == [(6, 8, 2, 2, 16)] * 3
    assert {layer.dtype for layer in cache.layers} == {dtype}
    assert all(not layer.float().any() for layer in cache.layers)  # padding reads the null block
    held = sum(layer.nbytes for layer in cache.layers)
    assert held == (5 + 1) * 8 * bytes_per_token(config, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, FP8])
def test_blocks_come_back_elsewhere_and_nothing_else_changes(config: ModelConfig, dtype: torch.dtype) -> None:
    cache = KVCache(config, 6, 4, dtype, CPU)
    for layer in cache.layers:
        layer.copy_(torch.randn(layer.shape))
    before = torch.stack(cache.layers).float()
    kept = cache.copy_out([5, 2])
    for layer in cache.layers:
        layer[[5, 2]] = torch.tensor(-1.0).to(dtype)  # somebody else uses them
    assert torch.equal(kept.view(dtype).float(), before[:, [5, 2]])
    cache.copy_in([1, 6], kept)
    after = torch.stack(cache.layers).float()
    assert torch.equal(after[:, [1, 6]], before[:, [5, 2]])
    untouched = [NULL_BLOCK, 3, 4]
    assert torch.equal(after[:, untouched], before[:, untouched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_in_fp8_is_rounded_once(config: ModelConfig, dtype: torch.dtype) -> None:
    layer = KVCache(config, 3, 4, FP8, CPU).layers[0]
    rows = torch.randn(5, 8, 16).to(dtype)  # 4 query heads, then keys and values of 2
    rows[1, 4, :4] = torch.tensor([1e4, -1e4, 449, float("nan")])
    before = rows.clone()
    slots = torch.tensor([4, 15, 7, 8, 9])
    store(layer, slots, rows[:, 4:].view(5, 2, 2, 16))
    assert rows[1, 4, :3].tolist() == [448, -448, 448]
    assert rows[1, 4, 3].isnan()
    rounded = before[:, 4:].clamp(-448, 448).to(FP8).to(dtype)
    assert torch.equal(rows[:, :4], before[:, :4])
    assert torch.equal(rows[:, 4:].nan_to_num(7.0), rounded.nan_to_num(7.0)), "prompts attend to these"
    assert (rows[:, 4:] / before[:, 4:] - 1)[2:].abs().median() < 0.04
    found = read(layer, torch.tensor([3, 1, 2]), dtype)
    assert found.dtype == dtype
    assert torch.equal(
        found.flatten(0, 1)[[4, 3, 7, 8, 9]].flatten(1, 2).nan_to_num(7.0), rounded.nan_to_num(7.0)
    )
    assert not layer[NULL_BLOCK].float().any()


def test_fp8_has_room_for_more_tokens_in_the_same_memory(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "free_bytes", lambda *_: 1 << 20)
    blocks = {}
    for kind in ("auto", "fp8"):
        settings = TorchSettings(device="cpu", dtype="bfloat16", kv_cache_dtype=kind, max_seq_len=200)
        engine = loader.load(checkpoint("llama"), settings, lambda *_: None)
        blocks[kind] = engine.info.kv_blocks
        assert engine.info.dtype == "bfloat16"
        engine.shutdown(1)
    assert 0 <= blocks["fp8"] - 2 * blocks["auto"] <= 1


@pytest.mark.parametrize(("capability", "possible"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_is_refused_by_gpus_without_it(
    capability: tuple[int, int], possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    gpu = torch.device("cuda")
    assert choose_kv_dtype("auto", torch.bfloat16, gpu) == torch.bfloat16
    if possible:
        assert choose_kv_dtype("fp8", torch.bfloat16, gpu) == FP8
    else:
        with pytest.raises(ConfigError, match=r"torch\.kv_cache_dtype: fp8 needs .* use auto"):
            choose_kv_dtype("fp8", torch.bfloat16, gpu)


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
