"""Quantized weights of a linear layer, [out, in], in the layouts that the GPU's kernels read.

`dense` gives the numbers that they stand for, rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trtllm_openai.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """values * scales. `values`: [out, in] float8_e4m3fn. `scales`: [out] float32."""

    values: torch.Tensor
    scales: torch.Tensor

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        return self.values.float().mul_(self.scales.unsqueeze(1)).to(dtype)


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """(code - zero) * scale, for codes of 4 bits and one zero and scale a group of inputs.

    `packed`: [out, in / 2] uint8. The inputs are cut into spans of two groups (of one where their number is
    odd); a byte has a code of the first half of its span in the low bits, and above it the one at the
    same place in the second half. So a kernel gets two contiguous runs of inputs from a run of bytes, and
    each run lies in one group. `scales`: [in / group, out], in the checkpoint's dtype. `zeros`: as many,
    uint8.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)"""
        return len(self.packed), 2 * self.packed.shape[1]

    @property
    def group(self) -> int:
        return self.shape[1] // len(self.scales)

    @property
    def span(self) -> int:
        return _span(len(self.scales), self.group)

    def codes(self) -> torch.Tensor:
        """The codes [out, in], uint8."""
        runs = self.packed.view(len(self.packed), -1, self.span // 2)
        return torch.stack([runs & 15, runs >> 4], 2).view(self.shape)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        outputs, _ = self.shape
        codes = self.codes().view(outputs, -1, self.group).float()
        codes.sub_(self.zeros.t().unsqueeze(2)).mul_(self.scales.t().float().unsqueeze(2))
        return codes.view(self.shape).to(dtype)


LinearWeight = torch.Tensor | Fp8Weight | Int4Weight


def pack_int4(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> Int4Weight:
    """Pack `codes` [out, in], uint8 below 16, with `scales` and `zeros` [in / group, out]."""
    outputs, inputs = codes.shape
    halves = codes.view(outputs, -1, 2, _span(len(scales), inputs // len(scales)) // 2)
    packed = halves[:, :, 0] | halves[:, :, 1] << 4
    return Int4Weight(packed.reshape(outputs, inputs // 2), scales.contiguous(), zeros.contiguous())


def _span(groups: int, group: int) -> int:
    return group if groups % 2 else 2 * group


def join(parts: Sequence[LinearWeight], names: str) -> LinearWeight:
    """Join the outputs of layers that read the same input.

    Raises `CheckpointError`, with `names`, if only some of them are quantized.
    """
    if len(parts) == 1:
        return parts[0]
    fp8 = [one for one in parts if isinstance(one, Fp8Weight)]
    if len(fp8) == len(parts):
        return Fp8Weight(torch.cat([one.values for one in fp8]), torch.cat([one.scales for one in fp8]))
    int4 = [one for one in parts if isinstance(one, Int4Weight)]
    if len(int4) == len(parts):
        return Int4Weight(
            torch.cat([one.packed for one in int4]),
            torch.cat([one.scales for one in int4], 1),
            torch.cat([one.zeros for one in int4], 1),
        )
    tensors = [one for one in parts if isinstance(one, torch.Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    raise CheckpointError(
        f"Some of the layers {names} are quantized and others not, but they are computed together."
    )


def dense(weight: LinearWeight, dtype: torch.dtype) -> torch.Tensor:
    """`weight` as a tensor [out, in] of `dtype`."""
    return weight.to(dtype) if isinstance(weight, torch.Tensor) else weight.dense(dtype)
