"""Configurations as the tools write them; what is refused is refused by the field that is not supported."""

import copy
from typing import Any

import pytest

from tests.unit.engines.torch.quantized.formats import KINDS, MODELOPT
from trtllm_openai.engines.torch.quantized.weight_format import (
    WeightFormat,
    check_quantization_setting,
    quantization_method,
    weight_format,
)
from trtllm_openai.errors import CheckpointError, ConfigError

AWQ, GPTQ = KINDS["awq"].config, KINDS["gptq"].config
INT4, FP8 = KINDS["compressed-tensors int4"].config, KINDS["compressed-tensors fp8 static"].config
KV = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
CT = "compressed-tensors"


def found(config: dict[str, Any]) -> WeightFormat | None:
    return weight_format({"quantization_config": config}, {})


def changed(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    whole = copy.deepcopy(config)
    *parents, last = path.split(".")
    at = whole
    for name in parents:
        at = at[name]
    at[last] = value
    return whole


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AWQ, WeightFormat("awq", "awq", 32, zero_points=True)),
        (
            {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
            WeightFormat("awq", "awq", 128, zero_points=True),
        ),
        (GPTQ, WeightFormat("gptq", "gptq", 64, zero_points=True)),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "static_groups": True},
            WeightFormat("gptq", "gptq", 128, zero_points=True),
        ),
        (KINDS["gptq_v2 one group"].config, WeightFormat("gptq", "gptq_v2", None, zero_points=True)),
        (INT4, WeightFormat(CT, "pack-quantized", 32)),
        (
            changed(INT4, "config_groups.group_0.weights.symmetric", False),
            WeightFormat(CT, "pack-quantized", 32, zero_points=True),
        ),
        (
            changed(INT4, "config_groups.group_0.weights.actorder", "weight"),
            WeightFormat(CT, "pack-quantized", 32),
        ),
        (KINDS["compressed-tensors int4 channel"].config, WeightFormat(CT, "pack-quantized")),
        (FP8, WeightFormat(CT, "fp8")),
        (changed(FP8, "kv_cache_scheme", KV), WeightFormat(CT, "fp8")),
        (KINDS["compressed-tensors fp8 dynamic"].config, WeightFormat(CT, "fp8")),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, WeightFormat("fp8", "fp8")),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
            WeightFormat("modelopt", "fp8"),
        ),
        ({"quant_algo": "FP8", "kv_cache_scheme": KV}, WeightFormat("modelopt", "fp8")),
        ({"quant_method": "modelopt", **MODELOPT}, WeightFormat("modelopt", "fp8")),
        ({"quant_method": "modelopt", "kv_cache_scheme": KV}, None),
    ],
)
def test_supported(config: dict[str, Any], expected: WeightFormat | None) -> None:
    assert found(config) == expected
    assert weight_format({"compression_config": config}, {}) == expected


def test_a_file_of_modelopt_beside_config_json() -> None:
    assert weight_format({}, MODELOPT) == WeightFormat("modelopt", "fp8")
    assert weight_format({}, {}) is None
    assert weight_format({"quantization_config": None}, {}) is None
    only_cache = changed(MODELOPT, "quantization.quant_algo", None)
    assert weight_format({}, only_cache) is None


G = "config_groups.group_0"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            r"\(bitsandbytes\) with quant_method: bitsandby",
        ),
        ({"quant_method": "mxfp4"}, r"\(mxfp4\)"),
        ({"load_in_8bit": True}, r"\(unknown\)"),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, r"\(fbgemm_fp8\)"),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            r"\(fp8\) with weight_block_size: \[128, 128\]",
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            r"\(modelopt\) with quant_algo: NVFP4; supported: FP8",
        ),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quant_algo: MIXED_PRECISION"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "quant_algo: W4A16_AWQ"),
        (changed(AWQ, "bits", 8), r"\(awq\) with bits: 8; supported: 4"),
        (changed(AWQ, "group_size", 16), r"group_size: 16; supported: -1 or 32 or 64 or 128"),
        (changed(AWQ, "version", "gemv"), "version: gemv; supported: gemm"),
        (changed(AWQ, "zero_point", False), "zero_point: False"),
        ({"quant_method": "awq"}, "bits: None"),
        (changed(GPTQ, "bits", 3), r"\(gptq\) with bits: 3"),
        (changed(GPTQ, "desc_act", True), "desc_act: True; supported: False"),
        (
            changed(GPTQ, "checkpoint_format", "marlin"),
            "checkpoint_format: marlin; supported: gptq or gptq_v2",
        ),
        (changed(GPTQ, "is_marlin_format", True), "is_marlin_format: True"),
        (changed(GPTQ, "pack_dtype", "int16"), "pack_dtype: int16"),
        (changed(GPTQ, "dynamic", {"+:.*down.*": {"bits": 8}}), r"dynamic: \+:\.\*down"),
        (
            changed(INT4, f"{G}.weights.num_bits", 8),
            r"config_groups\.group_0\.weights\.num_bits: 8; supported: 4",
        ),
        (changed(INT4, f"{G}.weights.group_size", 256), "group_size: 256"),
        (changed(INT4, f"{G}.weights.strategy", "tensor"), "strategy: tensor; supported: group or channel"),
        (changed(INT4, f"{G}.weights.actorder", "group"), "actorder: group"),
        (
            changed(INT4, f"{G}.input_activations", {"num_bits": 8, "type": "int"}),
            r"input_activations: \{'num_b",
        ),
        (changed(INT4, "format", "marlin-24"), "format: marlin-24; supported: pack-quantized"),
        (changed(INT4, "format", "int-quantized"), "format: int-quantized"),
        (changed(FP8, f"{G}.weights.num_bits", 4), r"num_bits: 4; supported: 8"),
        (changed(FP8, f"{G}.weights.strategy", "block"), "strategy: block; supported: tensor or channel"),
        (changed(FP8, f"{G}.input_activations", None), "input_activations: None; supported: 8-bit float"),
        (changed(FP8, f"{G}.input_activations.strategy", "group"), "input_activations.strategy: group"),
        (changed(FP8, f"{G}.output_activations", KV), "output_activations"),
        (
            changed(FP8, "sparsity_config", {"format": "sparse-24-bitmask"}),
            "sparsity_config.format: sparse-24",
        ),
        (changed(FP8, "transform_config", {"config_groups": {"R1": {}}}), "transform_config: rotations"),
        (changed(FP8, "config_groups", {}), "config_groups: none"),
        (
            changed(
                FP8, "config_groups.group_1", {**INT4["config_groups"]["group_0"], "format": "pack-quantized"}
            ),
            r"config_groups: 4-bit weights .* and FP8 .*; supported: one scheme",
        ),
    ],
)
def test_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        found(config)


def test_only_equal_settings_may_be_combined() -> None:
    fp8, int4 = WeightFormat("modelopt", "fp8"), WeightFormat("awq", "awq", 128)
    for setting, given in (("none", int4), ("none", fp8), ("fp8", fp8), ("fp8", None), ("int8", None)):
        check_quantization_setting(setting, given)
    for setting, given in (("fp8", int4), ("int8", int4), ("int8", fp8)):
        with pytest.raises(
            ConfigError, match=rf"torch\.quantization: {setting} cannot .* \({given.method}\)"
        ):
            check_quantization_setting(setting, given)


@pytest.mark.parametrize(
    ("config", "modelopt", "method"),
    [
        ({"quantization_config": AWQ}, {}, "awq"),
        ({"compression_config": INT4}, {}, CT),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, {}, "bitsandbytes"),
        ({"quantization_config": {"quant_algo": "NVFP4"}}, {}, "modelopt"),
        ({"quantization_config": {"bits": 4}}, {}, "unknown"),
        ({"quantization_config": AWQ}, MODELOPT, "awq"),
        ({"quantization_config": None}, MODELOPT, "modelopt"),
    ],
)
def test_the_method_is_named_whether_or_not_it_is_supported(
    config: dict[str, Any], modelopt: dict[str, Any], method: str
) -> None:
    found = quantization_method(config, modelopt)
    assert found is not None
    assert found[0] == method
    assert quantization_method({}, {}) is quantization_method({}, {"quantization": None}) is None
