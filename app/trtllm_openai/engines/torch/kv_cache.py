"""The KV cache: keys and values of all sequences in blocks of a fixed number of tokens.

Kwon et al., "PagedAttention" (https://arxiv.org/abs/2309.06180). Block 0 belongs to nobody: rows of
unequal length are padded with it.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from trtllm_openai.engines.torch.model_config import ModelConfig

NULL_BLOCK = 0


class KVCache:
    """One tensor a layer, [blocks, block_size, 2, kv_heads, head_dim], keys before values."""

    def __init__(
        self, config: ModelConfig, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Room for `blocks` blocks besides the null block."""
        shape = (blocks + 1, block_size, 2, config.kv_heads, config.head_dim)
        self.layers = [_zeros(shape, dtype, device) for _ in range(config.layers)]
        self.block_size = block_size

    def copy_out(self, blocks: list[int]) -> torch.Tensor:
        """The content of `blocks` in host memory: [layers, blocks, block_size, 2, kv_heads, head_dim]."""
        index = torch.tensor(blocks, device=self.layers[0].device)
        return torch.stack([layer[index].cpu() for layer in self.layers])

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None:
        """Write what `copy_out` gave into `blocks`."""
        index = torch.tensor(blocks, device=self.layers[0].device)
        for layer, values in zip(self.layers, content, strict=True):
            layer[index] = values.to(layer.device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """torch.zeros; but on a CPU of pages that the system gives, zeroed, when they are first written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    untouched = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)  # calloc; torch would write it all
    return torch.from_numpy(untouched).view(dtype).view(shape)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that one token takes in all layers."""
    return config.layers * 2 * config.kv_heads * config.head_dim * dtype.itemsize


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens` tokens."""
    return -(-tokens // block_size)
