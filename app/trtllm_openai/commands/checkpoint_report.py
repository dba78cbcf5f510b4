"""What `inspect` says of a Hugging Face checkpoint: sizes, memory, formats, and what can serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtllm_openai.chat import ChatFormat
from trtllm_openai.checkpoints.metadata import read_json, read_optional_json
from trtllm_openai.checkpoints.weight_files import count_weights
from trtllm_openai.errors import CheckpointError
from trtllm_openai.serve.sampling_defaults import of_model
from trtllm_openai.text.tokenizer import Tokenizer

GIB = 2**30
GPUS = {
    "24 GB (RTX 4090, L4, A10)": 24,
    "48 GB (L40S, A6000)": 48,
    "80 GB (A100, H100)": 80,
    "141 GB (H200)": 141,
    "180 GB (B200)": 180,
}
"""Memory of GPUs in 10^9 bytes."""
USABLE = 0.9
"""Share of it that weights and KV cache may take, as `torch.kv_cache_memory_fraction` has it."""
WORKSPACE = 2 * 10**9
"""Bytes that a rank needs beside them: CUDA context, activations, graphs."""
RANKS = (1, 2, 4, 8)


def checkpoint_facts(directory: Path) -> dict[str, Any]:
    """The properties of a checkpoint directory. Raises `CheckpointError`."""
    raw = read_json(directory / "config.json")
    text = raw.get("text_config") or raw
    weights = count_weights(directory)
    kv_bytes = kv_bytes_per_token(text)
    context = int(text.get("max_position_embeddings") or 0)
    heads = int(text.get("num_attention_heads") or 0)
    facts: dict[str, Any] = {
        "path": str(directory),
        "architecture": (raw.get("architectures") or ["unknown"])[0],
        "served_by": served_by(directory),
        "parameters": weights.parameters,
        "dtype": weights.dtypes[0] if weights.dtypes else None,
        "quantization": quantization(directory, raw),
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "heads": heads,
        "kv_heads": text.get("num_key_value_heads") or heads,
        "vocab_size": text.get("vocab_size"),
        "max_seq_len": context,
        **_formats(directory),
        "default_sampling": of_model([directory]),
        "weights_bytes": weights.size,
        "kv_cache_bytes_per_token": kv_bytes,
        "kv_cache_bytes_per_full_sequence": kv_bytes * context,
    }
    if weights.size:
        facts["fits"] = fits(weights.size, kv_bytes, heads)
    return facts


def served_by(directory: Path) -> str:
    """The engines that load it, or why the torch engine does not."""
    from trtllm_openai.engines.torch.model_config import read_config

    try:
        read_config(directory)
    except CheckpointError as error:
        return f"tensorrt_llm_pytorch, if TensorRT-LLM knows it. {error}"
    return "torch, tensorrt_llm_pytorch"


def quantization(directory: Path, raw: dict[str, Any]) -> str | None:
    """How the weights are quantized; only the method's name where the torch engine does not support it."""
    from trtllm_openai.engines.torch.quantized.weight_format import (
        MODELOPT_CONFIG,
        quantization_method,
        weight_format,
    )

    modelopt = read_optional_json(directory / MODELOPT_CONFIG)
    found = quantization_method(raw, modelopt)
    if found is None:
        return None
    try:
        supported = weight_format(raw, modelopt)
    except CheckpointError:
        return found[0]
    return None if supported is None else str(supported)


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes of one token's keys and values in 16 bits; 0 if config.json does not tell."""
    layers = int(config.get("num_hidden_layers") or 0)
    if latent := config.get("kv_lora_rank"):  # multi-head latent attention: one vector for all heads
        return layers * (int(latent) + int(config.get("qk_rope_head_dim") or 0)) * 2
    heads = int(config.get("num_attention_heads") or 0)
    if not heads:
        return 0
    head_dim = int(config.get("head_dim") or config.get("hidden_size", 0) // heads)
    return 2 * layers * int(config.get("num_key_value_heads") or heads) * head_dim * 2


def fits(weights: int, kv_bytes: int, heads: int) -> dict[str, dict[str, int] | None]:
    """For each kind of GPU the fewest that hold the weights, and the tokens of KV cache beside them.

    `weights` and `kv_bytes` (of one token) in bytes, over all ranks. None: 8 are not enough.
    """
    found: dict[str, dict[str, int] | None] = {}
    for name, gigabytes in GPUS.items():
        found[name] = None
        for ranks in RANKS:
            room = ranks * (gigabytes * 10**9 * USABLE - WORKSPACE) - weights
            if room > 0.05 * weights and (not heads or heads % ranks == 0):
                found[name] = {"gpus": ranks, "kv_cache_tokens": int(room // kv_bytes) if kv_bytes else 0}
                break
    return found


def _formats(directory: Path) -> dict[str, Any]:
    try:
        tokenizer = Tokenizer.load(directory)
        chat = ChatFormat(tokenizer, "auto", "auto")
    except CheckpointError as error:
        return {"tokenizer": f"cannot be used: {error}"}
    return {
        "tokenizer": f"{tokenizer.vocab_size} tokens",
        "chat_template": bool(tokenizer.chat_template),
        "tool_format": chat.tool_format,
        "reasoning_format": chat.reasoning_format,
    }
