"""Tensor parallelism: one process per rank, each with a shard of every layer and of the KV cache.

The runner is rank 0. It starts the other ranks as child processes, schedules every step, sends it to them and
samples from the logits. Attention heads, MLP and vocabulary are sharded: layers that read the residual stream
are column-parallel, layers that write it are row-parallel and followed by an all-reduce. Shoeybi et al.,
"Megatron-LM" (https://arxiv.org/abs/1909.08053).
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
    """This process's rank and the number of ranks. With `size` 1, collectives are no-ops."""

    rank: int = 0
    size: int = 1

    def part(self, total: int) -> slice:
        """This rank's slice of `total` items; the last ranks may have fewer."""
        each = -(-total // self.size)
        return slice(min(self.rank * each, total), min((self.rank + 1) * each, total))

    def heads(self, total: int) -> slice:
        """This rank's slice of `total` heads; with fewer heads than ranks, heads are replicated."""
        if total >= self.size:
            return self.part(total)
        first = self.rank * total // self.size
        return slice(first, first + 1)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """All-reduce `x` in place (sum)."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def join(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """All-gather the ranks' columns `x` into [rows, width]."""
        if self.size == 1:
            return x
        each = -(-width // self.size)
        mine = x if x.shape[1] == each else torch.nn.functional.pad(x, (0, each - x.shape[1]))
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts, 1)[:, :width]

    def least(self, number: int, device: torch.device) -> int:
        """All-reduce `number` (minimum)."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)


ALONE = Ranks()


def shard(config: ModelConfig, ranks: Ranks) -> ModelConfig:
    """Return the sizes of one rank's shard. Raises `ConfigError` if the model cannot be split evenly."""
    size = ranks.size
    if size == 1:
        return config
    key = f"torch.tensor_parallel_size: {size} ranks"
    if config.heads % size or config.intermediate_size % size:
        raise ConfigError(
            f"{key} cannot evenly split {config.heads} heads and an MLP of size {config.intermediate_size}"
        )
    if max(size, config.kv_heads) % min(size, config.kv_heads):
        raise ConfigError(f"{key} cannot evenly split {config.kv_heads} key-value heads")
    return dataclasses.replace(
        config,
        heads=config.heads // size,
        kv_heads=max(1, config.kv_heads // size),
        intermediate_size=config.intermediate_size // size,
    )
