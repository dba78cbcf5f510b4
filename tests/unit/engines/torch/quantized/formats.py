"""Writes quantized checkpoints after the description of each format, and the weights they stand for.

`quantize_checkpoint` replaces the linear layers of a checkpoint, and writes a twin with the same numbers in
float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Codes = npt.NDArray[np.int64]
AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output of each 4 bits of a word, from the lowest."""


@dataclass(frozen=True)
class Kind:
    """`write`: tensors of a layer by suffix, and the weight they stand for, from a float32 weight."""

    config: dict[str, Any]
    write: Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]
    file: str = "config.json"


def words(codes: Codes, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack the last axis, eight codes a word."""
    packed = np.zeros((len(codes), codes.shape[1] // 8), np.uint32)
    for place, one in enumerate(order):
        packed |= codes[:, one::8].astype(np.uint32) << np.uint32(4 * place)
    return torch.from_numpy(packed.view(np.int32))


def rounded(
    weight: torch.Tensor, group: int, symmetric: bool
) -> tuple[Codes, Codes, torch.Tensor, torch.Tensor]:
    """Codes [out, in], zero points and scales [out, groups], and the weight that they stand for."""
    groups = weight.view(len(weight), -1, group)
    low, high = groups.amin(2).clamp_max(0), groups.amax(2).clamp_min(0)
    if symmetric:
        scales, zeros = (groups.abs().amax(2) / 7.5).half(), torch.full_like(low, 8)
    else:
        scales = ((high - low) / 15).half()
        zeros = (-low / scales.float()).round().clamp(0, 15)
    codes = (groups / scales.float().unsqueeze(2) + zeros.unsqueeze(2)).round().clamp(0, 15)
    exact = (codes - zeros.unsqueeze(2)) * scales.float().unsqueeze(2)
    flat = codes.view_as(weight).long().numpy()
    return flat, zeros.long().numpy(), scales, exact.view_as(weight)


def awq(group: int) -> Kind:
    def write(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        codes, zeros, scales, exact = rounded(weight, group, symmetric=False)
        return {
            "qweight": words(codes.T, AWQ_OUTPUTS),
            "qzeros": words(zeros.T, AWQ_OUTPUTS),
            "scales": scales.t(),
        }, exact

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Kind({**config, "modules_to_not_convert": None}, write)


def gptq(group: int, layout: str = "gptq", *, symmetric: bool = True) -> Kind:
    def write(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        size = weight.shape[1] if group == -1 else group
        codes, zeros, scales, exact = rounded(weight, size, symmetric)
        stored = zeros if layout == "gptq_v2" else (zeros - 1) % 16
        return {
            "qweight": words(codes).t(),
            "qzeros": words(stored.T),
            "scales": scales.t(),
            "g_idx": (torch.arange(weight.shape[1]) // size).int(),
        }, exact

    config = {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": symmetric, "desc_act": False}
    return Kind({**config, "checkpoint_format": layout, "dynamic": {"-:.*lm_head.*": {}}}, write)


def compressed_int4(group: int | None, *, symmetric: bool) -> Kind:
    def write(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        codes, zeros, scales, exact = rounded(weight, group or weight.shape[1], symmetric)
        tensors = {
            "weight_packed": words(codes),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            tensors["weight_zero_point"] = words(zeros.T).t()
        return tensors, exact

    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group" if group else "channel",
        "group_size": group,
        "symmetric": symmetric,
        "dynamic": False,
        "actorder": None,
    }
    return Kind(compressed("pack-quantized", weights, None), write)


def fp8(
    weight: torch.Tensor, *, per_channel: bool, scale_shape: tuple[int, ...], **more: torch.Tensor
) -> Any:
    largest = weight.abs().amax(1, keepdim=True) if per_channel else weight.abs().max()
    scales = largest / 448
    values = (weight / scales).to(torch.float8_e4m3fn)
    return {"weight": values, "weight_scale": scales.reshape(scale_shape), **more}, values.float() * scales


def compressed_fp8(*, per_channel: bool, dynamic: bool) -> Kind:
    def write(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        more = {} if dynamic else {"input_scale": torch.tensor([0.02])}
        shape = (len(weight), 1) if per_channel else (1,)
        made: tuple[Tensors, torch.Tensor] = fp8(weight, per_channel=per_channel, scale_shape=shape, **more)
        return made

    shared = {"num_bits": 8, "type": "float", "symmetric": True}
    weights = {**shared, "strategy": "channel" if per_channel else "tensor", "dynamic": False}
    inputs = {**shared, "strategy": "token" if dynamic else "tensor", "dynamic": dynamic}
    return Kind(compressed("float-quantized", weights, inputs), write)


def compressed(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def per_tensor(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    made: tuple[Tensors, torch.Tensor] = fp8(
        weight, per_channel=False, scale_shape=(), input_scale=torch.tensor(0.02)
    )
    return made


MODELOPT = {
    "producer": {"name": "modelopt", "version": "0.33.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}
KINDS = {
    "awq": awq(32),
    "gptq": gptq(64),
    "gptq asymmetric": gptq(32, symmetric=False),
    "gptq_v2 one group": gptq(-1, "gptq_v2", symmetric=False),
    "compressed-tensors int4": compressed_int4(32, symmetric=True),
    "compressed-tensors int4 asymmetric": compressed_int4(64, symmetric=False),
    "compressed-tensors int4 channel": compressed_int4(None, symmetric=True),
    "compressed-tensors fp8 static": compressed_fp8(per_channel=False, dynamic=False),
    "compressed-tensors fp8 dynamic": compressed_fp8(per_channel=True, dynamic=True),
    "autofp8": Kind({"quant_method": "fp8", "activation_scheme": "static"}, per_tensor),
    "modelopt": Kind(MODELOPT, per_tensor, "hf_quant_config.json"),
}


def quantize_checkpoint(
    source: Path, target: Path, twin: Path, kind: Kind, keep: tuple[str, ...] = ()
) -> None:
    """Write `source` quantized to `target` and expanded to `twin`, but for layers with a name in `keep`."""
    quantized: Tensors = {}
    exact: Tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if not layer.endswith("_proj") or any(word in layer for word in keep):
            quantized[name] = exact[name] = tensor
            continue
        tensors, exact[name] = kind.write(tensor.float())
        quantized |= {f"{layer}.{suffix}": one.contiguous() for suffix, one in tensors.items()}
        if kind.file != "config.json" and layer.endswith(("k_proj", "v_proj")):
            quantized[f"{layer}.{layer[-6]}_scale"] = torch.tensor(0.1)
    for directory, tensors in ((target, quantized), (twin, exact)):
        shutil.copytree(source, directory, dirs_exist_ok=True)
        save_file(tensors, directory / "model.safetensors")
    path = target / kind.file
    if kind.file == "config.json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": kind.config}))
    else:
        path.write_text(json.dumps(kind.config))
