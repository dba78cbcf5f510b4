"""Parses how a checkpoint's linear layers are quantized; refuses by name what the engine cannot compute.

Sources: `quantization_config` of config.json, as Hugging Face's transformers defines it for each
`quant_method`, and ModelOpt's hf_quant_config.json. Which layers are quantized is not read here but follows
from their tensors (`read.py`), so lists of ignored modules, which every tool writes in another notation, are
not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from trtllm_openai.errors import CheckpointError, ConfigError

Packing = Literal["fp8", "awq", "gptq", "gptq_v2", "pack-quantized"]
MODELOPT_CONFIG = "hf_quant_config.json"
GROUPS = (32, 64, 128)
"""Inputs that share a scale."""
SUPPORTED = (
    "FP8 (per tensor or per channel) of compressed-tensors, ModelOpt and AutoFP8, and 4-bit weights of AWQ, "
    "GPTQ and compressed-tensors"
)


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """`method`: as the checkpoint calls it. `group_size`: inputs that share a scale, None: all of a layer.

    `zero_points`: whether the checkpoint stores them; for 4 bits only.
    """

    method: str
    packing: Packing
    group_size: int | None = None
    zero_points: bool = False

    @property
    def fp8(self) -> bool:
        return self.packing == "fp8"

    def __str__(self) -> str:
        if self.fp8:
            return f"FP8 ({self.method})"
        groups = f"groups of {self.group_size}" if self.group_size else "one group a row"
        return f"4-bit weights in {groups} ({self.method})"


def quantization_method(
    config: Mapping[str, Any], modelopt: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]] | None:
    """The method by which the weights are quantized, supported or not, and its parameters.

    `config`: config.json. `modelopt`: hf_quant_config.json, or empty. None: not quantized.
    """
    if raw := config.get("quantization_config") or config.get("compression_config"):
        return raw.get("quant_method") or ("modelopt" if "quant_algo" in raw else "unknown"), raw
    if raw := modelopt.get("quantization"):
        return "modelopt", raw
    return None


def weight_format(config: Mapping[str, Any], modelopt: Mapping[str, Any]) -> WeightFormat | None:
    """The format that `quantization_method` finds. None: not quantized.

    Raises `CheckpointError` that names the field the engine does not support.
    """
    found = quantization_method(config, modelopt)
    if found is None:
        return None
    method, raw = found
    reader = READERS.get(method)
    if reader is None:
        _refuse(method, "quant_method", method)
    return reader(method, raw)


def check_quantization_setting(setting: str, given: WeightFormat | None) -> None:
    """Raises `ConfigError` if `torch.quantization` is to quantize a checkpoint that is quantized already."""
    if given is None or setting == "none" or (setting == "fp8" and given.fp8):
        return
    raise ConfigError(
        f"torch.quantization: {setting} cannot quantize a checkpoint that is quantized already, with "
        f"{given}; use none"
    )


def _refuse(method: str, field: str, value: object, supported: str = SUPPORTED) -> NoReturn:
    raise CheckpointError(
        f"The torch engine does not support quantized checkpoints ({method}) with {field}: {value}; "
        f"supported: {supported}."
    )


def _need(method: str, field: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        _refuse(method, field, value, " or ".join(str(one) for one in allowed))


def _group_size(method: str, value: object) -> int | None:
    _need(method, "group_size", value, -1, *GROUPS)
    return None if value == -1 else int(str(value))


def _fp8(method: str, raw: Mapping[str, Any]) -> WeightFormat:
    """AutoFP8's: one scale a tensor. transformers' FineGrainedFP8 has the same name, and scales of blocks."""
    if raw.get("weight_block_size"):
        _refuse(method, "weight_block_size", raw["weight_block_size"], "scales per tensor or per channel")
    _need(method, "activation_scheme", raw.get("activation_scheme", "dynamic"), "static", "dynamic")
    return WeightFormat(method, "fp8")


def _modelopt(method: str, raw: Mapping[str, Any]) -> WeightFormat | None:
    raw = raw.get("quantization") or raw
    algorithm = raw.get("quant_algo")
    if algorithm is None and raw.get("kv_cache_quant_algo", raw.get("kv_cache_scheme")):
        return None  # only the KV cache, whose type is this engine's own
    _need(method, "quant_algo", algorithm, "FP8", "FP8_PER_CHANNEL_PER_TOKEN")
    return WeightFormat(method, "fp8")


def _awq(method: str, raw: Mapping[str, Any]) -> WeightFormat:
    _need(method, "bits", raw.get("bits", raw.get("w_bit")), 4)
    _need(method, "version", str(raw.get("version", raw.get("format", "gemm"))).lower(), "gemm")
    _need(method, "zero_point", raw.get("zero_point", True), True)
    size = _group_size(method, raw.get("group_size", raw.get("q_group_size")))
    return WeightFormat(method, "awq", size, zero_points=True)


def _gptq(method: str, raw: Mapping[str, Any]) -> WeightFormat:
    _need(method, "bits", raw.get("bits"), 4)
    layout = raw.get("checkpoint_format") or raw.get("format") or "gptq"
    _need(method, "checkpoint_format", layout, "gptq", "gptq_v2")
    _need(method, "is_marlin_format", bool(raw.get("is_marlin_format")), False)
    _need(method, "pack_dtype", raw.get("pack_dtype") or "int32", "int32")
    size = _group_size(method, raw.get("group_size"))
    if size is not None and not raw.get("static_groups"):
        # Inputs are then sorted by importance, and the groups are those of the sorted inputs.
        _need(method, "desc_act", bool(raw.get("desc_act")), False)
    for rule in raw.get("dynamic") or {}:
        if not rule.startswith("-:"):  # "-:" leaves modules out, others have parameters of their own
            _refuse(method, "dynamic", rule, "rules that leave modules out (-:)")
    return WeightFormat(method, "gptq_v2" if layout == "gptq_v2" else "gptq", size, zero_points=True)


def _compressed_tensors(method: str, raw: Mapping[str, Any]) -> WeightFormat:
    _need(method, "sparsity_config.format", (raw.get("sparsity_config") or {}).get("format"), None, "dense")
    if (raw.get("transform_config") or {}).get("config_groups"):
        _refuse(method, "transform_config", "rotations", "none")
    groups = raw.get("config_groups") or {}
    found = {
        _compressed_group(method, f"config_groups.{name}", group, group.get("format") or raw.get("format"))
        for name, group in groups.items()
    }
    if len(found) != 1:
        several = " and ".join(sorted(map(str, found))) or "none"
        _refuse(method, "config_groups", several, "one scheme for all quantized layers")
    return found.pop()


def _compressed_group(method: str, at: str, group: Mapping[str, Any], layout: str | None) -> WeightFormat:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    kind = weights.get("type", "int")
    _need(method, f"{at}.output_activations", group.get("output_activations"), None)
    _need(method, f"{at}.weights.dynamic", weights.get("dynamic") or False, False)
    bits, strategy = weights.get("num_bits"), weights.get("strategy")
    if kind == "float":
        _need(method, f"{at}.weights.num_bits", bits, 8)
        _need(method, f"{at}.format", layout, "float-quantized", "naive-quantized")
        _need(method, f"{at}.weights.strategy", strategy, "tensor", "channel")
        _need(method, f"{at}.weights.symmetric", weights.get("symmetric", True), True)
        if inputs is None:
            _refuse(method, f"{at}.input_activations", None, "8-bit float activations")
        _need(method, f"{at}.input_activations.type", inputs.get("type"), "float")
        _need(method, f"{at}.input_activations.num_bits", inputs.get("num_bits"), 8)
        _need(method, f"{at}.input_activations.strategy", inputs.get("strategy"), "tensor", "token")
        return WeightFormat(method, "fp8")
    _need(method, f"{at}.weights.type", kind, "int", "float")
    _need(method, f"{at}.weights.num_bits", bits, 4)
    _need(method, f"{at}.format", layout, "pack-quantized")
    _need(method, f"{at}.input_activations", inputs, None)
    _need(method, f"{at}.weights.strategy", strategy, "group", "channel")
    _need(method, f"{at}.weights.actorder", weights.get("actorder") or None, None, "weight", "static")
    size = None
    if strategy == "group":
        _need(method, f"{at}.weights.group_size", weights.get("group_size"), *GROUPS)
        size = int(weights["group_size"])
    zero_points = not weights.get("symmetric", True)
    return WeightFormat(method, "pack-quantized", size, zero_points=zero_points)


READERS = {
    "fp8": _fp8,
    "modelopt": _modelopt,
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": _compressed_tensors,
}
