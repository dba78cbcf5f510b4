"""Tensor parallelism: one process a rank, each with its part of every layer and of the KV cache.

The runner is rank 0. It starts the other ranks as its children, chooses every step, tells them what to
compute and alone sees the logits. A rank holds a part of the heads and of the MLP (columns of what reads the
residual stream, rows of what writes it) and of the vocabulary, and sums over the ranks join the parts:
Shoeybi et al., "Megatron-LM" (https://arxiv.org/abs/1909.08053).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.distributed as dist

from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among those that share a model. With a size of 1 nothing is communicated."""

    rank: int = 0
    size: int = 1

    def part(self, total: int) -> slice:
        """What this rank has of `total` things; the last ranks may have fewer."""
        each = -(-total // self.size)
        return slice(min(self.rank * each, total), min((self.rank + 1) * each, total))

    def heads(self, total: int) -> slice:
        """What this rank has of `total` heads; where there are fewer heads than ranks, some ranks share."""
        if total >= self.size:
            return self.part(total)
        first = self.rank * total // self.size
        return slice(first, first + 1)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """`x` summed over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def join(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """[rows, width] from every rank's part of the columns."""
        if self.size == 1:
            return x
        each = -(-width // self.size)
        mine = x if x.shape[1] == each else torch.nn.functional.pad(x, (0, each - x.shape[1]))
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts, 1)[:, :width]

    def least(self, number: int, device: torch.device) -> int:
        """The smallest `number` that any rank has."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)


ALONE = Ranks()


def shard(config: ModelConfig, ranks: Ranks) -> ModelConfig:
    """The sizes that one rank computes with. Raises `ConfigError` when the model cannot be cut so."""
    size = ranks.size
    if size == 1:
        return config
    key = f"torch.tensor_parallel_size: {size} ranks"
    if config.heads % size or config.intermediate_size % size:
        raise ConfigError(
            f"{key} cannot share {config.heads} heads and an MLP of {config.intermediate_size} evenly"
        )
    if max(size, config.kv_heads) % min(size, config.kv_heads):
        raise ConfigError(f"{key} cannot share {config.kv_heads} key-value heads evenly")
    return dataclasses.replace(
        config,
        heads=config.heads // size,
        kv_heads=max(1, config.kv_heads // size),
        intermediate_size=config.intermediate_size // size,
    )
