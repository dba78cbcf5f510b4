"""GPU-to-GPU collectives of the ranks within a step, over memory that all ranks can write.

The memory is shared through CUDA IPC handles, as in torch.multiprocessing, and not through PyTorch's
symmetric memory, which a process cannot set up a second time with new peers. Large all-reduces (prefill) use
NCCL, and so does everything between GPUs that cannot access each other's memory.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from trtllm_openai.engines.torch.cuda.graphs import MOST_PADDED
from trtllm_openai.engines.torch.cuda.kernels.exchange import Norm, add_sum
from trtllm_openai.engines.torch.cuda.kernels.gather import TILE, gather
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm, add_rms_norm_fp8
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.parallel import Ranks

ONE_SHOT_BYTES = {2: 2**24}
"""Maximum size of a one-shot all-reduce, by number of ranks. Ranks send whole parts, to all others: for two
that is the least that can be sent."""
ONE_SHOT_BYTES_OF_MORE = 2**21
"""The same for more ranks: beyond it NCCL sends less."""
TAGGED_BYTES = 2**19
"""Up to this size, tagged values, which take twice the bytes, are faster than flags."""

COUNTER_FILE = 4
"""Place of its name in what `_share_cuda_` returns, before the place of the counter in it."""
UNCOUNTED = b"/torch-uncounted"
"""Name of a file of counters that does not exist, for PyTorch."""


class _Shared:
    """A buffer on every rank's GPU, and the addresses of all of them on this GPU. A collective call.

    PyTorch counts a buffer's readers in a file of its owner, and keeps the buffer until they have released
    it, which a process that is killed does not do. Here the owner releases the one reader that PyTorch
    assumes, so that it alone decides, and the readers do not count: a release beyond zero would underflow,
    the owner would keep the buffer, and crash on it in its static destructors.
    """

    def __init__(self, count: int, dtype: torch.dtype, ranks: Ranks, device: torch.device) -> None:
        self.own = torch.zeros(count, dtype=dtype, device=device)
        handles: list[tuple[object, ...]] = [()] * ranks.size
        dist.all_gather_object(handles, self.own.untyped_storage()._share_cuda_())
        self._mapped = []  # keeps the peers' memory mapped
        addresses = []
        for rank, (_, *handle) in enumerate(handles):
            if rank == ranks.rank:
                addresses.append(self.own.data_ptr())
                continue
            handle[COUNTER_FILE - 1] = UNCOUNTED
            # Opened on this rank's device, so that this GPU can access it.
            storage = torch.UntypedStorage._new_shared_cuda(device.index, *handle)
            self._mapped.append(storage)
            addresses.append(storage.data_ptr())
        self.addresses = torch.tensor(addresses, dtype=torch.int64, device=device)
        dist.barrier(device_ids=[device.index or 0])
        counter = handles[ranks.rank][COUNTER_FILE : COUNTER_FILE + 2]
        torch.UntypedStorage._release_ipc_counter_cuda(*counter)

    def unmap(self) -> None:
        """Close the peers' memory."""
        self._mapped.clear()

    def free(self) -> None:
        """Free this rank's buffer."""
        del self.own


class _Sums:
    """Memory of one-shot all-reduces of up to `rows` rows; `tagged`: the protocol, see `kernels.exchange`."""

    def __init__(
        self, rows: int, width: int, dtype: torch.dtype, tagged: bool, ranks: Ranks, device: torch.device
    ) -> None:
        self.rows = rows
        count = 2 * ranks.size * rows
        self.buffers = _Shared(count * width, torch.int32 if tagged else dtype, ranks, device)
        self.flags = None if tagged else _Shared(count // 2, torch.int32, ranks, device)
        self.counts = torch.zeros(rows, dtype=torch.int32, device=device)

    def shared(self) -> list[_Shared]:
        return [self.buffers] if self.flags is None else [self.buffers, self.flags]


class Peers:
    """All-reduce and gather in stream order. All ranks must call them in the same order."""

    def __init__(
        self,
        config: ModelConfig,
        ranks: Ranks,
        rows: int,
        dtype: torch.dtype,
        device: torch.device,
        direct: bool = True,
    ) -> None:
        """`config`: of the whole model. `rows`: maximum rows of a decode step. A collective call.

        `direct`: whether the GPUs can access each other's memory.
        """
        self.ranks = ranks
        self.fault = torch.zeros(1, dtype=torch.int32, device=device)
        self._vocabulary = config.vocab_size
        self._direct = direct
        self._shared: list[_Shared] = []
        self.rows = 0
        """Maximum rows of a one-shot all-reduce."""
        if direct:
            self._share(config.hidden_size, rows, dtype, device)
        torch.cuda.synchronize(device)
        dist.barrier(device_ids=[device.index or 0])  # nobody writes before all are zero

    def _share(self, width: int, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        ranks = self.ranks
        self._each = -(-self._vocabulary // ranks.size)
        row = width * dtype.itemsize
        most = ONE_SHOT_BYTES.get(ranks.size, ONE_SHOT_BYTES_OF_MORE)
        self.rows = max(1, min(max(rows, MOST_PADDED), most // row))
        few = min(rows, TAGGED_BYTES // row) if dtype == torch.bfloat16 else 0
        self._few = _Sums(few, width, dtype, True, ranks, device) if few else None
        self._many = _Sums(self.rows, width, dtype, False, ranks, device)
        tiles = -(-self._each // TILE)
        self._logits = _Shared(rows * self._vocabulary, dtype, ranks, device)
        self._logit_flags = _Shared(ranks.size * rows * tiles, torch.int32, ranks, device)
        self._logit_counts = torch.zeros(rows * tiles, dtype=torch.int32, device=device)
        self._shared += [*self._many.shared(), self._logits, self._logit_flags]
        self._shared += [] if self._few is None else self._few.shared()

    def close(self) -> None:
        """Free the shared memory, after the last graph that uses it. A collective call, the last one.

        CUDA wants memory to be closed by all others before its owner frees it. The ranks of an engine do not
        call this: rank 0 ends the others, whose exit closes and frees what is theirs, and drops this object.
        """
        device = self.fault.device
        torch.cuda.synchronize(device)
        dist.barrier(device_ids=[device.index or 0])  # nobody writes any more
        for one in self._shared:
            one.unmap()
        dist.barrier(device_ids=[device.index or 0])
        for one in self._shared:
            one.free()

    def add(self, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """Add the all-reduced `part` [rows, hidden] to `x` in place; identical on every rank."""
        if len(part) > self.rows:
            dist.all_reduce(part)
            return x.add_(part)
        self._sum(x, part, add=True)
        return x

    def add_rms_norm(
        self, x: torch.Tensor, part: torch.Tensor, gain: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """`add`, then return rms_norm(x) * gain."""
        if len(part) > self.rows:
            dist.all_reduce(part)
            return add_rms_norm(x, part, gain, eps)
        out = torch.empty_like(x)
        self._sum(x, part, add=True, norm=(gain, eps, out, None))
        return out

    def add_rms_norm_fp8(
        self, x: torch.Tensor, part: torch.Tensor, gain: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like `add_rms_norm`, but return fp8 values and their per-row scales [rows, 1]."""
        if len(part) > self.rows:
            dist.all_reduce(part)
            return add_rms_norm_fp8(x, part, gain, eps)
        out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
        scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
        self._sum(x, part, add=True, norm=(gain, eps, out, scales))
        return out, scales

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """Return the all-reduced `part` [rows, hidden]."""
        if len(part) > self.rows:
            dist.all_reduce(part)
            return part
        out = torch.empty_like(part)
        self._sum(out, part, add=False)
        return out

    def _sum(self, x: torch.Tensor, part: torch.Tensor, *, add: bool, norm: Norm | None = None) -> None:
        few = self._few
        sums = self._many if few is None or len(part) > few.rows else few
        add_sum(
            x,
            part,
            sums.buffers.addresses,
            None if sums.flags is None else sums.flags.addresses,
            sums.counts,
            self.fault,
            self.ranks.rank,
            self.ranks.size,
            add,
            norm,
        )

    def logits(self, part: torch.Tensor) -> torch.Tensor:
        """Gather the ranks' columns on rank 0.

        Returns logits [rows, vocab_size] there, valid until the next call; `part` on the other ranks.
        """
        if not self._direct:
            whole = self.scores(part)
            return part if self.ranks.rank else whole
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
        """All-gather the ranks' columns on every rank, for any number of rows and calls."""
        return self.ranks.join(part, self._vocabulary)
