"""What the ranks of one model exchange on their GPUs within a step, over memory that all of them can write.

The memory is shared by CUDA IPC handles, as PyTorch makes them for its own multiprocessing; not by its
symmetric memory, which a process cannot set up a second time with new peers. Large sums, those of prefill, go
over NCCL.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from trtllm_openai.engines.torch.cuda.kernels.exchange import TILE, add_sum, gather
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.parallel import Ranks

ONE_SHOT_BYTES = 2**21
"""Of a rank's part of a sum: up to here every rank sends its part whole; above, NCCL is faster."""


class _Shared:
    """A buffer on every rank's GPU, and the addresses of all of them on this one's. A collective call."""

    def __init__(self, count: int, dtype: torch.dtype, ranks: Ranks, device: torch.device) -> None:
        self.own = torch.zeros(count, dtype=dtype, device=device)
        handles: list[tuple[object, ...]] = [()] * ranks.size
        dist.all_gather_object(handles, self.own.untyped_storage()._share_cuda_())
        self._mapped = []  # unmapped when they go
        addresses = []
        for rank, (_, *handle) in enumerate(handles):
            if rank == ranks.rank:
                addresses.append(self.own.data_ptr())
                continue
            # Opened with this rank's device as the current one, so that this one can reach it.
            storage = torch.UntypedStorage._new_shared_cuda(device.index, *handle)
            self._mapped.append(storage)
            addresses.append(storage.data_ptr())
        self.addresses = torch.tensor(addresses, dtype=torch.int64, device=device)


class Peers:
    """Sums and gathers over the ranks, in stream order; all ranks must call them in the same order."""

    def __init__(
        self, config: ModelConfig, ranks: Ranks, rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`config`: the whole model's. `rows`: most rows of a decode step. A collective call."""
        self.ranks = ranks
        width, self._vocabulary = config.hidden_size, config.vocab_size
        self._each = -(-config.vocab_size // ranks.size)
        self.rows = max(1, min(rows, ONE_SHOT_BYTES // (width * dtype.itemsize)))
        self._sums = _Shared(2 * ranks.size * self.rows * width, dtype, ranks, device)
        self._sum_flags = _Shared(ranks.size * self.rows, torch.int32, ranks, device)
        self._sum_counts = torch.zeros(self.rows, dtype=torch.int32, device=device)
        tiles = -(-self._each // TILE)
        self._logits = _Shared(rows * config.vocab_size, dtype, ranks, device)
        self._logit_flags = _Shared(ranks.size * rows * tiles, torch.int32, ranks, device)
        self._logit_counts = torch.zeros(rows * tiles, dtype=torch.int32, device=device)
        self.fault = torch.zeros(1, dtype=torch.int32, device=device)
        torch.cuda.synchronize(device)
        dist.barrier()  # nobody writes before all are zero

    def add(self, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """x + the ranks' parts [rows, hidden], in place; the same numbers on every rank."""
        if len(part) > self.rows:
            dist.all_reduce(part)
            return x.add_(part)
        self._sum(x, part, add=True)
        return x

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' parts [rows, hidden]."""
        if len(part) > self.rows:
            dist.all_reduce(part)
            return part
        out = torch.empty_like(part)
        self._sum(out, part, add=False)
        return out

    def _sum(self, x: torch.Tensor, part: torch.Tensor, *, add: bool) -> None:
        add_sum(
            x,
            part,
            self._sums.addresses,
            self._sum_flags.addresses,
            self._sum_counts,
            self.fault,
            self.ranks.rank,
            self.ranks.size,
            add,
        )

    def logits(self, part: torch.Tensor) -> torch.Tensor:
        """On rank 0 [rows, vocab_size] of every rank's columns, until the next call; elsewhere `part`."""
        gather(
            part,
            self._logits.addresses,
            self._logit_flags.addresses,
            self._logit_counts,
            self.fault,
            self.ranks.rank,
            self.ranks.size,
            self._each,
            self._vocabulary,
        )
        if self.ranks.rank:
            return part
        return self._logits.own[: len(part) * self._vocabulary].view(len(part), self._vocabulary)

    def scores(self, part: torch.Tensor) -> torch.Tensor:
        """The same for the rows of a prompt, any number of them and as often as wanted."""
        return self.ranks.join(part, self._vocabulary)
