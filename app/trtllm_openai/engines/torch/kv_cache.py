"""The paged KV cache: keys and values of all sequences in blocks of a fixed number of tokens.

Kwon et al., "PagedAttention" (https://arxiv.org/abs/2309.06180). Block 0 is the null block, never allocated
to a sequence; it pads block tables of unequal length.

In fp8 (e4m3) keys and values are rounded when they are stored, without a scale, and widened when they are
read. A step's own rows are rounded too, as a prompt's first tile attends to them without reading them back:
so a token's keys and values are the same however steps and the prefix cache cut its prompt.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.errors import ConfigError

NULL_BLOCK = 0
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Larger keys and values are stored as this: e4m3 has no infinity, and a conversion would make them NaN."""
FP8_CAPABILITY = (8, 9)
"""The least compute capability of GPUs that convert it."""


class KVCache:
    """One tensor per layer, [blocks, block_size, 2, kv_heads, head_dim], keys before values.

    `dtype`: that of the model, or `FP8`.
    """

    def __init__(
        self, config: ModelConfig, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate `blocks` blocks plus the null block."""
        shape = (blocks + 1, block_size, 2, config.kv_heads, config.head_dim)
        self.layers = [_zeros(shape, dtype, device) for _ in range(config.layers)]
        self.block_size = block_size

    def copy_out(self, blocks: list[int]) -> torch.Tensor:
        """Copy `blocks` to host memory: [layers, blocks, block_size, 2, kv_heads, head_dim]."""
        index = torch.tensor(blocks, device=self.layers[0].device)
        return torch.stack([_movable(layer)[index].cpu() for layer in self.layers])

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None:
        """Restore the `content` of a `copy_out` into `blocks`."""
        index = torch.tensor(blocks, device=self.layers[0].device)
        for layer, values in zip(self.layers, content, strict=True):
            _movable(layer)[index] = values.to(layer.device)


def store(layer: torch.Tensor, slots: torch.Tensor, kv: torch.Tensor) -> None:
    """Write keys and values [rows, 2, kv_heads, head_dim] to the `slots` [rows] of a layer's cache.

    In fp8, `kv` is rounded in place too.
    """
    rows = _movable(layer).flatten(0, 1)
    if layer.dtype == kv.dtype:
        rows.index_copy_(0, slots, kv)
        return
    narrow = kv.clamp(-FP8_MAX, FP8_MAX).to(layer.dtype)
    rows.index_copy_(0, slots, narrow.view(torch.uint8))
    kv.copy_(narrow)


def read(layer: torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The `blocks` of a layer's cache [len(blocks), block_size, 2, kv_heads, head_dim], as `dtype`."""
    found = _movable(layer).index_select(0, blocks)
    return found if layer.dtype == dtype else found.view(layer.dtype).to(dtype)


def _movable(layer: torch.Tensor) -> torch.Tensor:
    """The cache as bytes in fp8, for which PyTorch does not have all operations."""
    return layer.view(torch.uint8) if layer.dtype == FP8 else layer


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Like torch.zeros, but on a CPU the OS allocates the zeroed pages lazily, on first write."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    untouched = np.zeros(
        math.prod(shape) * dtype.itemsize, np.uint8
    )  # calloc; torch.zeros touches every page
    return torch.from_numpy(untouched).view(dtype).view(shape)


def choose_kv_dtype(wanted: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the type of the KV cache, by default the model's. Raises `ConfigError` if the GPU lacks it."""
    if wanted == "auto":
        return dtype
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise ConfigError(
            "torch.kv_cache_dtype: fp8 needs an Ada, Hopper or newer GPU (compute capability 8.9); use auto"
        )
    return FP8


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of KV cache per token, over all layers."""
    return config.layers * 2 * config.kv_heads * config.head_dim * dtype.itemsize


def blocks_for(tokens: int, block_size: int) -> int:
    """Number of blocks needed for `tokens` tokens."""
    return -(-tokens // block_size)
