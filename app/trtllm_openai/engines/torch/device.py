"""Chooses a rank's device and dtype, and refuses number formats that the device cannot compute.

Errors are `ConfigError` and name the setting. The dtype of the KV cache: `kv_cache.choose_kv_dtype`.
"""

from __future__ import annotations

import os

import torch

from trtllm_openai.engines.torch.linear import Quantization
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.parallel import ALONE, Ranks, shard
from trtllm_openai.engines.torch.quantized.weight_format import WeightFormat, check_quantization_setting
from trtllm_openai.errors import ConfigError

FP8_CAPABILITY, INT4_CAPABILITY = (9, 0), (8, 0)
"""The least compute capability of GPUs that multiply such weights."""
FP8_GRAIN = 16
"""Sizes of fp8 weights are multiples of it."""


def choose_device(wanted: str, ranks: Ranks = ALONE) -> torch.device:
    """Choose the device for `torch.device`, one GPU per rank. Raises `ConfigError` if it is unavailable."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch.device: cuda was requested, but PyTorch finds no usable GPU")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.size > torch.cuda.device_count():
        raise ConfigError(
            f"torch.tensor_parallel_size: {ranks.size} ranks need as many GPUs, "
            f"but there are {torch.cuda.device_count()}"
        )
    if ranks.size > 1:
        torch.cuda.set_device(ranks.rank)
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the configured dtype; by default bfloat16 if the device supports it natively, else float32."""
    if wanted == "float32":
        return torch.float32
    if wanted == "bfloat16":
        return torch.bfloat16
    native = (
        torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if native else torch.float32


def check_quantization(wanted: Quantization, device: torch.device) -> None:
    """Raises `ConfigError` if `device` cannot have weights quantized as `torch.quantization` wants."""
    if wanted == "int8" and device.type != "cpu":
        raise ConfigError("torch.quantization: int8 is supported on CPUs only")
    if wanted == "int8" and not torch.cpu._is_vnni_supported():
        raise ConfigError("torch.quantization: int8 needs a CPU with 8-bit dot products (AVX-512 VNNI)")
    if wanted == "fp8" and device.type == "cpu":
        raise ConfigError("torch.quantization: fp8 needs a GPU; use int8 on a CPU")


def check_weights(
    config: ModelConfig, wanted: Quantization, dtype: torch.dtype, device: torch.device, ranks: Ranks
) -> None:
    """Raises `ConfigError` if the checkpoint's weights cannot be computed, or quantized as `wanted`.

    On a CPU those of quantized checkpoints are expanded to `dtype`.
    """
    given = config.weight_format
    check_quantization_setting(wanted, given)
    check_quantization(wanted, device)
    if device.type == "cpu":
        return
    if wanted == "fp8":
        _check_fp8("torch.quantization: fp8", config, dtype, device, ranks)
    elif given is not None and given.fp8:
        _check_fp8(f"This checkpoint of {given}", config, dtype, device, ranks)
    elif given is not None:
        _check_int4(given, dtype, device)


def peer_access(ranks: int) -> bool:
    """Whether the first `ranks` GPUs may all access each other's memory.

    `NCCL_P2P_DISABLE`, which is set where peer access is broken, holds for this engine's own kernels as well.
    """
    if os.environ.get("NCCL_P2P_DISABLE") == "1":
        return False
    pairs = ((one, other) for one in range(ranks) for other in range(ranks) if one != other)
    return all(torch.cuda.can_device_access_peer(one, other) for one, other in pairs)


def _check_int4(given: WeightFormat, dtype: torch.dtype, device: torch.device) -> None:
    if torch.cuda.get_device_capability(device) < INT4_CAPABILITY or dtype != torch.bfloat16:
        raise ConfigError(
            f"This checkpoint of {given} needs a GPU of compute capability 8.0 and torch.dtype bfloat16"
        )


def _check_fp8(
    subject: str, config: ModelConfig, dtype: torch.dtype, device: torch.device, ranks: Ranks
) -> None:
    if torch.cuda.get_device_capability(device) < FP8_CAPABILITY or dtype != torch.bfloat16:
        raise ConfigError(f"{subject} needs a GPU of compute capability 9.0 and bfloat16")
    own = shard(config, ranks)
    sizes = own.hidden_size, own.intermediate_size, own.heads * own.head_dim, own.kv_heads * own.head_dim
    if any(size % FP8_GRAIN for size in sizes):
        raise ConfigError(
            f"{subject} needs a model whose sizes are multiples of {FP8_GRAIN}, also after "
            f"they are divided by torch.tensor_parallel_size ({ranks.size})"
        )
