"""The Llama family's decoder: token ids of a batch to logits.

Touvron et al., "LLaMA" (https://arxiv.org/abs/2302.13971); Mistral and Qwen 2 differ in what their
configuration says and in biases, Qwen 3 normalises the heads of q and k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from app.engines.torch.attention import attend
from app.engines.torch.batch import Batch
from app.engines.torch.kv_cache import KVCache
from app.engines.torch.linear import MIN_ROWS, Linear, make_linear
from app.engines.torch.model_config import ModelConfig
from app.engines.torch.rope import apply_rope, rope_tables
from app.engines.torch.weights import Weights


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer."""

    attention_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    attention_out: Linear
    mlp_norm: torch.Tensor
    gate: Linear
    up: Linear
    down: Linear


class Model:
    """A loaded decoder. `max_length`: positions it can be asked for."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Raises `CheckpointError` when `weights` are not those of `config`."""
        self._config = config
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = weights.take("model.embed_tokens.weight", *shape)
        self._layers = [_layer(config, weights, index) for index in range(config.layers)]
        self._norm = weights.take("model.norm.weight", config.hidden_size)
        if config.tied_embeddings:
            weights.drop("lm_head.weight")
            head = self._embedding
        else:
            head = weights.take("lm_head.weight", *shape)
        self._head = make_linear(head, None)
        weights.check_all_taken()
        self._cos, self._sin = rope_tables(config, max_length, dtype, device)

    def __call__(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        """The last layer's output [rows, hidden]; keys and values of all rows go to `cache`."""
        config = self._config
        rows = len(batch.token_ids)
        heads, kv_heads, dim = config.heads, config.kv_heads, config.head_dim
        cos = self._cos.index_select(0, batch.positions)
        sin = self._sin.index_select(0, batch.positions)
        x = F.embedding(batch.token_ids, self._embedding)
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            qkv = layer.qkv(self._rms_norm(x, layer.attention_norm)).view(rows, heads + 2 * kv_heads, dim)
            if layer.q_norm is not None and layer.k_norm is not None:
                qkv[:, :heads] = self._rms_norm(qkv[:, :heads], layer.q_norm)
                qkv[:, heads:-kv_heads] = self._rms_norm(qkv[:, heads:-kv_heads], layer.k_norm)
            apply_rope(qkv[:, :-kv_heads], cos, sin)
            kv.flatten(0, 1).index_copy_(0, batch.slots, qkv[:, heads:].view(rows, 2, kv_heads, dim))
            x = layer.attention_out.plus(attend(qkv, kv, batch, heads), x)
            normed = self._rms_norm(x, layer.mlp_norm)
            x = layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), x)
        return x

    def logits(self, x: torch.Tensor, sample_rows: torch.Tensor) -> torch.Tensor:
        """float32 logits [len(sample_rows), vocab_size] of some rows of `x`, which a call returned."""
        wanted = len(sample_rows)
        if wanted < MIN_ROWS:
            sample_rows = F.pad(sample_rows, (0, MIN_ROWS - wanted))
        last = self._rms_norm(x.index_select(0, sample_rows), self._norm)
        return self._head(last)[:wanted].float()

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self._config.norm_eps)


def _layer(config: ModelConfig, weights: Weights, index: int) -> Layer:
    prefix = f"model.layers.{index}."
    hidden, dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    q, kv = config.heads * dim, config.kv_heads * dim

    def linear(name: str, outputs: int, inputs: int) -> Linear:
        return make_linear(
            weights.take(f"{prefix}{name}.weight", outputs, inputs),
            weights.take(f"{prefix}{name}.bias", outputs) if weights.has(f"{prefix}{name}.bias") else None,
        )

    def head_norm(name: str) -> torch.Tensor | None:
        return weights.take(f"{prefix}self_attn.{name}.weight", dim) if config.qk_norm else None

    return Layer(
        attention_norm=weights.take(f"{prefix}input_layernorm.weight", hidden),
        qkv=_fused_qkv(weights, f"{prefix}self_attn.", {"q_proj": q, "k_proj": kv, "v_proj": kv}, hidden),
        q_norm=head_norm("q_norm"),
        k_norm=head_norm("k_norm"),
        attention_out=linear("self_attn.o_proj", hidden, q),
        mlp_norm=weights.take(f"{prefix}post_attention_layernorm.weight", hidden),
        gate=linear("mlp.gate_proj", inner, hidden),
        up=linear("mlp.up_proj", inner, hidden),
        down=linear("mlp.down_proj", hidden, inner),
    )


def _fused_qkv(weights: Weights, prefix: str, sizes: dict[str, int], hidden: int) -> Linear:
    """q, k and v in one product. Either all have a bias or none."""
    weight = torch.cat([weights.take(f"{prefix}{name}.weight", size, hidden) for name, size in sizes.items()])
    bias = None
    if weights.has(f"{prefix}q_proj.bias"):
        bias = torch.cat([weights.take(f"{prefix}{name}.bias", size) for name, size in sizes.items()])
    return make_linear(weight, bias)
