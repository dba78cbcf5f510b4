"""The paged KV cache: keys and values of all sequences in blocks of a fixed number of tokens.

Kwon et al., "PagedAttention" (https://arxiv.org/abs/2309.06180). Block 0 is the null block, never allocated
to a sequence; it pads block tables of unequal length.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from trtllm_openai.engines.torch.model_config import ModelConfig

NULL_BLOCK = 0


class KVCache:
    """One tensor per layer, [blocks, block_size, 2, kv_heads, head_dim], keys before values."""

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
        return torch.stack([layer[index].cpu() for layer in self.layers])

    def copy_in(self, blocks: list[int], content: torch.Tensor) -> None:
        """Restore the `content` of a `copy_out` into `blocks`."""
        index = torch.tensor(blocks, device=self.layers[0].device)
        for layer, values in zip(self.layers, content, strict=True):
            layer[index] = values.to(layer.device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Like torch.zeros, but on a CPU the OS allocates the zeroed pages lazily, on first write."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    untouched = np.zeros(
        math.prod(shape) * dtype.itemsize, np.uint8
    )  # calloc; torch.zeros touches every page
    return torch.from_numpy(untouched).view(dtype).view(shape)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of KV cache per token, over all layers."""
    return config.layers * 2 * config.kv_heads * config.head_dim * dtype.itemsize


def blocks_for(tokens: int, block_size: int) -> int:
    """Number of blocks needed for `tokens` tokens."""
    return -(-tokens // block_size)
