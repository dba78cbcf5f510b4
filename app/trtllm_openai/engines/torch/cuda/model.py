"""The Llama family's decoder on an NVIDIA GPU: rows of tokens to logits, in as few kernels as possible.

One row goes through kernels of its own that fuse a layer's small operations into its matrix products; more
rows through cuBLAS, with fused kernels between the products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trtllm_openai.engines.torch.cuda.kernels.embedding import embed
from trtllm_openai.engines.torch.cuda.kernels.norm import add_rms_norm
from trtllm_openai.engines.torch.cuda.kernels.rope import rope_and_store
from trtllm_openai.engines.torch.cuda.projection import Projection
from trtllm_openai.engines.torch.kv_cache import KVCache
from trtllm_openai.engines.torch.model_config import ModelConfig
from trtllm_openai.engines.torch.rope import rope_tables
from trtllm_openai.engines.torch.weight_source import WeightSource

Attend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(qkv [rows, heads + 2 kv_heads, dim], a layer's cache) → [rows, heads * dim]"""


@dataclass(frozen=True, slots=True)
class Rows:
    """A step's input, all int32 [rows] on the device.

    `tokens`: below zero where the host does not know it yet: then it is the last one of the row's `sequences`
    entry. `slots`: where keys and values go, block * block_size + offset.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    sequences: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: torch.Tensor
    qkv: Projection
    head_norms: tuple[torch.Tensor, torch.Tensor, float] | None
    attention_out: Projection
    mlp_norm: torch.Tensor
    gate_up: Projection
    down: Projection


class CudaModel:
    """A loaded decoder. `max_length`: positions it can be asked for."""

    def __init__(
        self,
        config: ModelConfig,
        weights: WeightSource,
        max_length: int,
        device: torch.device,
        fp8: bool,
    ) -> None:
        """Raises `CheckpointError` when `weights` are not those of `config`."""
        self._config = config
        self._eps = config.norm_eps
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = weights.take("model.embed_tokens.weight", *shape)
        self._layers = [_layer(config, weights, index, fp8) for index in range(config.layers)]
        self._norm = weights.take("model.norm.weight", config.hidden_size)
        if config.tied_embeddings:
            weights.drop("lm_head.weight")
            head = self._embedding
        else:
            head = weights.take("lm_head.weight", *shape)
        self._head = Projection(head, None, fp8=False)  # rounding it costs the most and saves the least
        weights.check_all_taken()
        half = config.head_dim // 2
        cos, sin = rope_tables(config, max_length, torch.float32, device)
        self._tables = cos[:, 0, half:].contiguous(), sin[:, 0, half:].contiguous()

    def __call__(self, rows: Rows, last_tokens: torch.Tensor, cache: KVCache, attend: Attend) -> torch.Tensor:
        """The last layer's output [rows, hidden], not normalised; `cache` gets keys and values."""
        x = embed(rows.tokens, rows.sequences, last_tokens, self._embedding)
        if len(x) == 1:
            return self._one(x, rows, cache, attend)
        delta = None
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            qkv = layer.qkv.after_norm(x, delta, layer.attention_norm, self._eps)
            delta = layer.attention_out(self._attention(qkv, kv, layer, rows, attend))
            gate_up = layer.gate_up.after_norm(x, delta, layer.mlp_norm, self._eps)
            delta = layer.down.after_swiglu(gate_up)
        return x.add_(delta) if delta is not None else x

    def _one(self, x: torch.Tensor, rows: Rows, cache: KVCache, attend: Attend) -> torch.Tensor:
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            qkv = layer.qkv.one(x, norm=(layer.attention_norm, self._eps))
            attended = self._attention(qkv, kv, layer, rows, attend)
            x = layer.attention_out.one(attended, addend=x)
            product = layer.gate_up.one(x, norm=(layer.mlp_norm, self._eps), swiglu=True)
            x = layer.down.one(product, addend=x)
        return x

    def _attention(
        self, qkv: torch.Tensor, kv: torch.Tensor, layer: Layer, rows: Rows, attend: Attend
    ) -> torch.Tensor:
        config = self._config
        qkv = qkv.view(len(qkv), config.heads + 2 * config.kv_heads, config.head_dim)
        rope_and_store(qkv, kv, rows.positions, rows.slots, self._tables, layer.head_norms)
        return attend(qkv, kv)

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [rows, vocab_size], of the model's dtype, of all or some rows of what a call returned."""
        if sample_rows is not None:
            x = x.index_select(0, sample_rows)
        if len(x) == 1:
            return self._head.one(x, norm=(self._norm, self._eps))
        return self._head(add_rms_norm(x, None, self._norm, self._eps))


def _layer(config: ModelConfig, weights: WeightSource, index: int, fp8: bool) -> Layer:
    prefix = f"model.layers.{index}."
    hidden, dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    q, kv = config.heads * dim, config.kv_heads * dim

    def project(inputs: int, **outputs: int) -> Projection:
        """The matrices called by these names as one; either all of them have a bias or none."""
        parts = [
            weights.take(f"{prefix}{_place(name)}.weight", size, inputs) for name, size in outputs.items()
        ]
        biases = [
            weights.take(f"{prefix}{_place(name)}.bias", size)
            for name, size in outputs.items()
            if weights.has(f"{prefix}{_place(name)}.bias")
        ]
        return Projection(torch.cat(parts), torch.cat(biases) if biases else None, fp8=fp8)

    head_norms = None
    if config.qk_norm:
        head_norms = (
            weights.take(f"{prefix}self_attn.q_norm.weight", dim),
            weights.take(f"{prefix}self_attn.k_norm.weight", dim),
            config.norm_eps,
        )
    return Layer(
        attention_norm=weights.take(f"{prefix}input_layernorm.weight", hidden),
        qkv=project(hidden, q_proj=q, k_proj=kv, v_proj=kv),
        head_norms=head_norms,
        attention_out=project(q, o_proj=hidden),
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight", hidden),
        gate_up=project(hidden, gate_proj=inner, up_proj=inner),
        down=project(inner, down_proj=hidden),
    )


def _place(name: str) -> str:
    return f"{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}"
