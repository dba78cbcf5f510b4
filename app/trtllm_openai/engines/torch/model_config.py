"""Parses config.json into the values that the model needs; rejects unsupported models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_openai.checkpoints.metadata import read_eos_token_ids, read_json, read_optional_json
from trtllm_openai.engines.torch.quantized.weight_format import MODELOPT_CONFIG, WeightFormat, weight_format
from trtllm_openai.errors import CheckpointError

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's scaling of the low RoPE frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder of the Llama family. `max_context` counts prompt + generated tokens."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_factor: float
    """Linear scaling: positions are divided by this factor."""
    llama3_scaling: Llama3Scaling | None
    max_context: int
    tied_embeddings: bool
    qk_norm: bool
    eos_token_ids: tuple[int, ...]
    weight_format: WeightFormat | None = None
    """None: not quantized."""


def read_config(directory: Path) -> ModelConfig:
    """Read `directory`/config.json, written by transformers 4 or 5. Raises `CheckpointError`."""
    raw = read_json(directory / "config.json")
    architecture = (raw.get("architectures") or ["unknown"])[0]
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"The torch engine does not support the architecture {architecture}; supported: "
            f"{', '.join(ARCHITECTURES)}."
        )
    given = weight_format(raw, read_optional_json(directory / MODELOPT_CONFIG))
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"The torch engine does not support the activation {raw['hidden_act']!r}, only silu."
        )
    try:
        return _config(raw, architecture, read_eos_token_ids(directory), given)
    except KeyError as error:
        raise CheckpointError(f"{directory / 'config.json'} lacks {error}.") from None


def _config(
    raw: dict[str, Any], architecture: str, eos_token_ids: tuple[int, ...], given: WeightFormat | None
) -> ModelConfig:
    heads = int(raw["num_attention_heads"])
    theta, factor, llama3 = _rope(raw)
    return ModelConfig(
        architecture=architecture,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_factor=factor,
        llama3_scaling=llama3,
        max_context=_max_context(raw),
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qk_norm=architecture == "Qwen3ForCausalLM",
        eos_token_ids=eos_token_ids,
        weight_format=given,
    )


def _max_context(raw: dict[str, Any]) -> int:
    """Limit the context to the sliding window, within which full attention is equivalent."""
    context = int(raw["max_position_embeddings"])
    window = raw.get("sliding_window") if raw.get("use_sliding_window", True) else None
    return min(context, int(window)) if window else context


def _rope(raw: dict[str, Any]) -> tuple[float, float, Llama3Scaling | None]:
    """Return base, linear factor and Llama 3 scaling. transformers 5 stores them in `rope_parameters`."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, 1.0, None
    if kind == "linear":
        return theta, float(rope["factor"]), None
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context=int(rope["original_max_position_embeddings"]),
        )
        return theta, 1.0, scaling
    raise CheckpointError(
        f"The torch engine does not support RoPE scaling of type {kind!r}; supported: default, linear "
        "and llama3."
    )
