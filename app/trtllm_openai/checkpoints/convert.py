"""Converts a GGUF file of the Llama architecture to a Hugging Face checkpoint.

Weights are written in bfloat16: every engine here computes in it, its relative rounding error (2^-9) is far
below that of the quantized formats, and float32 would double the file size and the load time. Norms are
bfloat16 too, since loaders expect one dtype for the whole checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor, dequantize

from trtllm_openai.checkpoints.gguf_tokenizer import end_token_ids, tokenizer_files
from trtllm_openai.checkpoints.safetensors_file import Floats, Load, write_bfloat16
from trtllm_openai.errors import CheckpointError

Progress = Callable[[float, str], None]

READING_SHARE = 0.3
"""Fraction of the progress bar for reading the metadata."""

GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
ROPE_FREQUENCIES = "rope_freqs.weight"
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def convert_gguf(path: Path, directory: Path, progress: Progress) -> None:
    """Convert `path` into `directory`. Raises `CheckpointError`, or OSError if writing fails."""
    progress(0.0, f"reading {path.name}")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise CheckpointError(f"The model file {path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged file raises ValueError, IndexError, OverflowError …
        raise CheckpointError(f"{path} is not a GGUF file, or is damaged or cut off ({error}).") from error
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"{path} holds a model of the architecture {architecture!r}, but only 'llama' can be converted: "
            "use the model's Hugging Face directory instead."
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    try:
        config = _config(fields, tensors)
        tokenizer, tokenizer_config = tokenizer_files(fields)
        weights = _weights(config, tensors)
        documents = {
            "config.json": config,
            "generation_config.json": _generation_config(config),
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": tokenizer_config,
        }
        for name, content in documents.items():
            (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

        def converting(fraction: float) -> None:
            progress(READING_SHARE + fraction * (1 - READING_SHARE), f"converting {path.name}")

        write_bfloat16(directory / "model.safetensors", weights, converting)
    except (KeyError, IndexError, TypeError, ValueError, NotImplementedError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be converted ({error})"
        raise CheckpointError(f"The GGUF file {path} {what}.") from error


def _config(fields: dict[str, Any], tensors: dict[str, ReaderTensor]) -> dict[str, Any]:
    """Contents of config.json. vocab_size is the number of embedding rows, including padding."""
    if fields.get("llama.expert_count"):
        raise CheckpointError("The GGUF file holds a mixture of experts, which cannot be converted.")
    hidden = int(fields["llama.embedding_length"])
    heads = int(fields["llama.attention.head_count"])
    head_dim = int(fields.get("llama.attention.key_length") or hidden // heads)
    if int(fields.get("llama.rope.dimension_count", head_dim)) != head_dim:
        raise CheckpointError("The GGUF file applies RoPE to a part of each attention head: not supported.")
    theta = float(fields.get("llama.rope.freq_base", 10000.0))
    end = end_token_ids(fields)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "hidden_size": hidden,
        "intermediate_size": int(fields["llama.feed_forward_length"]),
        "num_hidden_layers": int(fields["llama.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get("llama.attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": int(fields["llama.context_length"]),
        # Stored as float32: 1e-5 must not become 9.999999747378752e-06.
        "rms_norm_eps": float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(fields, tensors.get(ROPE_FREQUENCIES), theta, head_dim),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end[0] if len(end) == 1 else end or None,
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "bfloat16",
    }


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: config[key] for key in keys if config[key] is not None}


def _rope_scaling(
    fields: dict[str, Any], frequencies: ReaderTensor | None, theta: float, head_dim: int
) -> dict[str, Any] | None:
    """Linear or Llama 3.1 RoPE scaling. GGUF stores the latter as a tensor of divisors, not as parameters."""
    kind = fields.get("llama.rope.scaling.type", "none")
    factor = float(fields.get("llama.rope.scaling.factor", 1.0))
    if frequencies is not None:
        divisors = dequantize(frequencies.data, frequencies.tensor_type)
        scale = float(divisors.max())
        if np.allclose(divisors, _llama3_divisors(scale, theta, head_dim), rtol=1e-3):
            return {"rope_type": "llama3", "factor": scale, **LLAMA3_ROPE}
        raise CheckpointError("The GGUF file scales RoPE in a way that is not Llama 3's: not supported.")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "none" and factor != 1.0:
        raise CheckpointError(f"The GGUF file scales RoPE by {kind!r}: not supported.")
    return None


def _llama3_divisors(scale: float, theta: float, head_dim: int) -> Floats:
    """Divisors of the RoPE frequencies in Llama 3.1; shape [head_dim / 2]."""
    low, high = LLAMA3_ROPE["low_freq_factor"], LLAMA3_ROPE["high_freq_factor"]
    context = LLAMA3_ROPE["original_max_position_embeddings"]
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1 - smooth) / scale + smooth)).astype(np.float32)


def _weights(
    config: dict[str, Any], tensors: dict[str, ReaderTensor]
) -> dict[str, tuple[tuple[int, ...], Load]]:
    """Shape and loader for each Hugging Face name. Raises `CheckpointError` for a tensor it does not know."""
    names = {gguf: name for gguf, name in GLOBAL_NAMES.items() if gguf in tensors or gguf != "output.weight"}
    for layer in range(config["num_hidden_layers"]):
        for gguf, name in LAYER_NAMES.items():
            names[f"blk.{layer}.{gguf}"] = f"model.layers.{layer}.{name}"
    unknown = sorted(set(tensors) - set(names) - {ROPE_FREQUENCIES})
    if unknown:
        raise CheckpointError(
            f"The GGUF file has tensors that Llama does not have: {', '.join(unknown[:4])}."
        )
    weights: dict[str, tuple[tuple[int, ...], Load]] = {}
    for gguf, name in names.items():
        tensor = tensors[gguf]
        heads = 0
        if gguf.endswith("attn_q.weight"):
            heads = config["num_attention_heads"]
        elif gguf.endswith("attn_k.weight"):
            heads = config["num_key_value_heads"]
        weights[name] = (tuple(int(size) for size in reversed(tensor.shape)), _loader(tensor, heads))
    return weights


def _loader(tensor: ReaderTensor, heads: int) -> Load:
    def load() -> Floats:
        values: Floats = dequantize(tensor.data, tensor.tensor_type)
        return unpermute(values, heads) if heads else values

    return load


def unpermute(weight: Floats, heads: int) -> Floats:
    """Convert the rows of a q or k projection from llama.cpp's order to transformers'.

    For RoPE, llama.cpp pairs adjacent rows; transformers pairs row i of a head with row i + head_dim / 2.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
