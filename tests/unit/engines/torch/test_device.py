"""Devices and number formats: what is chosen, and what is refused by the name of its setting."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trtllm_openai.engines.torch.device import (
    check_quantization,
    check_weights,
    choose_device,
    choose_dtype,
    peer_access,
)
from trtllm_openai.engines.torch.linear import Quantization
from trtllm_openai.engines.torch.model_config import ModelConfig, read_config
from trtllm_openai.engines.torch.parallel import ALONE, Ranks
from trtllm_openai.engines.torch.quantized.weight_format import WeightFormat
from trtllm_openai.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FP8, INT4 = WeightFormat("modelopt", "fp8"), WeightFormat("awq", "awq", 32, zero_points=True)


@pytest.fixture
def config(checkpoint: Callable[[str], Path]) -> ModelConfig:
    """Sizes of which 72 is a multiple of 8 only."""
    return read_config(checkpoint("llama"))


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match=r"torch\.device: cuda was requested, but PyTorch finds no"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cpu") == CPU
    with pytest.raises(ConfigError, match=r"torch\.tensor_parallel_size: 4 ranks need .* but there are 2"):
        choose_device("auto", Ranks(0, 4))


@pytest.mark.parametrize("native", [True, False])
def test_dtypes(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


def test_quantizations_where_they_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"torch\.quantization: int8 is supported on CPUs only"):
        check_quantization("int8", GPU)
    with pytest.raises(ConfigError, match=r"torch\.quantization: fp8 needs a GPU; use int8"):
        check_quantization("fp8", CPU)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ConfigError, match=r"torch\.quantization: int8 needs a CPU"):
        check_quantization("int8", CPU)
    check_quantization("none", CPU)
    check_quantization("fp8", GPU)


@pytest.mark.parametrize("given", [None, FP8, INT4])
def test_a_cpu_computes_any_checkpoint(config: ModelConfig, given: WeightFormat | None) -> None:
    check_weights(dataclasses.replace(config, weight_format=given), "none", torch.float32, CPU, ALONE)


@pytest.mark.parametrize(
    ("wanted", "given", "needs"),
    [("fp8", None, (9, 0)), ("none", FP8, (9, 0)), ("fp8", FP8, (9, 0)), ("none", INT4, (8, 0))],
)
def test_gpus_and_dtypes_that_cannot_compute_a_checkpoint(
    config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    wanted: Quantization,
    given: WeightFormat | None,
    needs: tuple[int, int],
) -> None:
    subject = "torch.quantization: fp8" if wanted == "fp8" else f"This checkpoint of {given}"
    config = dataclasses.replace(config, weight_format=given, hidden_size=64)
    capability = needs
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    check_weights(config, wanted, torch.bfloat16, GPU, ALONE)
    with pytest.raises(ConfigError) as refused:
        check_weights(config, wanted, torch.float32, GPU, ALONE)
    assert str(refused.value).startswith(f"{subject} needs a GPU of compute capability {needs[0]}.0 and ")
    capability = (needs[0] - 1, 9)
    with pytest.raises(ConfigError, match="compute capability"):
        check_weights(config, wanted, torch.bfloat16, GPU, ALONE)


@pytest.mark.usefixtures("hopper")
def test_fp8_has_sizes_that_it_can_multiply(config: ModelConfig) -> None:
    fitting = dataclasses.replace(config, hidden_size=64, intermediate_size=96)
    check_weights(fitting, "fp8", torch.bfloat16, GPU, Ranks(0, 2))
    for wrong, ranks in ((config, ALONE), (dataclasses.replace(fitting, intermediate_size=48), Ranks(0, 2))):
        with pytest.raises(ConfigError, match=rf"multiples of 16.*tensor_parallel_size \({ranks.size}\)"):
            check_weights(wrong, "fp8", torch.bfloat16, GPU, ranks)


def test_a_quantized_checkpoint_is_not_quantized_again(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=r"torch\.quantization: fp8 cannot quantize .*; use none"):
        check_weights(dataclasses.replace(config, weight_format=INT4), "fp8", torch.bfloat16, CPU, ALONE)


def test_peer_access_is_that_of_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_P2P_DISABLE", raising=False)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda one, other: (one, other) != (2, 1))
    assert peer_access(2)
    assert not peer_access(3)
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert not peer_access(2)
