"""Reads a linear layer's weight from a checkpoint's tensors, quantized or not.

A layer is quantized if the checkpoint has the tensors of its format for it. Layouts on disk, for int32 words
of eight codes, code i in the bits from 4 i:

* awq: qweight [in, out / 8]; word c has the outputs 8 c + (0, 2, 4, 6, 1, 3, 5, 7). qzeros [groups, out / 8]
  alike.
* gptq: qweight [in / 8, out]; word r has the inputs 8 r + i. qzeros [groups, out / 8], in order; each is
  stored less one, except by gptq_v2. g_idx [in]: the group of each input.
* pack-quantized (compressed-tensors): weight_packed [out, in / 8], weight_zero_point [out / 8, groups], in
  order. Codes and zero points are numbers of -8 to 7, stored plus 8.

Scales are [groups, out], those of compressed-tensors [out, groups].
"""

from __future__ import annotations

from typing import Protocol

import torch

from trtllm_openai.engines.torch.quantized.packed import Fp8Weight, Int4Weight, LinearWeight, pack_int4
from trtllm_openai.engines.torch.quantized.weight_format import GROUPS, WeightFormat
from trtllm_openai.errors import CheckpointError

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where awq keeps the outputs 0 to 7 of a word."""
PER_WORD = 8
MIDDLE = 8
"""The code of zero where no zero points are stored."""


class Tensors(Protocol):
    """A checkpoint's tensors, such as `engines.torch.weights.Weights`."""

    def has(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def take(
        self, name: str, *shape: int, part: slice = ..., axis: int = 0, as_stored: bool = False
    ) -> torch.Tensor: ...

    def drop(self, name: str) -> None: ...


def read_linear(
    tensors: Tensors,
    given: WeightFormat | None,
    name: str,
    outputs: int,
    inputs: int,
    part: slice = slice(None),
    axis: int = 0,
) -> LinearWeight:
    """Read the weight [outputs, inputs] of the layer `name`, or only a `part` of it along `axis`.

    Raises `CheckpointError` if its tensors are missing, have other shapes, or cannot be cut there.
    """
    if given is not None and given.fp8 and tensors.has(f"{name}.weight_scale"):
        return _fp8(tensors, name, outputs, inputs, part, axis)
    packed = "weight_packed" if given is not None and given.packing == "pack-quantized" else "qweight"
    if given is None or given.fp8 or not tensors.has(f"{name}.{packed}"):
        return tensors.take(f"{name}.weight", outputs, inputs, part=part, axis=axis)
    return _int4(tensors, given, name, outputs, inputs, part, axis)


def _fp8(tensors: Tensors, name: str, outputs: int, inputs: int, part: slice, axis: int) -> Fp8Weight:
    values = tensors.take(f"{name}.weight", outputs, inputs, part=part, axis=axis, as_stored=True)
    if values.dtype != torch.float8_e4m3fn:
        raise CheckpointError(f"The tensor {name}.weight is {values.dtype}, but FP8 is float8_e4m3fn.")
    shape = tensors.shape(f"{name}.weight_scale")
    if shape not in ((), (1,), (outputs,), (outputs, 1)):
        raise CheckpointError(
            f"The tensor {name}.weight_scale has the shape {list(shape)}; supported: one scale, or one for "
            f"each of {outputs} outputs."
        )
    scales = tensors.take(f"{name}.weight_scale", *shape, as_stored=True).float().reshape(-1).expand(outputs)
    # Calibrated scales of the inputs are not needed: inputs are quantized by their own largest value.
    tensors.drop(f"{name}.input_scale")
    return Fp8Weight(values.contiguous(), (scales[part] if axis == 0 else scales).contiguous())


def _int4(
    tensors: Tensors, given: WeightFormat, name: str, outputs: int, inputs: int, part: slice, axis: int
) -> Int4Weight:
    group = given.group_size or inputs
    multiples = outputs % PER_WORD == 0 and inputs % PER_WORD == 0 and inputs % group == 0
    if not multiples or (given.group_size is None and inputs % min(GROUPS)):
        raise CheckpointError(f"The layer {name} of {inputs} inputs and {outputs} outputs has no {given}.")
    kind = _compressed if given.packing == "pack-quantized" else _awq if given.packing == "awq" else _gptq
    codes, scales, zeros = kind(tensors, given, name, outputs, inputs, inputs // group)
    if given.group_size is None:  # the kernels know no larger groups
        times = inputs // max(size for size in GROUPS if inputs % size == 0)
        scales, zeros, group = scales.expand(times, -1), zeros.expand(times, -1), inputs // times
    start, stop, _ = part.indices(outputs if axis == 0 else inputs)
    if axis == 0:
        return pack_int4(codes[start:stop].contiguous(), scales[:, start:stop], zeros[:, start:stop])
    if start % group or stop % group:
        raise CheckpointError(
            f"torch.tensor_parallel_size would cut a group of {group} inputs of the layer {name} "
            f"({inputs} inputs)."
        )
    groups = slice(start // group, stop // group)
    return pack_int4(codes[:, start:stop].contiguous(), scales[groups], zeros[groups])


Unpacked = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Codes [out, in], scales [groups, out], zero points [groups, out]."""


def _awq(
    tensors: Tensors, given: WeightFormat, name: str, outputs: int, inputs: int, groups: int
) -> Unpacked:
    words = tensors.take(f"{name}.qweight", inputs, outputs // PER_WORD, as_stored=True)
    zeros = tensors.take(f"{name}.qzeros", groups, outputs // PER_WORD, as_stored=True)
    scales = tensors.take(f"{name}.scales", groups, outputs, as_stored=True)
    return _unpack(words, AWQ_PLACES).t(), scales, _unpack(zeros, AWQ_PLACES)


def _gptq(
    tensors: Tensors, given: WeightFormat, name: str, outputs: int, inputs: int, groups: int
) -> Unpacked:
    words = tensors.take(f"{name}.qweight", inputs // PER_WORD, outputs, as_stored=True)
    zeros = _unpack(tensors.take(f"{name}.qzeros", groups, outputs // PER_WORD, as_stored=True))
    scales = tensors.take(f"{name}.scales", groups, outputs, as_stored=True)
    _check_order(tensors, f"{name}.g_idx", inputs, groups)
    if given.packing == "gptq":
        zeros = zeros + 1 & 15
    return _unpack(words.t()), scales, zeros


def _compressed(
    tensors: Tensors, given: WeightFormat, name: str, outputs: int, inputs: int, groups: int
) -> Unpacked:
    words = tensors.take(f"{name}.weight_packed", outputs, inputs // PER_WORD, as_stored=True)
    scales = tensors.take(f"{name}.weight_scale", outputs, groups, as_stored=True)
    if tensors.has(f"{name}.weight_shape"):
        said = tensors.take(f"{name}.weight_shape", 2, as_stored=True).tolist()
        if said != [outputs, inputs]:
            raise CheckpointError(f"{name}.weight_shape says {said}, but config.json {[outputs, inputs]}.")
    _check_order(tensors, f"{name}.weight_g_idx", inputs, groups)
    if given.zero_points:
        packed = tensors.take(f"{name}.weight_zero_point", outputs // PER_WORD, groups, as_stored=True)
        zeros = _unpack(packed.t())
    else:
        zeros = torch.full((groups, outputs), MIDDLE, dtype=torch.uint8, device=words.device)
    return _unpack(words), scales.t(), zeros


def _check_order(tensors: Tensors, name: str, inputs: int, groups: int) -> None:
    if not tensors.has(name):
        return
    order = tensors.take(name, inputs, as_stored=True)
    if not torch.equal(order.long(), torch.arange(inputs, device=order.device) // (inputs // groups)):
        raise CheckpointError(
            f"The tensor {name} assigns inputs to groups out of order (desc_act), which the torch engine "
            "does not support."
        )


def _unpack(words: torch.Tensor, places: tuple[int, ...] = tuple(range(PER_WORD))) -> torch.Tensor:
    """Split int32 `words` [n, m] into their codes [n, 8 m], uint8. `places`: of codes 0 to 7 in a word."""
    if words.dtype != torch.int32:
        raise CheckpointError(f"Packed 4-bit weights are {words.dtype}; supported: int32.")
    octets = words.contiguous().view(torch.uint8).view(len(words), -1, PER_WORD // 2)
    codes = torch.stack([octets & 15, octets >> 4], -1).view(len(words), -1, PER_WORD)
    return codes[..., list(places)].reshape(len(words), -1)
